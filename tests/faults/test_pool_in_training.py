"""A whole training with old rollouts allowed: its actors are killed again and again, and its coordinator; it is killed itself, and takes
up what was kept."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from command_material import Running, command

from mutual_forcing.datasets.ledger import Update, head_of, read_chain
from mutual_forcing.datasets.places.store import store_of
from mutual_forcing.workers.checkpoint import Checkpoint, found_in, newest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, AGE = 40, 2
SETTINGS = (f"rollouts.max_age={AGE}", f"stages.mutual.steps={STEPS}", "stages.mutual.health_every=1", "checkpoint.every=5")


class Training:
    def __init__(self, folder: Path) -> None:
        self.folder, self._spool = folder, folder / "metrics" / "mutual.jsonl"
        self.words = ["train", "tiny", "--out", str(folder), *(word for setting in SETTINGS for word in ("--set", setting))]
        self.store = store_of(folder / "checkpoints")

    @property
    def steps(self) -> int:
        return self._spool.read_bytes().count(b"\n") if self._spool.is_file() else 0

    def figures(self) -> list[dict[str, float]]:
        return [line["metrics"] for text in self._spool.read_text().splitlines() if (line := json.loads(text))["metrics"]]

    def updates(self) -> list[Update]:
        last = newest(self.store, "mutual")
        assert last is not None
        assert last.finished
        return read_chain(self.store, head_of(last.manifest["ledger"]))

    def assert_right(self) -> None:
        audit = command("audit", str(self.folder))
        assert audit.code == 0, audit.out + audit.error
        updates = self.updates()
        assert [u.step for u in updates] == list(range(STEPS))
        for update in updates:
            assert update.rollout is not None
            low, high = update.rollout
            assert 0 <= update.step - high <= update.step - low <= AGE


def test_actors_that_are_killed_again_and_again(tmp_path: Path) -> None:
    dice, training, killed = random.Random(0), Training(tmp_path / "run"), 0
    with Running(*training.words) as running:
        running.until(lambda: training.steps >= 2, 300)
        while training.steps < STEPS - 15:
            aim = training.steps + 1 + dice.randrange(4)
            running.until(lambda aim=aim: training.steps >= aim, 120)
            actors = [pid for pid in running.processes() if _name(pid).startswith("ray::RolloutActor")]
            if actors:
                psutil.Process(dice.choice(actors)).kill()
                killed += 1
        answer = running.wait(300)
        assert not running.left_behind(20)
    assert answer.code == 0, answer.error
    assert killed >= 5
    assert "it goes on from its last checkpoint" not in answer.error, "no step was lost with them"
    training.assert_right()
    assert training.figures()[-1]["pool/replaced"] >= killed - 2, "the last may not have been missed"


def test_a_coordinator_that_is_killed_costs_the_steps_since_the_last_checkpoint(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    with Running(*training.words) as running:
        for aim in (7, 22):
            running.until(lambda aim=aim: training.steps >= aim, 300)
            (coordinator,) = [pid for pid in running.processes() if _name(pid).startswith("ray::Coordinator")]
            psutil.Process(coordinator).kill()
            running.until(lambda pid=coordinator: not psutil.pid_exists(pid), 20)
        answer = running.wait(300)
        assert not running.left_behind(20)
    assert answer.code == 0, answer.error
    assert answer.error.count("it goes on from its last checkpoint") == 2
    training.assert_right()


def test_a_training_that_starts_again_takes_up_what_a_checkpoint_kept(tmp_path: Path) -> None:
    training = Training(tmp_path / "run")
    with Running(*training.words) as running:
        running.until(lambda: any(f.complete and f.step >= 10 for f in found_in(training.store, "mutual")), 300)
        running.kill()
    at = [f for f in found_in(training.store, "mutual") if f.complete][-1]
    checkpoint = Checkpoint(training.store, at.path)
    kept, batch = checkpoint.rollouts(), checkpoint.manifest["batch"]
    assert kept, "actors are ahead of the trainers"
    answer = command(*training.words)
    assert answer.code == 0, answer.error
    training.assert_right()
    of_checkpoint = [u.step for u in training.updates() if u.step >= at.step and u.rollout is not None and u.rollout[0] < at.step]
    assert of_checkpoint == sorted({position // batch for position, made in kept.items() if made["versions"].min() < at.step})
    figures = training.figures()
    per_step = batch // max(len(a["history_video"]) for a in kept.values())
    assert figures[-1]["pool/served"] <= (STEPS - at.step) * per_step - len(kept)
    assert figures[-1]["pool/dropped"] <= figures[-1]["pool/late"], "nothing was made that is there already"


def _name(pid: int) -> str:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).name()
    return ""
