"""The metric spool of a stage, when an attempt begins while the one before it is not quite dead."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mutual_forcing.workers import metrics
from mutual_forcing.workers.metrics import MetricSpool


def test_an_attempt_that_is_over_no_longer_writes_into_the_runs_spool(tmp_path: Path) -> None:
    orphan = MetricSpool(tmp_path, "joint")
    for step in range(4):
        orphan.write(step, {"loss": 1.0})
    spool = MetricSpool(tmp_path, "joint", first=2)
    orphan.write(4, {"loss": 9.0})
    spool.write(2, {"loss": 2.0})
    orphan.write(5, {"loss": 9.0})
    orphan.close()
    spool.close()
    lines = [json.loads(line) for line in (tmp_path / "joint.jsonl").read_text().splitlines()]
    assert [(line["step"], line["metrics"]["loss"]) for line in lines] == [(0, 1.0), (1, 1.0), (2, 2.0)]


@pytest.fixture
def room() -> Iterator[Callable[[int], None]]:
    """How large a file may become: the system refuses the rest of a write, and then all of it, as a full disk does."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else before[0], before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def read(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "joint.jsonl").read_text().splitlines()]


def test_steps_go_on_without_room_and_their_lines_come_when_there_is_some(tmp_path: Path, room: Callable[[int], None]) -> None:
    spool = MetricSpool(tmp_path, "joint")
    room(1000)
    for step in range(30):
        spool.write(step, {"loss": 1.0})
        if step == 20:
            spool.note(0, "a checkpoint could not be written")
    assert (tmp_path / "joint.jsonl").stat().st_size == 1000, "a torn line was at the end"
    room(-1)
    spool.write(30, {"loss": 1.0})
    spool.close()
    assert [line["step"] for line in read(tmp_path) if line["metrics"]] == list(range(31))
    assert [line["note"] for line in read(tmp_path) if "note" in line] == ["a checkpoint could not be written"]


def test_lines_that_wait_are_bounded_and_the_lost_are_counted(
    tmp_path: Path, room: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "WAITING", 5)
    spool = MetricSpool(tmp_path, "joint")
    room(0)
    for step in range(12):
        spool.write(step, {"loss": 1.0})
    room(-1)
    spool.close()
    assert [line["step"] for line in read(tmp_path)[:-1]] == [7, 8, 9, 10, 11]
    assert read(tmp_path)[-1]["note"].startswith("7 lines of metrics were lost")


def test_a_stage_begins_without_room_and_what_it_goes_on_from_stays(tmp_path: Path, room: Callable[[int], None]) -> None:
    before, now = MetricSpool(tmp_path, "joint"), [0.0]
    for step in range(9):
        before.write(step, {"loss": 1.0})
    room(100)
    spool = MetricSpool(tmp_path, "joint", 4, lambda: now[0])
    spool.write(4, {"loss": 2.0})
    assert len(read(tmp_path)) == 9, "not cut before the new file is whole"
    room(-1)
    now[0] += metrics.PAUSE
    spool.write(5, {"loss": 2.0})
    spool.close()
    assert [(line["step"], line["metrics"]["loss"]) for line in read(tmp_path)] == [*((i, 1.0) for i in range(4)), (4, 2.0), (5, 2.0)]
    assert os.listdir(tmp_path) == ["joint.jsonl"]


def test_a_folder_that_cannot_be_one_is_no_full_disk(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        MetricSpool(tmp_path / "file" / "metrics", "joint")
