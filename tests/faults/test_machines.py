"""Whole machines fail in a training: killed at random steps, or taken back with notice. What follows is, bit for bit, what a run that was
never disturbed has, and each clip of each epoch was trained on once.

The command, and a Ray cluster of several machines.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from cluster_material import Machines
from command_material import Running, Said, command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

OF_TIME = ("_s", "samples_per_s")


class Training:
    """A run of `tiny` with a long mutual stage, and its metric spool."""

    def __init__(self, folder: Path, steps: int, every: int, *settings: str) -> None:
        self.folder, self._spool = folder, folder / "metrics" / "mutual.jsonl"
        self._attempt = 0
        chosen = ["rollouts.max_age=0", f"stages.mutual.steps={steps}", f"checkpoint.every={every}", *settings]
        self.words = ["train", "tiny", "--out", str(folder), *(word for setting in chosen for word in ("--set", setting))]

    @property
    def steps(self) -> int:
        return self._spool.read_bytes().count(b"\n") if self._spool.is_file() else 0

    @property
    def committed(self) -> list[int]:
        """Steps of the mutual stage of which there is a checkpoint."""
        return sorted(int(path.parent.name[:8]) for path in self.folder.glob("checkpoints/mutual/*/COMMIT"))

    def until_step(self, running: Running, step: int) -> None:
        running.until(lambda: self.steps >= step, 200)

    def until_another_attempt(self, running: Running) -> None:
        """The mutual stage goes on, after a start or a kill: each attempt has a file of its own."""
        running.until(lambda: self._spool.is_file() and self._spool.stat().st_ino != self._attempt, 200)
        self._attempt = self._spool.stat().st_ino

    def figures(self) -> dict[str, list[dict[str, Any]]]:
        """Every metric of every step that is no time, by stage."""
        made = {}
        for path in sorted((self.folder / "metrics").glob("*.jsonl")):
            lines = [line for text in path.read_text().splitlines() if (line := json.loads(text))["metrics"]]
            assert [line["step"] for line in lines] == list(range(len(lines)))
            made[path.stem] = [
                {k: v for k, v in line["metrics"].items() if not k.endswith(OF_TIME) and not k.startswith(("share/", "system/", "pool/"))}
                for line in lines
            ]
        return made

    def assert_as_if_undisturbed(self, other: Training) -> None:
        mine, theirs = self.figures(), other.figures()
        assert list(mine) == ["joint", "mutual", "pretrain-audio", "pretrain-video"]
        assert mine == theirs
        audit = command("audit", str(self.folder))
        assert audit.code == 0, audit.out + audit.error


def undisturbed(folder: Path, steps: int, *settings: str) -> Training:
    training = Training(folder, steps, 0, *settings)
    answer = command(*training.words)
    assert answer.code == 0, answer.error
    return training


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
