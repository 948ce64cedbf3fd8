"""A training whose machines go and come: it goes on with fewer workers from its last checkpoint, grows when there is room again, and
learns what a training of a fixed size does, each clip of each epoch once.

The command, and a Ray cluster of several machines.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_material import Machines
from command_material import Running, command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS, EVERY = 120, 4
ROUNDING = 2e-3  # of a loss: ranks sum gradients in another order, and 120 steps of a young network amplify it
SETTINGS = (
    "workers.count=4",
    "workers.min_count=1",
    "workers.resize_every_s=5",
    "rollouts.max_age=0",
    f"stages.mutual.steps={STEPS}",
    f"checkpoint.every={EVERY}",
)


def words(folder: Path, *settings: str) -> list[str]:
    return ["train", "tiny", "--out", str(folder), *(word for s in (*SETTINGS, *settings) for word in ("--set", s))]


def spool(folder: Path, stage: str = "mutual") -> list[dict[str, Any]]:
    path = folder / "metrics" / f"{stage}.jsonl"
    text = path.read_text() if path.is_file() else ""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [line for line in lines if line["metrics"]]


def events(folder: Path, kind: str) -> list[tuple[int, int, str]]:
    path = folder / "logs" / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [(e["before"], e["after"], e["why"]) for e in lines if e["kind"] == kind]


def assert_learnt_the_same(folder: Path, fixed: Path) -> None:
    for stage in ("pretrain-video", "pretrain-audio", "joint", "mutual"):
        mine, theirs = spool(folder, stage), spool(fixed, stage)
        assert [line["step"] for line in mine] == [line["step"] for line in theirs] == list(range(len(theirs))), "every step once"
        for a, b in zip(mine, theirs, strict=True):
            assert a["metrics"]["loss"] == pytest.approx(b["metrics"]["loss"], rel=ROUNDING), (stage, a["step"])
    audit = command("audit", str(folder))
    assert audit.code == 0, audit.out + audit.error


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fixed") / "run"
    answer = command(*words(folder, "workers.min_count=0", "workers.count=2"), seconds=900)
    assert answer.code == 0, answer.error
    assert not (folder / "logs" / "events.jsonl").exists(), "nothing has changed"
    return folder


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_machine_goes_and_comes_back(tmp_path: Path, fixed: Path, seed: int) -> None:
    """Two workers on each of two machines; seeds choose when, and whether with notice."""
    dice, folder = random.Random(seed), tmp_path / "run"

    def at(workers: int) -> Callable[[], bool]:
        """A step of the mutual stage was made by so many."""
        return lambda: [n for line in spool(folder) if (n := line["metrics"].get("system/workers"))][-1:] == [workers]

    with Machines(2) as machines, Running(*words(folder), environment=machines.environment) as running:
        running.until(at(4), 400)
        first = len(spool(folder)) + 1 + dice.randrange(8)
        running.until(lambda: len(spool(folder)) >= first, 200)
        trainers = machines.processes("RayTrainWorker")
        assert len(trainers) == 4
        machine = trainers[dice.choice(list(trainers))]
        if notice := seed == 1:
            machines.take_back(machine, 60)
        else:
            machines.lose(machine)
        running.until(at(2), 400)
        if notice:
            machines.lose(machine)
        machines.add()
        running.until(at(4), 400)
        answer = running.wait(900)
    assert answer.code == 0, answer.error
    why = "a machine was taken back" if notice else "a machine was lost"
    assert events(folder, "workers") == [(0, 4, "training begins"), (4, 2, why), (2, 4, "machines came")]
    assert f"workers 4 -> 2: {why}\n" in answer.error
    assert "workers 2 -> 4: machines came\n" in answer.error
    assert [(before, after) for before, after, _ in events(folder, "nodes")] == [(3, 2), (2, 3)]
    assert answer.error.count("it goes on from its last checkpoint") == 1, "growth is no failure"
    assert_learnt_the_same(folder, fixed)
