"""How far a run is, and when it is past an event: never before another attempt where an event ends one."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mutual_forcing.datasets.places.storage import write_json
from mutual_forcing.orchestration.chaos.schedule import Event
from mutual_forcing.orchestration.chaos.watch import Seen, goes_on, has_recovered, look, losses, step_seconds, told
from mutual_forcing.workers.metrics import MetricSpool

STAGES = ("joint", "mutual")
BEFORE = Seen(10.0, 0, 20, attempt=1, driver=5)


def seen(at: float, steps: int, attempt: int = 1, driver: int = 5, stage: int = 0, finished: bool = False) -> Seen:
    return Seen(at, stage, steps, attempt, driver, finished)


def test_it_is_read_from_the_run_folder(tmp_path: Path) -> None:
    assert look(str(tmp_path), STAGES, 1.0) == Seen(1.0)
    (tmp_path / ".lock").write_text(f"{os.getpid()} on here\n")
    write_json(tmp_path / "run.json", {"finished": False})
    spool = MetricSpool(tmp_path / "metrics", "joint")
    for step in range(3):
        spool.write(step, {"loss": 2.0 - step})
    first = look(str(tmp_path), STAGES, 1.0)
    assert (first.stage, first.steps, first.driver, first.finished) == (0, 3, os.getpid(), False)
    MetricSpool(tmp_path / "metrics", "joint", first=2)
    again = look(str(tmp_path), STAGES, 2.0)
    assert again.steps == 2
    assert again.attempt != first.attempt
    MetricSpool(tmp_path / "metrics", "mutual").note(0, "it begins")
    assert look(str(tmp_path), STAGES, 3.0).far == (1, 0)
    write_json(tmp_path / "run.json", {"finished": True})
    (tmp_path / ".lock").write_text("4194305 on here\n")
    assert look(str(tmp_path), STAGES, 3.0).finished
    assert look(str(tmp_path), STAGES, 3.0).driver == 0, "a lock may name a process that has ended"
    assert [(i, step, loss) for _, i, step, loss in losses(str(tmp_path), STAGES)] == [(0, 0, 2.0), (0, 1, 1.0)]
    for name in ("fit-12", "fit-9", "fit-x"):
        (tmp_path / "ray" / name).mkdir(parents=True)
    assert look(str(tmp_path), STAGES, 3.0).attempt == 12, "the same in another stage"
    (tmp_path / "run.json").write_text(json.dumps([1]))
    assert not look(str(tmp_path), STAGES, 3.0).finished


@pytest.mark.parametrize(
    ("kind", "after", "over"),
    [
        ("worker", [], False),
        ("worker", [seen(11, 21)], False),  # what was on its way
        ("worker", [seen(11, 21), seen(12, 16, 2)], False),
        ("worker", [seen(12, 16, 2), seen(13, 21, 2)], True),
        ("coordinator", [seen(12, 0, 2, stage=1)], True),
        ("driver", [seen(12, 21, 2)], False),  # orphans may train on
        ("driver", [seen(12, 21, 2, driver=0)], False),
        ("driver", [seen(12, 16, 2, driver=6), seen(13, 21, 2, driver=6)], True),
        ("rollout", [seen(11, 21)], False),
        ("rollout", [seen(11, 21), seen(12, 22)], True),
        ("s3", [seen(12, 0, 2, stage=1)], True),
        ("worker", [seen(12, 20, finished=True)], True),
    ],
)
def test_when_training_is_past_an_event(kind: str, after: list[Seen], over: bool) -> None:
    assert has_recovered(Event(0, kind), BEFORE, after) == over


def test_what_lasts_has_to_be_over() -> None:
    event = Event(0, "s3", seconds=5)
    assert not has_recovered(event, BEFORE, [seen(14.5, 40)])
    assert has_recovered(event, BEFORE, [seen(14.5, 40), seen(15, 40)])


def test_what_was_seen_is_told() -> None:
    killed = told(Event(0, "worker"), BEFORE, [seen(11, 20, 2), seen(12, 16, 2), seen(13, 21, 2)], STAGES)
    assert killed == "joint went on from step 16; 4 steps were computed again"
    driver = told(Event(0, "driver"), BEFORE, [seen(12, 20, driver=0), seen(20, 18, 2, 6), seen(30, 21, 2, 6)], STAGES)
    assert driver == "another driver (process 6) took over; joint went on from step 18; 2 steps were computed again"
    rollout = told(Event(0, "rollout"), BEFORE, [seen(11, 20), seen(13.5, 21), seen(14, 22)], STAGES)
    assert rollout == "no step was lost; the longest pause was 3.5 s"
    silent = told(Event(0, "s3"), BEFORE, [seen(11, 20), seen(20, 17, 2), seen(30, 22, 2)], STAGES)
    assert silent == "joint went on from step 17; 3 steps were computed again", "an attempt may end without having been meant to"


def test_what_nobody_knows_to_have_happened_is_past_when_training_goes_on() -> None:
    assert not goes_on(BEFORE, [], 5)
    assert not goes_on(BEFORE, [seen(14, 22)], 5)
    assert not goes_on(BEFORE, [seen(16, 21)], 5)
    assert goes_on(BEFORE, [seen(16, 22)], 5), "in whichever attempt"
    assert goes_on(BEFORE, [seen(11, 20, finished=True)], 5)


def test_the_time_of_a_step_is_of_attempts_that_go_on() -> None:
    assert step_seconds([]) == step_seconds([seen(0, 3)]) == step_seconds([seen(0, 3), seen(9, 3)]) == 0.0
    assert step_seconds([seen(0, 0), seen(60, 0), seen(120, 1), seen(240, 2)]) == 120.0
    assert step_seconds([seen(0, 8), seen(10, 9), seen(900, 4, attempt=2), seen(910, 5, attempt=2)]) == 10.0
