"""Every setting says what it is, under the key and with the value that `--set` takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest
import yaml

from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.orchestration.config import RunConfig, with_settings
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.settings_table import Section, Setting, sections, type_words, undocumented, yaml_words

SETTINGS = {setting.key: setting for section in sections() for setting in section.settings}


def leaves(tree: Any, key: str = "") -> set[str]:
    """Keys of all values of a run; its stages are one."""
    if isinstance(tree, dict):
        return {leaf for name, value in tree.items() for leaf in leaves(value, f"{key}.{name}".lstrip("."))}
    if key == "stages":
        return {leaf for stage in tree for leaf in leaves(stage, "stages.NAME")}
    return {key}


def test_they_are_the_fields_of_a_run() -> None:
    assert set(SETTINGS) == leaves(asdict(recipe("tiny")))


def test_each_says_what_it_is() -> None:
    assert undocumented(list(sections())) == [], "write `name: what it is` into the docstring of its dataclass"
    assert [section.key for section in sections() if not section.about] == []


def test_defaults_are_taken_by_set() -> None:
    """What has a default is set to it, all at once, one stage of a recipe included."""
    given = {key.replace("NAME", "joint"): setting.default for key, setting in SETTINGS.items() if setting.default}
    given["model.window"] = "4"  # its default does not go with that of data.clip_chunks
    config = with_settings(recipe("tiny"), [f"{key}={value}" for key, value in given.items()])
    joint = next(stage for stage in config.stages if stage.name == "joint")
    assert config == RunConfig(config.name, config.stages, model=TransformerConfig(window=4))
    assert (joint.ema, joint.optimizer) == (0.999, type(joint.optimizer)())


@dataclass(frozen=True)
class Inner:
    """What is inside. width, height: in pixels;
    depth: layers of `width` each (1: none). Others are not
    told of.
    """

    width: int = 1
    height: int = 2
    depth: int | None = None
    colour: Literal["red", "blue"] = "red"


@dataclass(frozen=True)
class Outer:
    """What is around it: it has no settings of its own."""

    inner: Inner = field(default_factory=lambda: Inner(width=7))
    many: tuple[Inner, ...] = ()


def test_a_docstring_is_read_field_by_field() -> None:
    around, inner, many = sections(Outer)
    assert around == Section("", "What is around it: it has no settings of its own", ())
    assert inner == Section(
        "inner",
        "What is inside",
        (
            Setting("inner.width", "integer", "7", "in pixels"),
            Setting("inner.height", "integer", "2", "in pixels"),
            Setting("inner.depth", "integer or null", "null", "layers of `width` each (1: none). Others are not told of"),
            Setting("inner.colour", "`red` or `blue`", "red", ""),
        ),
    )
    assert many.settings[0] == Setting("many.NAME.width", "integer", "1", "in pixels")
    assert undocumented([inner]) == ["inner.colour"]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tuple[str, ...], "list of text"),
        (tuple[float, float], "number and number"),
        (str | tuple[str, ...], "text or list of text"),
        (float | None, "number or null"),
        (int | Literal["auto"], "integer or `auto`"),
    ],
)
def test_types_are_words(kind: Any, words: str) -> None:
    assert type_words(kind) == words


def test_an_unknown_type_is_not_guessed() -> None:
    with pytest.raises(TypeError, match="dict"):
        type_words(dict[str, int])


@pytest.mark.parametrize("value", [1, 0.5, 5e-5, "", "a: b", True, None, ("x", "y"), (0.25, 20.0), ()])
def test_values_come_back_from_yaml(value: Any) -> None:
    assert yaml.safe_load(yaml_words(value)) == (list(value) if isinstance(value, tuple) else value)
