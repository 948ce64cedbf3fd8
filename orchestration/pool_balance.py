"""How many rollout actors keep the trainers busy, from what both are measured to need."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf

from .failure_policy import wanted_actors
from .rollouts_config import RolloutsConfig


class Balance:
    """What the trainers and the actors were measured to need, and the size of the pool that follows from it."""

    def __init__(self, config: RolloutsConfig, per_step: int) -> None:
        self._config, self._per_step, self.size_now = config, per_step, config.size
        self._step, self._least = 0, inf
        self._train, self._rollout = _Mean(0.2), _Mean(min(0.2, 1 / per_step))
        self._looked = time.monotonic()
        self._way, self._since, self._goal = 0, 0.0, config.size

    def begin(self, step: int) -> None:
        self._step, self._least = step, inf

    def trained(self, step: int, seconds: float) -> None:
        """Seconds from the moment when a trainer had the rollouts of the step before until it asked for this step's. The trainer that
        got those last has waited for no other one meanwhile: the least counts.
        """
        if step > self._step:
            if self._least < inf:
                self._train.add(self._least)
            self._step, self._least = step, inf
        self._least = min(self._least, seconds)

    def made(self, seconds: float) -> None:
        """A request has taken so much of an actor's time."""
        self._rollout.add(seconds)

    def busy(self, work: Sequence[float], now: float) -> float:
        """The share of the actors' time since the last call."""
        elapsed, self._looked = now - self._looked, now
        return min(1.0, sum(work) / (elapsed * len(work))) if work and elapsed > 0 else 0.0

    def wanted(self) -> int:
        """Actors that would keep the trainers busy, within bounds; as many as there are as long as nothing is known."""
        if not (self._train.count and self._rollout.count):
            return self.size_now
        return wanted_actors(self._rollout.value, self._per_step, self._train.value, self._config.min_actors, self._config.max_actors)

    def size(self, now: float) -> int:
        """The size to have. It changes where more, or fewer, were wanted all the time of `balance_s`: by as many as were wanted throughout,
        because what is wanted hardly stays the same number.
        """
        wanted = self.wanted()
        way = (wanted > self.size_now) - (wanted < self.size_now)
        if way != self._way:
            self._way, self._since, self._goal = way, now, wanted
        self._goal = (max if way < 0 else min)(self._goal, wanted)
        if self._config.actors == "auto" and way and now - self._since >= self._config.balance_s:
            self.size_now, self._way = self._goal, 0
        return self.size_now


class _Mean:
    """A running mean: of all values at first, later each new one counts for `share`."""

    def __init__(self, share: float) -> None:
        self._share, self.value, self.count = share, 0.0, 0

    def add(self, value: float) -> None:
        self.count += 1
        self.value += max(self._share, 1 / self.count) * (value - self.value)
