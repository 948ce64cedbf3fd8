"""The line an interval: a function of the spool's records, and what a terminal shows of it."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mutual_forcing.orchestration.interval_line import interval_parts
from mutual_forcing.orchestration.progress import Terminal
from mutual_forcing.orchestration.spool_watcher import SpoolWatcher, StageLines

STEP_S = 0.5


def record(step: int, at: float, **metrics: float | None) -> dict[str, Any]:
    own = {"step_s": STEP_S, "samples_per_s": 4 / STEP_S, "tokens_per_s": 600 / STEP_S, "loss": 2.0}
    return {"stage": "mutual", "step": step, "time": at, "metrics": own | metrics}


def test_a_line_of_a_mutual_stage() -> None:
    records = [
        record(9, 101.0, loss=2.0, dmd=0.03, **{"loss/fm_video": 1.0, "loss/fake": 0.5, "loss/fake_fresh": 0.6, "age/1": 4.0}),
        record(10, 102.0, loss=1.0, dmd=0.05, **{"loss/fm_video": 0.5, "loss/fake": 0.7, "loss/fake_fresh": 0.6, "age/0": 2.0}),
    ]
    assert interval_parts("mutual", 1500, records, record(8, 100.0), rate=2.0) == [
        "mutual",
        "  11/1500",
        "12:24 left",
        "loss 1.50",
        "4.00 clips/s",  # 8 clips in the two seconds since the step before, waits included
        "600 tokens/s",
        "age 0-1",
        "dmd 0.0400",
        "fm video 0.750",
        "fake 0.600",
    ]


def test_parts_that_are_not_there_are_left_out() -> None:
    first = record(0, 100.0, **{"loss/fm_video": 2.0})
    assert interval_parts("pretrain-video", 3, [first], None, None) == [
        "pretrain-video",
        "1/3",
        "loss 2.00",
        "8.00 clips/s",
        "1.20k tokens/s",
    ]
    last = interval_parts("joint", 3, [record(2, 5.0, mfu=0.412, **{"age/2": 1.0})], record(1, 4.0), 1.0)
    assert last == ["joint", "3/3", "loss 2.00", "4.00 clips/s", "600 tokens/s", "age 2", "MFU 41.2 %"]


@pytest.mark.parametrize(("left", "shown"), [(59, "0:59"), (3599.6, "1:00:00"), (61, "1:01"), (90061, "25:01:01")])
def test_the_time_that_is_left(left: float, shown: str) -> None:
    assert interval_parts("joint", 2, [record(0, 1.0)], None, 1 / left)[2] == f"{shown} left"


def test_a_loss_that_is_not_finite_says_so() -> None:
    assert "loss not finite" in interval_parts("joint", 9, [record(3, 1.0, loss=None), record(4, 2.0)], None, 1.0)


def test_lines_come_once_an_interval_and_at_the_end() -> None:
    said: list[list[str]] = []
    now = time.time() - 86400  # by the clock of a machine that is a day behind
    lines = StageLines("joint", 40, said.append, 10.0, since=now - 3600)
    lines.see(record(0, now - 3600))  # of the attempt before
    for step in range(1, 40):
        lines.see(record(step, now + step))
    assert [parts[1] for parts in said] == ["12/40", "22/40", "32/40", "40/40"]
    assert [parts[2] for parts in said[:3]] == ["0:28 left", "0:18 left", "0:08 left"], "the hour between the attempts does not count"
    assert all(parts[3:6] == ["loss 2.00", "4.00 clips/s", "600 tokens/s"] for parts in said[1:3])


def test_the_watcher_says_a_line_of_what_the_spool_holds(tmp_path: Path) -> None:
    said: list[list[str]] = []
    with SpoolWatcher(tmp_path, {"mutual": 3}, lambda *_: None, print, said.append), (tmp_path / "mutual.jsonl").open("w") as file:
        for step in range(3):
            file.write(json.dumps(record(step, time.time() + step)) + "\n")
    assert [parts[:2] for parts in said] == [["mutual", "3/3"]]


def test_what_a_spool_holds_before_is_not_told_again(tmp_path: Path) -> None:
    said: list[list[str]] = []
    behind = time.time() - 86400
    with (tmp_path / "mutual.jsonl").open("w") as file:
        file.write(json.dumps(record(0, behind)) + "\n")
        file.flush()
        with SpoolWatcher(tmp_path, {"mutual": 2}, lambda *_: None, print, said.append):
            file.write(json.dumps(record(1, behind + 20)) + "\n")
            file.flush()
    assert [parts[:2] for parts in said] == [["mutual", "2/2"]]


PARTS = [
    "pretrain-video",
    " 120/1500",
    "3:12 left",
    "loss 0.842",
    "48.1 clips/s",
    "12.3k tokens/s",
    "age 0-2",
    "fm video 0.610",
    "fm audio 0.232",
]


@pytest.mark.parametrize(("width", "shown"), [(40, 3), (80, 6), (160, 9)])
def test_a_terminal_shows_whole_parts_in_one_line(width: int, shown: int) -> None:
    text = io.StringIO()
    with Terminal(Console(file=text, force_terminal=True, width=width, color_system=None)) as terminal:
        terminal.say(PARTS)
    assert "  ".join(PARTS[:shown]) + "\n" in text.getvalue()
    assert not any(part in text.getvalue() for part in PARTS[shown:])


def test_a_pipe_gets_the_whole_line() -> None:
    text = io.StringIO()
    with Terminal(Console(file=text, width=40)) as terminal:
        terminal.say(["one\x1b[2J", *PARTS])
    assert text.getvalue() == "  ".join([r"one\x1b[2J", *PARTS]) + "\n"
