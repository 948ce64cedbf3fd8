"""What other machines see of this one's disks, on a cluster of one machine that sees all; the rest: `faults/test_unshared_folder.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutual_forcing.datasets import shared
from mutual_forcing.datasets.shared import apart, unseen

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_machine_sees_its_own_disks(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    file = other / "film.mp4"
    file.touch()
    assert unseen([tmp_path, other], [file]) == {tmp_path: [], other: [], file: []}
    assert list(tmp_path.iterdir()) == [other], "and nothing is left of the question"
    assert list(other.iterdir()) == [file]


def test_a_file_that_is_not_there_is_seen_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "LAG", 0.0)
    (names,) = unseen([], [tmp_path / "gone"]).values()
    assert len(names) == 1


def test_nobody_is_asked_where_there_is_no_other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "unseen", pytest.fail)
    assert apart([tmp_path]) == ""
    assert apart([]) == ""
