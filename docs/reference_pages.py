"""The generated parts of the reference, as Markdown: settings, commands, and modules with what their docstrings say.

A page holds a line `<!-- generated: settings -->`; `conf.py` puts in its place what is made here. Settings come from the dataclasses and
commands from the program itself; modules are read from the syntax tree (griffe), so that none is imported.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from textwrap import dedent
from typing import Any

import griffe
import typer
import typer.cli

from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.settings_table import Section, sections, yaml_words

ROOT = Path(__file__).resolve().parents[1]
MARKER = re.compile(r"^<!-- generated: (?P<what>[a-z ]+) -->$", re.MULTILINE)
SHOWN = "demo"  # the recipe whose own values stand beside the defaults


def filled(text: str) -> str:
    """A page with its generated parts.

    Raises:
        KeyError: a marker names nothing that is generated.
    """
    makers = {
        "settings": settings,
        "commands": commands,
        "benchmarks": benchmarks,
        **{f"modules {folder}": lambda folder=folder: modules(folder) for folder in ("model", "datasets", "workers", "orchestration")},
    }
    return MARKER.sub(lambda match: makers[match["what"]](), text)


def settings() -> str:
    """A table a section."""
    own = asdict(recipe(SHOWN))
    return "\n".join(line for section in sections() for line in _settings_section(section, own))


def _settings_section(section: Section, own: dict[str, Any]) -> Iterator[str]:
    if not section.settings:
        return
    yield f"\n## {section.key or 'The run'}\n"
    yield f"{escaped(section.about)}.\n"
    yield f"| setting, type | default (`{SHOWN}`) | what it is |"
    yield "|---|---|---|"
    for setting in section.settings:
        theirs = _of_recipe(own, setting.key)
        cells = (
            f'<span id="{setting.key}"></span>`{setting.key}` <span class="type">{setting.type}</span>',
            (code(setting.default) or "the recipe's") + (f" ({code(theirs)})" if theirs != setting.default else ""),
            escaped(setting.doc),
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _of_recipe(tree: Any, key: str) -> str:
    """A recipe's own value; of stages one after the other, or one where all have the same."""
    if not key.startswith("stages.NAME."):
        return yaml_words(_at(tree, key.split(".")))
    values = [yaml_words(_at(stage, key.split(".")[2:])) for stage in tree["stages"]]
    return values[0] if len(set(values)) == 1 else ", ".join(values)


def _at(tree: Any, path: list[str]) -> Any:
    for part in path:
        tree = tree[part]
    return tree


