"""A first look tells what is of no use from what could not be read, which the next job tries again."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.format.account import UNREAD
from mutual_forcing.datasets.intake.sources import Source
from mutual_forcing.datasets.preparing.look import Look


@pytest.mark.parametrize(("name", "stage"), [("gone.mp4", UNREAD), ("link.mp4", UNREAD), ("empty.mp4", "probe")])
def test_a_file_that_is_not_there_was_not_read(tmp_path: Path, name: str, stage: str) -> None:
    """It went after it was listed, or lies on a disk that this machine does not have."""
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "gone.mp4")
    looked = Look(DataConfig(media=str(tmp_path))).look(Source(name, str(tmp_path / name), ""))
    assert looked.stage == stage
    assert looked.reason in ("cannot be read (No such file or directory)", "the file is empty")
