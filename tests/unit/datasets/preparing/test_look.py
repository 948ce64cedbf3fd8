"""A first look tells what is of no use from what could not be read, which the next job tries again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, write_corpus
from mutual_forcing.datasets.format.account import UNREAD
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.intake.sources import Source
from mutual_forcing.datasets.preparing.commit import line_of
from mutual_forcing.datasets.preparing.look import Look, looked_of


@pytest.mark.parametrize(("name", "stage"), [("gone.mp4", UNREAD), ("link.mp4", UNREAD), ("empty.mp4", "probe")])
def test_a_file_that_is_not_there_was_not_read(tmp_path: Path, name: str, stage: str) -> None:
    """It went after it was listed, or lies on a disk that this machine does not have."""
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    looked = Look(DataConfig(media=str(tmp_path))).look(Source(name, str(tmp_path / name), ""))
    assert looked.stage == stage
    assert looked.reason in ("cannot be read (No such file or directory)", "the file is empty")


def test_what_lies_beside_a_source_gives_it_tags_in_the_account(tmp_path: Path) -> None:
    """Its licence above all, which an export of the weights counts."""
    write_corpus(SyntheticConfig(count=1, seconds=1.0, width=32, height=32), tmp_path)
    [media] = tmp_path.glob("*.mp4")
    beside = media.with_suffix(".json")
    beside.write_text(json.dumps(json.loads(beside.read_text()) | {"license": "CC0-1.0", "speaker": "7"}))
    [source] = sources_of([str(media)])
    looked = Look(DataConfig(media=str(tmp_path), width=32, height=32, clip_chunks=1)).look(source)
    assert looked.reason == ""
    assert dict(looked.tags).items() >= {"licence": "CC0-1.0", "speaker": "7"}.items()
    assert looked_of(looked.to_json()) == looked
    assert line_of(source, looked, None, 1).tags == looked.tags
