"""Trainers as threads on a real rollout pool: they take, compute for a moment, and publish, in step with each other as ranks are."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import number_actor
import numpy as np
import psutil
from number_actor import NumberActor, NumberPlan, Numbers, rollout_of
from ray import cloudpickle

from mutual_forcing.datasets.reading.order import rank_positions
from mutual_forcing.orchestration.rollout_pool import RolloutClient, start_pool
from mutual_forcing.orchestration.rollouts_config import RolloutsConfig
from mutual_forcing.workers.rollout_actor import RolloutActor, RolloutActorConfig

for module in (number_actor, sys.modules[__name__]):
    cloudpickle.register_pickle_by_value(module)  # Ray's processes do not find the tests' modules
PATIENCE = 60.0  # seconds for a stage: one that hangs is a failure


def number_pool(plan: NumberPlan, config: RolloutsConfig, ranks: int, batch: int, steps: int) -> RolloutClient:
    return start_pool(plan, config, ranks, batch, steps, kind=NumberActor)


class Trainers:
    """One attempt of the training. `join` needs a process group of one. published: who publishes a version instead of the client."""

    def __init__(self, client: RolloutClient, ranks: int, batch: int, steps: int, max_age: int, train_s: float = 0.01) -> None:
        self.client = copy(client)
        self._ranks, self._batch, self._steps, self._max_age, self._train_s = ranks, batch, steps, max_age, train_s
        self.step = 0
        self.taken: dict[int, tuple[int, np.ndarray]] = {}  # position -> the version that made its rollout, and the rollout
        self.samples: dict[int, int] = {}
        self.errors: list[Exception] = []
        self.kept: dict[int, Mapping[str, np.ndarray]] = {}
        self.publish: Callable[[int], None] = lambda version: self.client.publish(Numbers.of(version))  # pyright: ignore[reportArgumentType]
        self._lock = threading.Lock()

    def begin(self, first: int = 0, saved: Mapping[int, Any] | None = None) -> None:
        self.client.join(0, first, saved or {})
        self.client.enter(self.client._attempt, self._ranks)
        self.step = first
        self.publish(first)

    def run(self, until: int = 0, keep_at: int = -1) -> None:
        """All steps up to `until` (0: all), and after `keep_at` of them keep what waits, as a checkpoint does."""
        self._barrier = threading.Barrier(self._ranks)
        threads = [
            threading.Thread(target=self._rank, args=(rank, until or self._steps, keep_at), daemon=True) for rank in range(self._ranks)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + PATIENCE
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        assert not any(thread.is_alive() for thread in threads), f"it hangs at step {self.step}: {self.client.figures()}, {self.errors}"

    def _rank(self, rank: int, until: int, keep_at: int) -> None:
        client = self.client if rank == 0 else copy(self.client)
        try:
            for step in range(self.step, until):
                rollout = client.take(step, rank)
                made = rollout.history.get("video").numpy()
                with self._lock:
                    positions = rank_positions(step, self._batch, rank, self._ranks)
                    for p, (version, _), sample, x in zip(positions, rollout.versions, rollout.samples, made, strict=True):
                        assert p not in self.taken, f"position {p} was taken twice"
                        self.taken[p], self.samples[p] = (version, x), sample
                time.sleep(self._train_s)
                self._barrier.wait(PATIENCE)
                if rank == 0:
                    self.step = step + 1
                    if step + 1 < self._steps:
                        self.publish(step + 1)
                if step + 1 == keep_at:
                    kept = client.held(keep_at, rank)
                    with self._lock:
                        self.kept |= kept
        except Exception as error:  # noqa: BLE001  it is what the test asks for
            if not isinstance(error, threading.BrokenBarrierError):
                self.errors.append(error)
            self._barrier.abort()  # as a rank that fails takes the others with it

    def assert_right(self, first: int = 0) -> None:
        """Each clip once, made by weights that are not too old, and exactly what they make of it."""
        if self.errors:
            raise self.errors[0]
        assert sorted(self.taken) == list(range(first * self._batch, self._steps * self._batch))
        for position, (version, made) in self.taken.items():
            assert 0 <= position // self._batch - version <= self._max_age
            assert self.samples[position] == position
            np.testing.assert_array_equal(made, rollout_of(position, version))


def gone(pids: list[int], seconds: float) -> bool:
    """Whether the processes have ended by then."""
    end = time.monotonic() + seconds
    while left := [pid for pid in pids if _lives(pid)]:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return not left


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass(frozen=True)
class SlowPlan:
    """A real actor, and how often a file's presence makes one of them slow: whoever takes it away."""

    config: RolloutActorConfig
    slow: Path


class SlowOnceActor:
    """The real actor, behind a delay."""

    def __init__(self, plan: SlowPlan) -> None:
        self._plan, self._actor = plan, RolloutActor(plan.config)

    def load(self, snapshot: Any) -> int:
        return self._actor.load(snapshot)

    def generate(self, positions: list[int]) -> Any:
        try:
            self._plan.slow.unlink()
            time.sleep(5.0)
        except FileNotFoundError:
            pass
        return self._actor.generate(positions)
