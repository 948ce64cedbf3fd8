"""A step that never ends is noticed, and where the threads stood is written down."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from mutual_forcing.workers.watchdog import HUNG, Watchdog


def waiting_for_ever(event: threading.Event) -> None:
    event.wait(5)


def test_a_step_that_never_ends_is_told_and_ended(tmp_path: Path) -> None:
    ended: list[int] = []
    event = threading.Event()
    stuck = threading.Thread(target=waiting_for_ever, args=(event,), daemon=True)
    stuck.start()
    with Watchdog(tmp_path / "stacks", 3, 0.2, ended.append):
        deadline = time.monotonic() + 5
        while not ended and time.monotonic() < deadline:
            time.sleep(0.02)
    event.set()
    assert ended == [HUNG]
    said = (tmp_path / "stacks" / "rank-3.txt").read_text()
    assert "no step ended for" in said
    assert "waiting_for_ever" in said, "of all threads"


def test_steps_that_end_in_time_are_left_alone(tmp_path: Path) -> None:
    ended: list[int] = []
    with Watchdog(tmp_path, 0, 0.5, ended.append) as watchdog:
        for _ in range(10):
            time.sleep(0.1)
            watchdog.beat()
    time.sleep(0.7)
    assert ended == []
    with Watchdog(tmp_path, 0, 0.0, ended.append):
        time.sleep(0.1)
    assert ended == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended: list[int] = []
    with Watchdog(tmp_path / "file", 0, 0.05, ended.append):
        time.sleep(0.5)
    assert ended == [HUNG]
