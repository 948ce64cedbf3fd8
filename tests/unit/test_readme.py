"""The README names what is there: every module is on its map, every module on the map exists, every setting it mentions is one."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from mutual_forcing.orchestration.recipes import RECIPES, recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FOLDERS = ("orchestration", "workers", "datasets", "model")


def section(folder: str) -> str:
    """The lines of the map that belong to a folder: from its own to the next that is not indented."""
    block = README.split("## Map of the files")[1].split("```")[1]
    return re.split(r"\n(?=\S)", block[block.index(f"\n{folder}/") + 1 :])[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_is_on_the_map(folder: str) -> None:
    words = set(re.findall(r"[a-z_]+", section(folder)))
    for path in (ROOT / folder).glob("*.py"):
        assert path.stem == "__init__" or path.stem in words, f"{folder}/{path.stem} is not on the map"


@pytest.mark.parametrize(
    "room", sorted(path.parent.relative_to(ROOT).as_posix() for f in FOLDERS for path in (ROOT / f).glob("*/__init__.py"))
)
def test_every_room_is_on_the_map_with_its_modules(room: str) -> None:
    """By its own lines: from its name to the next line that is indented as little."""
    folder, name = room.split("/")
    found = re.search(rf"^ *(?:.*\b)?{name}/.*?(?=^ {{0,2}}\S|\Z)", section(folder), re.MULTILINE | re.DOTALL)
    assert found, f"{room} is not on the map"
    if folder != "model":  # whose codecs are told by their names in the field
        words = set(re.findall(r"[a-z_]+", found[0]))
        missing = {path.stem for path in (ROOT / room).glob("*.py")} - words - {"__init__"}
        assert not missing, f"{room}: {missing} are not on the map"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_room_on_the_map_exists(folder: str) -> None:
    for name in re.findall(r"^  ([a-z]+)/ ", section(folder), re.MULTILINE):
        assert (ROOT / folder / name / "__init__.py").is_file(), f"{folder}/{name} is on the map alone"


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:orchestration|workers|datasets|model|benchmarks)/\w+)(?:\.py)?`", README))))
def test_a_file_that_is_named_exists(path: str) -> None:
    assert (ROOT / f"{path}.py").is_file() or (ROOT / path).is_dir()


@pytest.mark.parametrize(
    "setting", sorted(set(re.findall(r"[` ]((?:objective|workers|rollouts|stages|samples)(?:\.[a-z_]+)+)[`=]", README)))
)
def test_a_setting_that_is_named_exists(setting: str) -> None:
    node: Any = asdict(recipe("demo"))
    for part in setting.split("."):
        node = next(s for s in node if s["name"] == part) if isinstance(node, list | tuple) else node[part]


@pytest.mark.parametrize("folder", ["orchestration", "workers", "datasets"])
def test_no_line_of_the_map_is_there_twice(folder: str) -> None:
    """By what the line begins with: names of files, before the words about them."""
    names = [re.split(r"\s{2,}", line.strip())[0] for line in section(folder).splitlines() if re.match(r" {2}\S", line)]
    assert len(names) > 10
    assert sorted(names) == sorted(set(names))


def test_every_benchmark_is_on_the_map() -> None:
    words = set(re.findall(r"[a-z]+", section("benchmarks")))
    assert {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")} <= words


def test_every_recipe_is_named() -> None:
    assert all(f"`{name}`" in README for name in RECIPES)
