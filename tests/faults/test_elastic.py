"""A training whose machines go and come: it goes on with fewer workers from its last checkpoint, grows when there is room again, and
learns what a training of a fixed size does, each clip of each epoch once.

The command, and a Ray cluster of several machines.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from cluster_material import Machines
from command_material import Running, command
from elastic_material import events, spool, words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

ROUNDING = 1e-5  # of a loss: ranks sum gradients in another order


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
    assert events(folder, "workers") == [], "their number never changes"
    return folder


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_machine_goes_and_comes_back(tmp_path: Path, fixed: Path, seed: int) -> None:
    """Two workers on each of two machines; seeds choose when, and whether with notice."""
    dice, folder = random.Random(seed), tmp_path / "run"

    def steps() -> int:
        return len(spool(folder))

    def now(before: int, after: int) -> Callable[[], bool]:
        """The last change of their number was this one."""
        return lambda: [change[:2] for change in events(folder, "workers")][-1:] == [(before, after)]

    with Machines(2) as machines, Running(*words(folder), environment=machines.environment) as running:
        running.until(lambda: steps() > 0, 900)
        first = steps() + 1 + dice.randrange(8)
        running.until(lambda: steps() >= first, 300)
        trainers = machines.processes("RayTrainWorker")
        assert len(trainers) == 4
        machine = trainers[dice.choice(list(trainers))]
        if notice := seed == 1:
            machines.take_back(machine, 60)
        else:
            machines.lose(machine)
        running.until(now(4, 2), 300)
        if notice:
            machines.lose(machine)
        machines.add()
        running.until(now(2, 4), 900)
        answer = running.wait(2000)
    assert answer.code == 0, answer.error
    why = "a machine was taken back" if notice else "a machine was lost"
    assert events(folder, "workers") == [(0, 4, "training begins"), (4, 2, why), (2, 4, "machines came")]
    assert f"workers 4 -> 2: {why}\n" in answer.error
    assert "workers 2 -> 4: machines came\n" in answer.error
    assert [(before, after) for before, after, _ in events(folder, "nodes")] == [(3, 2), (2, 3)]
    assert answer.error.count("it goes on from its last checkpoint") == 1, "growth is no failure"
    trained = [n for line in spool(folder) if (n := line["metrics"].get("system/workers"))]
    assert [n for n, _ in groupby(trained)] == [4, 2, 4], "steps of all three are kept"
    assert_learnt_the_same(folder, fixed)
