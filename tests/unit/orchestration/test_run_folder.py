"""A run folder is taken only where nothing else is, and nobody else works."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from mutual_forcing.datasets.places.lock import LOCK, locked
from mutual_forcing.orchestration.launch import train
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.run_folder import require_ours


def test_a_training_claims_no_folder_in_which_another_works(tmp_path: Path) -> None:
    with (tmp_path / LOCK).open("w") as other:
        other.write("7 on elsewhere\n")
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=rf"run folder '{tmp_path}': process 7 on elsewhere"):
            train(recipe("tiny"), tmp_path, [], lambda *_: None, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


def test_a_lock_alone_is_no_content(tmp_path: Path) -> None:
    with locked("run folder", tmp_path):
        require_ours(tmp_path)
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="not empty and holds no run"):
        require_ours(tmp_path)
    (tmp_path / "run.json").touch()
    require_ours(tmp_path)
