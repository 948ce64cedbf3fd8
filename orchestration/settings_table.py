"""Every setting that `--set` takes, with its type, its default and what it is, read from the dataclasses that make a `RunConfig`.

What a setting is stands in its class's docstring, once: `name: what it is; other, another: what they are`. Text before the first of
them is about the section.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from .config import RunConfig

WORDS = {int: "integer", float: "number", bool: "true or false", str: "text", NoneType: "null"}


@dataclass(frozen=True)
class Setting:
    """key: as `--set` takes it; default: as YAML, empty where every recipe must give it; doc: what it is, in Markdown."""

    key: str
    type: str
    default: str
    doc: str


@dataclass(frozen=True)
class Section:
    """Settings of one dataclass. key: what stands before their names, empty at the top; about: what the section is, in Markdown."""

    key: str
    about: str
    settings: tuple[Setting, ...]


def sections(kind: type = RunConfig, key: str = "", default: Any = MISSING) -> Iterator[Section]:
    """A section for `kind` and for each dataclass that it holds, from the top to the bottom.

    Args:
        kind: a dataclass.
        key: its name in `--set`; stages stand as `stages.NAME`.
        default: what it is by default, where it is not what the class makes by itself.
    """
    types = get_type_hints(kind)
    about, docs = _docs(kind)
    own, below = [], []
    for field in fields(kind):
        name = f"{key}.{field.name}".lstrip(".")
        value = _default(field) if default is MISSING else getattr(default, field.name)
        inner = get_args(types[field.name])[:1] if get_origin(types[field.name]) is tuple else (types[field.name],)
        if is_dataclass(inner[0]):
            is_list = inner[0] is not types[field.name]
            below.append((inner[0], f"{name}.NAME" if is_list else name, MISSING if is_list else value))
        else:
            own.append(Setting(name, type_words(types[field.name]), yaml_words(value), docs.get(field.name, "")))
    yield Section(key, about, tuple(own))
    for inner_kind, name, value in below:
        yield from sections(inner_kind, name, value)


def type_words(kind: Any) -> str:
    """A type in words, choices in backquotes.

    Raises:
        TypeError: no setting has had such a type so far.
    """
    origin, of = get_origin(kind), get_args(kind)
    if kind in WORDS:
        return WORDS[kind]
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in of)
    if origin in (Union, UnionType):
        return " or ".join(type_words(one) for one in of)
    if origin is tuple and of[-1] is Ellipsis:
        return f"list of {type_words(of[0])}"
    if origin is tuple:
        return " and ".join(type_words(one) for one in of)
    raise TypeError(f"settings_table: no words for the type {kind}")


def yaml_words(value: Any) -> str:
    """A value as `--set` takes it; empty if there is none."""
    if value is MISSING:
        return ""
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _docs(kind: type) -> tuple[str, Mapping[str, str]]:
    """What a docstring says of the class, and of each of its fields."""
    text = cleandoc(kind.__doc__ or "")
    names = "|".join(sorted((field.name for field in fields(kind)), key=len, reverse=True))
    labels = list(re.finditer(rf"(?:^|(?<=[.;)]\s)|(?<=\n))((?:{names})(?:, (?:{names}))*):\s", text))
    about = text[: labels[0].start()] if labels else text
    docs: dict[str, str] = {}
    for label, end in zip(labels, [*(label.start() for label in labels[1:]), len(text)], strict=False):
        docs |= dict.fromkeys(label[1].split(", "), _one_line(text[label.end() : end]))
    return _one_line(about), docs


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(";.")


def undocumented(found: Sequence[Section]) -> list[str]:
    """Settings of which nobody says what they are."""
    return [setting.key for section in found for setting in section.settings if not setting.doc]
