"""Whole machines fail in a training: killed at random steps, or taken back with notice. What follows is, bit for bit, what a run that was
never disturbed has, and each clip of each epoch was trained on once.

The command, and a Ray cluster of several machines.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from cluster_material import Machines
from command_material import Running, Said
from training_material import Training, undisturbed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


def test_twenty_random_kills_of_machines_drivers_and_workers_change_no_loss(tmp_path: Path) -> None:
    """A killed driver's command is given again at once: its orphans may still be at work."""
    dice, steps = random.Random(0), 160
    kinds = ["machine", "driver", "worker", "notice"] * 5
    dice.shuffle(kinds)
    training, answer = Training(tmp_path / "run", steps, 3, "workers.max_failures=20"), None
    with Machines(2) as machines:
        while answer is None:
            with Running(*training.words, environment=machines.environment) as running:
                answer = disturbed(training, running, machines, kinds, dice)
    assert answer.code == 0, answer.error
    assert kinds == []
    training.assert_as_if_undisturbed(undisturbed(tmp_path / "undisturbed", steps))


def disturbed(training: Training, running: Running, machines: Machines, kinds: list[str], dice: random.Random) -> Said | None:
    """Kill at a random step, let it go on, and so forth; returns the command's answer, or None when it was killed itself."""
    training.until_another_attempt(running)
    while kinds:
        training.until_step(running, training.steps + 1 + dice.randrange(5))
        kind, trainers = kinds.pop(), machines.processes("RayTrainWorker")
        victim = dice.choice(list(trainers))
        if kind == "driver":
            running.kill()
            return None
        if kind == "worker":
            victim.kill()
        elif kind == "machine":
            machines.lose(trainers[victim])
            machines.add()
        else:
            machines.take_back(trainers[victim], 60)
        training.until_another_attempt(running)
        if kind == "notice":
            machines.lose(trainers[victim])
            machines.add()
    return running.wait(400)


def test_notice_leads_to_a_checkpoint_in_time_and_to_another_machine(tmp_path: Path) -> None:
    """Two ranks on each of two machines, a third to spare. No checkpoint was planned, and no failure is allowed."""
    settings, steps = ("workers.count=4",), 80
    training = Training(tmp_path / "run", steps, 0, "workers.max_failures=0", *settings)
    with Machines(3) as machines, Running(*training.words, environment=machines.environment) as running:
        training.until_another_attempt(running)
        training.until_step(running, 3)
        trainers = list(machines.processes("RayTrainWorker").values())
        assert [trainers.count(machine) for machine in trainers] == [2] * 4
        end = machines.take_back(trainers[0], 60)
        running.until(lambda: bool(training.committed), 60)
        assert time.time() < end
        (saved,) = training.committed
        training.until_another_attempt(running)
        assert training.steps >= saved
        machines.lose(trainers[0])
        answer = running.wait(400)
    assert answer.code == 0, answer.error
    told = f"notice was given; checkpoint of step {saved} of stage 'mutual' is committed); it goes on from its last checkpoint"
    assert told in answer.error
    training.assert_as_if_undisturbed(undisturbed(tmp_path / "undisturbed", steps, *settings))
