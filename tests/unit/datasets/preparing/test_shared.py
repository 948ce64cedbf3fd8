"""What other machines see of this one's disks, on a cluster of one machine that sees all; the rest: `faults/test_unshared_folder.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutual_forcing.datasets.preparing import shared
from mutual_forcing.datasets.preparing.shared import apart, unseen

ANY = {"CPU": 0.0}
pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_a_machine_sees_its_own_disks(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    file = other / "film.mp4"
    file.touch()
    assert unseen([ANY], [tmp_path, other], [file]) == {tmp_path: [], other: [], file: []}
    assert list(tmp_path.iterdir()) == [other], "and nothing is left of the question"
    assert list(other.iterdir()) == [file]


def test_a_file_that_is_not_there_is_seen_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "LAG", 0.0)
    (names,) = unseen([ANY], [], [tmp_path / "gone"]).values()
    assert len(names) == 1


def test_nobody_is_asked_where_there_is_no_other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "unseen", pytest.fail)
    assert apart({"CPU": 1.0}, [tmp_path]) == ""
    assert apart({"CPU": 1.0}, []) == ""


def test_a_machine_that_has_no_room_for_the_work_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "LAG", 0.0)
    gone = tmp_path / "gone"
    assert unseen([{"trainer": 1.0}], [], [gone]) == {gone: []}
    assert len(unseen([{"trainer": 1.0}, {"CPU": 1.0}], [], [gone])[gone]) == 1
