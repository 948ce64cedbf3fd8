"""Admission, order and retries of rollouts: pure rules, no Ray and no clock of their own.

Requests are numbered by position: request i stands for clips [i * clips, (i + 1) * clips) of the stage's order and belongs to optimizer
step i // per_step. It may be admitted to an actor that holds weight version v while  i < (v + 1 + max_age) * per_step,  so a rollout is
never older than `max_age` steps when it is consumed: a bound at admission, not a filter afterwards. Requests are admitted strictly in
order, and each is consumed once by every rank that has clips in it. What is offered stays until it is taken: a consumer may read it ahead.

    waiting --admit--> in flight --complete--> ready --offer, take (every consumer)--> gone
       ^                  |   |                  |
       +---- give_back ---+   |                  +-- lose: what was made is gone, and is made again
       +---- overdue ---------+ a second attempt goes out; whichever comes first counts, the other is dropped
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


@dataclass(frozen=True)
class Ticket:
    """One attempt at a request."""

    request: int
    attempt: int


@dataclass(frozen=True)
class Ready(Generic[Payload]):
    """A finished rollout: the versions that made it, where it is, its size, and which attempt it was (0: of a checkpoint)."""

    version_low: int
    version_high: int
    payload: Payload
    bytes: int = 0
    attempt: int = 0


class RolloutBuffer(Generic[Payload]):
    """Which request goes out next, and which rollout is ready. per_step: requests an optimizer step; total: of the whole stage; first:
    the step that training goes on from; consumers: ranks that take a part of each request; most_bytes: of finished rollouts that wait
    (0 = no bound). The step that is consumed next is admitted beyond it: a bound must not become a deadlock.
    """

    def __init__(self, per_step: int, max_age: int, total: int, first: int = 0, consumers: int = 1, most_bytes: int = 0) -> None:
        if per_step < 1 or max_age < 0 or total < 0 or first < 0 or consumers < 1 or most_bytes < 0:
            raise ValueError(
                f"rollouts: per_step={per_step} and consumers={consumers} must be >= 1, max_age={max_age}, total={total}, first={first} "
                f"and most_bytes={most_bytes} >= 0"
            )
        self._per_step, self._max_age, self._total = per_step, max_age, total
        self._consumers, self._most_bytes = consumers, most_bytes
        self._next = self._low = first * per_step  # all requests below `_low` are gone
        self._gone: set[int] = set()  # and these above it
        self._returned: list[int] = []
        self._attempts: dict[int, int] = {}  # made so far, of requests that are not gone
        self._flights: dict[int, dict[int, float]] = {}  # request -> attempt -> when it went out
        self._ready: dict[int, Ready[Payload]] = {}
        self._takers: dict[int, set[int]] = {}
        self._largest = self._bytes = 0

    @property
    def bytes(self) -> int:
        """Of the finished rollouts that wait."""
        return self._bytes

    @property
    def waiting(self) -> int:
        """Finished rollouts that not all consumers have taken."""
        return len(self._ready)

    @property
    def in_flight(self) -> int:
        """Requests that are being served."""
        return sum(not self._settled(i) for i in self._flights)

    @property
    def finished(self) -> bool:
        """Every request of the stage has been served."""
        return self._next >= self._total and not self._out_again() and not self.in_flight

    @property
    def consumed(self) -> bool:
        """Every request of the stage has been taken by all its consumers."""
        return self._low >= self._total

    def restore(self, saved: Mapping[int, Ready[Payload]]) -> list[int]:
        """Take up finished rollouts of a checkpoint, before anything is admitted; returns those that keep the bound on their age. The
        others are made again.
        """
        assert not self._attempts, "only a new buffer takes up what was saved"
        kept = [i for i, made in sorted(saved.items()) if self._next <= i < self._total and self._in_bound(i, made.version_low)]
        for i in kept:
            self._keep(i, replace(saved[i], attempt=0))
        return kept

    def admit(self, held_version: int, now: float = 0.0) -> Ticket | None:
        """The next request for an actor that holds `held_version`, or None while a bound (or the end) forbids it."""
        again = self._out_again()
        while not again and self._settled(self._next):  # taken up from a checkpoint, and perhaps taken already
            self._next += 1
        request = again[0] if again else self._next
        if request >= min(self._total, (held_version + 1 + self._max_age) * self._per_step) or not self._room(request):
            return None
        if again:
            heapq.heappop(self._returned)
        else:
            self._next += 1
        attempt = self._attempts[request] = self._attempts.get(request, 0) + 1
        self._flights.setdefault(request, {})[attempt] = now
        return Ticket(request, attempt)

    def overdue(self, now: float, deadline_s: float) -> list[int]:
        """Requests whose only attempt has been out for longer: they go out again, before all later ones, and the attempt may still win."""
        late = [
            i
            for i, out in self._flights.items()
            if len(out) == 1 and now - min(out.values()) > deadline_s and not self._settled(i) and i not in self._returned
        ]
        for request in late:
            heapq.heappush(self._returned, request)
        return late

    def give_back(self, ticket: Ticket) -> None:
        """An attempt is lost; where it was the only one, its request goes out again, before all later ones."""
        if self._landed(ticket) and ticket.request not in self._flights and ticket.request not in self._returned:
            heapq.heappush(self._returned, ticket.request)

    def complete(self, ticket: Ticket, ready: Ready[Payload]) -> bool:
        """An attempt is done; False if another one was faster, or nobody waits for it any more: then it is dropped."""
        if not self._landed(ticket) or self._settled(ticket.request):
            return False
        self._keep(ticket.request, replace(ready, attempt=ticket.attempt))
        return True

    def lose(self, request: int, attempt: int) -> None:
        """What this attempt made is gone, with the machine that kept it: the request goes out again, unless that happened already. Who has
        read it keeps what it has.
        """
        made = self._ready.get(request)
        if made is not None and made.attempt == attempt:
            self._bytes -= self._ready.pop(request).bytes
            if request not in self._flights and request not in self._returned:
                heapq.heappush(self._returned, request)

    def ready(self, request: int) -> bool:
        return request in self._ready

    def settled(self, request: int, consumer: int = 0) -> bool:
        """Nothing more will happen to the request: it is ready, or it was consumed and `offer` raises."""
        return request in self._ready or self._consumed(request, consumer)

    def offer(self, request: int, consumer: int = 0) -> Ready[Payload]:
        """A rollout that is ready, for a consumer that has not taken it. The age bound is asserted: a violation is our bug."""
        self._refuse_twice(request, consumer)
        made = self._ready[request]
        age = request // self._per_step - made.version_low
        assert self._in_bound(request, made.version_low), f"request {request}: age {age} outside [0, {self._max_age}]"
        return made

    def take(self, request: int, consumer: int = 0) -> None:
        """Consume what was offered, once a consumer. It may be gone meanwhile, and be made again for others."""
        self._refuse_twice(request, consumer)
        takers = self._takers.setdefault(request, set())
        takers.add(consumer)
        if len(takers) == self._consumers:
            self._close(request)

    def held(self, first: int) -> dict[int, Ready[Payload]]:
        """Finished rollouts of steps from `first` on: what a checkpoint after `first` updates keeps."""
        return {i: made for i, made in sorted(self._ready.items()) if i >= first * self._per_step}

    def _keep(self, request: int, made: Ready[Payload]) -> None:
        self._ready[request] = made
        self._bytes += made.bytes
        self._largest = max(self._largest, made.bytes)

    def _in_bound(self, request: int, version: int) -> bool:
        return 0 <= request // self._per_step - version <= self._max_age

    def _room(self, request: int) -> bool:
        """Whether another rollout fits. What the oldest step waits for always does."""
        if not self._most_bytes or request // self._per_step == self._low // self._per_step:
            return True
        return self._bytes + (self.in_flight + 1) * self._largest <= self._most_bytes

    def _out_again(self) -> list[int]:
        """Requests that go out again, the lowest first; those that were settled meanwhile are forgotten."""
        while self._returned and self._settled(self._returned[0]):
            heapq.heappop(self._returned)
        return self._returned

    def _settled(self, request: int) -> bool:
        return request in self._ready or request < self._low or request in self._gone

    def _consumed(self, request: int, consumer: int) -> bool:
        return request < self._low or request in self._gone or consumer in self._takers.get(request, ())

    def _refuse_twice(self, request: int, consumer: int) -> None:
        if self._consumed(request, consumer):
            raise ValueError(f"rollout request {request} was consumed already by its consumer {consumer}")

    def _landed(self, ticket: Ticket) -> bool:
        """Forget an attempt; False where it was not out."""
        out = self._flights.get(ticket.request, {})
        if out.pop(ticket.attempt, None) is None:
            return False
        if not out:
            del self._flights[ticket.request]
        return True

    def _close(self, request: int) -> None:
        """All have taken it."""
        self._bytes -= self._ready.pop(request).bytes
        del self._takers[request]
        self._attempts.pop(request, None)
        self._gone.add(request)
        while self._low in self._gone:
            self._gone.discard(self._low)
            self._low += 1


def requests_of(positions: range, clips: int) -> range:
    """The requests of `clips` clips each that cover the positions."""
    return range(positions.start // clips, -(-positions.stop // clips))


def per_step_of(batch: int, clips: int) -> int:
    """Requests an optimizer step.

    Raises:
        ValueError: a request would reach into two steps.
    """
    if batch % clips:
        raise ValueError(f"rollouts.clips={clips}: does not divide the mutual stage's batch={batch}; change one of them")
    return batch // clips


def consumers_of(local: int, clips: int) -> int:
    """Ranks with clips in a request, each with `local` clips a step.

    Raises:
        ValueError: ranks would share requests unequally.
    """
    if max(local, clips) % min(local, clips):
        raise ValueError(f"rollouts.clips={clips}: neither divides a worker's {local} clips a step, nor is a multiple of them; change it")
    return max(1, clips // local)
