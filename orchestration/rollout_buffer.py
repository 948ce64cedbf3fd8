"""Admission and order of rollouts: pure rules, no Ray.

Requests are numbered by position: request i belongs to optimizer step i // per_step. A request may be admitted to an actor that holds
weight version v while  i < (v + 1 + max_age) * per_step,  so a rollout is never older than `max_age` steps when it is consumed:
a bound at admission, not a filter afterwards. Requests are admitted, and rollouts consumed, strictly in order.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


@dataclass(frozen=True)
class Ready(Generic[Payload]):
    """A finished rollout: the versions that made it, and where it is."""

    version_low: int
    version_high: int
    payload: Payload


class RolloutBuffer(Generic[Payload]):
    """Which request goes out next, and which rollout is ready. per_step: requests an optimizer step; total: of the whole stage; first:
    the step that training goes on from.
    """

    def __init__(self, per_step: int, max_age: int, total: int, first: int = 0) -> None:
        if per_step < 1 or max_age < 0 or total < 0 or first < 0:
            raise ValueError(f"rollouts: per_step={per_step} must be >= 1, max_age={max_age}, total={total} and first={first} >= 0")
        self._per_step, self._max_age, self._total = per_step, max_age, total
        self._next = first * per_step
        self._returned: list[int] = []
        self._in_flight: set[int] = set()
        self._ready: dict[int, Ready[Payload]] = {}
        self._taken: set[int] = set()

    def admit(self, held_version: int) -> int | None:
        """The next request for an actor that holds `held_version`, or None while the bound (or the end) forbids it."""
        candidate = self._returned[0] if self._returned else self._next
        if candidate >= min(self._total, (held_version + 1 + self._max_age) * self._per_step):
            return None
        if self._returned:
            heapq.heappop(self._returned)
        else:
            self._next += 1
        self._in_flight.add(candidate)
        return candidate

    def give_back(self, request: int) -> None:
        """A request whose actor was lost goes out again, before all later ones."""
        self._in_flight.remove(request)
        heapq.heappush(self._returned, request)

    def complete(self, request: int, ready: Ready[Payload]) -> None:
        """A request was served."""
        self._in_flight.remove(request)
        self._ready[request] = ready

    def ready(self, request: int) -> bool:
        return request in self._ready

    def settled(self, request: int) -> bool:
        """Nothing more will happen to the request: it is ready, or it was consumed and `take` raises."""
        return request in self._ready or request in self._taken

    def take(self, request: int) -> Ready[Payload]:
        """Consume a rollout, once. The age bound is asserted: a violation is our bug."""
        if request in self._taken:
            raise ValueError(f"rollout request {request} was consumed already")
        made = self._ready.pop(request)
        self._taken.add(request)
        age = request // self._per_step - made.version_low
        assert 0 <= age <= self._max_age, f"request {request}: age {age} outside [0, {self._max_age}]"
        return made

    @property
    def finished(self) -> bool:
        """Every request of the stage has been served."""
        return self._next >= self._total and not self._returned and not self._in_flight