def commands() -> str:
    """The help of every verb, as `typer utils docs` writes it."""
    command = typer.main.get_command(app)
    text = typer.cli.get_docs_for_click(obj=command, ctx=typer.Context(command), name="mutual-forcing")
    _, _, text = text.partition("**Commands**:")
    _, _, text = text.partition("\n## ")  # what stands before is said by hand
    text = re.sub(r"^Example: (.*)$", r"```\n\1\n```", html.unescape(f"## {text}"), flags=re.MULTILINE)
    text = re.sub(r"^\* `--help`.*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"\*\*Options\*\*:\n\n(?=\n|#|`)", "", text)


def benchmarks() -> str:
    """A row a benchmark, with the first line of its docstring."""
    rows = []
    for path in sorted((ROOT / "benchmarks").glob("[a-z]*.py")):
        text = griffe.visit(path.stem, filepath=path, code=path.read_text(encoding="utf-8")).docstring
        rows.append(f"| `bench {path.stem}` | {escaped(text.value.splitlines()[0]) if text else ''} |")
    return "\n".join(["| command | what it measures |", "|---|---|", *rows])


def modules(folder: str) -> str:
    """Every module of a folder that says what it is."""
    parts = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.name.startswith("_"):
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        parts += _module(griffe.visit(path.stem, filepath=path, code=path.read_text(encoding="utf-8")), name)
    return "\n\n".join(parts)


def _module(module: griffe.Module, name: str) -> Iterator[str]:
    yield f"## {name}"
    if module.docstring:
        yield prose(module.docstring.value)
    for member in module.members.values():
        if member.is_alias or member.name.startswith("_") or member.docstring is None:
            continue
        if isinstance(member, griffe.Class):
            yield from _class(member)
        elif isinstance(member, griffe.Function):
            yield f"```python\n{_signature(member)}\n```"
            yield _indented(prose(member.docstring.value))


def _class(found: griffe.Class) -> Iterator[str]:
    bases = f"({', '.join(map(str, found.bases))})" if found.bases else ""
    fields = [f"    {x.name}: {x.annotation}{f' = {x.value}' if x.value is not None else ''}" for x in _fields(found)]
    yield "```python\n" + "\n".join([f"class {found.name}{bases}:", *fields]).rstrip(":" if not fields else "") + "\n```"
    yield _indented(prose(found.docstring.value if found.docstring else ""))
    for member in found.members.values():
        if isinstance(member, griffe.Function) and not member.name.startswith("_") and member.docstring:
            yield f"```python\n{found.name}.{_signature(member).removeprefix('def ')}\n```"
            yield _indented(prose(member.docstring.value))


def _fields(found: griffe.Class) -> list[griffe.Attribute]:
    """What a dataclass is made from."""
    if not any(str(x.value).startswith("dataclass") for x in found.decorators):
        return []
    return [
        x
        for x in found.members.values()
        if isinstance(x, griffe.Attribute) and x.annotation is not None and "property" not in x.labels and not x.name.startswith("_")
    ]


def _signature(function: griffe.Function) -> str:
    given = []
    for x in function.parameters:
        star = "*" if x.kind is griffe.ParameterKind.var_positional else "**" if x.kind is griffe.ParameterKind.var_keyword else ""
        if x.kind is griffe.ParameterKind.keyword_only and "*" not in given and not any(g.startswith("*") for g in given):
            given.append("*")
        default = f" = {x.default}" if x.default is not None and not star else ""
        kind = re.sub(r"^Annotated\[(.*?), .*\]$", r"\1", str(x.annotation or ""))
        given.append(f"{star}{x.name}{f': {kind}' if kind else ''}{default}")
    returns = f" -> {function.returns}" if function.returns else ""
    line = f"def {function.name}({', '.join(given)}){returns}"
    return line if len(line) <= 110 else f"def {function.name}(\n    " + ",\n    ".join(given) + f",\n){returns}"


def _indented(text: str) -> str:
    """Under the signature that it belongs to."""
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def prose(docstring: str) -> str:
    """A docstring as Markdown: indented lines are drawings, sections such as `Raises:` become lists, everything else is text."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip("\n")):
        lines = paragraph.splitlines()
        heading = re.fullmatch(r"(Raises|Args|Returns|Yields|Attributes):", lines[0].strip())
        if heading and len(lines) > 1:
            parts.append(f"**{heading[1]}**\n\n" + _entries(dedent("\n".join(lines[1:]))))
        elif re.match(r"\s*(\* |- |\d+\. )", lines[0]):
            parts.append("\n".join(re.sub(r"^(\s*(?:\* |- |\d+\. )?)(.*)$", lambda m: m[1] + escaped(m[2]), line) for line in lines))
        else:
            parts += _text_and_drawings(lines)
    return "\n\n".join(parts)


def _entries(text: str) -> str:
    """Lines `name: what`, with their continuations, as a list."""
    joined = re.sub(r"\n\s+", " ", text.strip())
    return "\n".join(f"* {escaped(line)}" for line in joined.splitlines())


def _text_and_drawings(lines: list[str]) -> Iterator[str]:
    drawn = [line.startswith("  ") for line in lines]
    if len(lines) > 1 and drawn[1] and not drawn[0] and not lines[0].rstrip().endswith((":", ".")):
        drawn = [True] * len(lines)  # the first line belongs to the drawing
    start = 0
    for end in range(1, len(lines) + 1):
        if end == len(lines) or drawn[end] != drawn[start]:
            part = "\n".join(lines[start:end])
            yield f"```text\n{dedent(part)}\n```" if drawn[start] else escaped(part)
            start = end


def escaped(text: str) -> str:
    """Text in which Markdown sees backquotes alone."""
    parts = re.split(r"(`[^`\n]+`)", text)
    return "".join(part if i % 2 else re.sub(r"([\\*_\[\]<>$#~^|`{}])", r"\\\1", part) for i, part in enumerate(parts))


def code(text: str) -> str:
    return f"`{text}`" if text else ""
