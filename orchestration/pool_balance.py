"""How many rollout actors keep the trainers busy, from what both are measured to need."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .failure_policy import wanted_actors
from .rollouts_config import RolloutsConfig


class Balance:
    """What the trainers and the actors were measured to need, and the size of the pool that follows from it."""

    def __init__(self, config: RolloutsConfig, per_step: int) -> None:
        self._config, self._per_step, self.size_now = config, per_step, config.size
        self._given, self._step = 0.0, -1
        self._train = self._rollout = 0.0
        self._looked = time.monotonic()
        self._asked_for, self._since = config.size, 0.0

    def begin(self, step: int) -> None:
        self._given, self._step = 0.0, step - 1

    def asked(self, step: int, now: float) -> None:
        """A trainer asks for a step's rollouts: the first one that does has computed since the last one was given its own."""
        if step > self._step:
            if self._given:
                self._train = _mean(self._train, now - self._given)
            self._step = step

    def given(self, now: float) -> None:
        self._given = now

    def made(self, seconds: float) -> None:
        """A request has taken so much of an actor's time."""
        self._rollout = _mean(self._rollout, seconds)

    def busy(self, work: Sequence[float], now: float) -> float:
        """The share of the actors' time since the last call."""
        elapsed, self._looked = now - self._looked, now
        return min(1.0, sum(work) / (elapsed * len(work))) if work and elapsed > 0 else 0.0

    def wanted(self) -> int:
        """Actors that would keep the trainers busy, within bounds; as many as there are as long as nothing is known."""
        if not (self._train and self._rollout):
            return self.size_now
        return wanted_actors(self._rollout, self._per_step, self._train, self._config.min_actors, self._config.max_actors)

    def size(self, now: float) -> int:
        """The size to have: another one only where it has been asked for long enough."""
        wanted = self.wanted()
        if wanted != self._asked_for or wanted == self.size_now:
            self._asked_for, self._since = wanted, now
        if self._config.actors == "auto" and now - self._since >= self._config.balance_s:
            self.size_now = wanted
        return self.size_now


def _mean(before: float, value: float) -> float:
    """A running mean that forgets."""
    return value if not before else 0.8 * before + 0.2 * value
