"""The coordinator: an actor between the trainers and the rollout pool. It holds references and rules, never tensors.

    trainer rank 0 --begin(first step, what a checkpoint kept)--> the attempt's number, which every later call carries
    trainer rank 0 --publish(version, snapshot ref)--> coordinator --load(ref)--> each actor, between requests
                                                            |  admits while i < (held + 1 + max_age) * per_step   (rollout_buffer)
                                                            |  generate(positions)  ------------------------->  actor
    every trainer --take(requests, had)-- waits --------> ready? <--- (versions, bytes) + payload stays in the object store
    every trainer --lost(request)------> it is made again               (its node died with the payload)

A trainer asks for a step's rollouts, and reads them, while it computes the step before. They count as taken when it says that it had them:
until then they are what a checkpoint keeps.

Who waits for whom, and who ends the wait:
    a trainer waits for its rollouts          <- an actor that completes one; the end of the attempt
    an idle actor waits for work              <- a new version; a request that comes back or is late; room in the buffer; the end
    the coordinator waits for an actor        <- its answer; its death; a deadline from the running quantile (failure_policy.Pace)
    a thread of rank 0 waits to publish again <- an actor that found the weights gone or torn; the end of the stage or the attempt
Versions count optimizer steps, so with max_age = 0 this is synchronous training: there is one loop, not two. What an actor makes is a
function of the positions and the version alone, so it may be made twice, and anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from .elastic.change import Change, Noted
from .failure_policy import Pace, Troubles
from .pool_attempt import Attempt, Bell, PoolPlan
from .pool_balance import Balance
from .rollout_buffer import Ready, RolloutBuffer
from .rollout_crew import ActorSource, Crew
from .rollouts_config import RolloutsConfig


class Coordinator:
    """What trainers ask; see the module docstring. actors: where those of the pool come from."""

    def __init__(self, actors: ActorSource, config: RolloutsConfig, plan: PoolPlan) -> None:
        self._config, self._plan = config, plan
        self._bell, self._balance, self._noted = Bell(), Balance(config, plan.per_step), Noted()
        self._crew = Crew(actors, config, plan, self._balance, self._bell, self._noted.add)
        self._attempt = self._new_attempt(0, 0)

    def _new_attempt(self, number: int, first: int) -> Attempt:
        p, c = self._plan, self._config
        buffer: RolloutBuffer[ray.ObjectRef] = RolloutBuffer(
            p.per_step, c.max_age, p.per_step * p.steps, first, p.consumers, round(c.buffer_mb * 2**20)
        )
        pace = Pace(c.deadline_s, c.straggler)
        return Attempt(number, buffer, pace, pace, Troubles(c.max_failures))

    async def begin(self, first: int, saved: dict[int, tuple[int, int, int, list[ray.ObjectRef]]] | None = None) -> int:
        """Trainers start at step `first`: their number, which all later calls carry. Earlier attempts end. saved: what a checkpoint kept,
        request -> (lowest version, highest, bytes, [payload]).
        """
        earlier = self._attempt
        earlier.fail(f"attempt {earlier.number} of the training is over: attempt {earlier.number + 1} has begun")
        earlier.dismiss()
        self._attempt = attempt = self._new_attempt(earlier.number + 1, first)
        kept = {i: Ready(low, high, payload, size) for i, (low, high, size, [payload]) in (saved or {}).items()}
        attempt.buffer.restore(kept)
        self._balance.begin(first)
        self._bell.ring()
        return attempt.number

    async def publish(self, number: int, version: int, snapshot: list[ray.ObjectRef]) -> None:
        """A new weight version of attempt `number`, or the same once more where that was asked for; the reference comes in a list so that
        Ray does not fetch it here.
        """
        attempt = self._current(number)
        attempt.refuse()
        again = attempt.missing and version == attempt.version
        if version <= attempt.version and not again:
            raise ValueError(f"weights of version {version} were published after version {attempt.version}")
        attempt.version, attempt.snapshot, attempt.missing = version, snapshot[0], False
        self._crew.staff(attempt)  # the pool starts with the first version: unimodal stages need no actors
        self._bell.ring()

    async def missing(self, number: int) -> bool:
        """Waits until the newest weights are gone or torn and have to be published once more (True), or nobody needs any (False)."""
        attempt = self._current(number)
        while not (attempt.missing or attempt.error or attempt.buffer.consumed):
            await self._bell.wait()
        return attempt.missing and not attempt.error

    async def give_up(self, number: int, reason: str) -> None:
        """The weights that are missing will not come."""
        self._current(number).fail(reason)
        self._bell.ring()

    async def take(
        self, number: int, requests: Sequence[int], rank: int, had: Sequence[int] = (), trained_s: float | None = None
    ) -> list[tuple[int, Any]]:
        """[(attempt at it, payload reference)] of the requests, when all are there. They stay until the rank says that it had them.
        trained_s: seconds between its last two takes.
        """
        attempt, consumer = self._current(number), rank % self._plan.consumers
        for request in had:
            attempt.buffer.take(request, consumer)
        if had and trained_s is not None:
            self._balance.trained(had[0] // self._plan.per_step, trained_s)
        if had and (self._config.buffer_mb or attempt.buffer.consumed):
            self._bell.ring()  # there is room again, or nothing more to come
        while not attempt.error and (open_ := [i for i in requests if not attempt.buffer.settled(i, consumer)]):
            await attempt.wait_for(open_[0])
        attempt.refuse()
        return [(made.attempt, made.payload) for made in (attempt.buffer.offer(i, consumer) for i in requests)]

    async def lost(self, number: int, request: int, attempt: int) -> None:
        """A payload that was offered is gone."""
        current = self._current(number)
        current.buffer.lose(request, attempt)
        self._crew.staff(current)
        self._bell.ring()

    async def held(self, number: int, first: int, share: int, of: int) -> list[tuple[int, int, int, list[Any]]]:
        """[(request, lowest version, highest, [payload])] of finished rollouts from step `first` on: those that rank `share` of `of` takes,
        or takes first, so that no other rank can have taken them before it asked.
        """
        kept = self._current(number).buffer.held(first)
        of_step = self._plan.per_step
        return [(i, m.version_low, m.version_high, [m.payload]) for i, m in kept.items() if i % of_step * of // of_step == share]

    async def status(self) -> dict[str, float]:
        """What the pool does, as metrics; `busy` is the share of the actors' time since the last call."""
        a, now = self._attempt, time.monotonic()
        busy = self._balance.busy([post.work(now) for post in a.posts], now)
        return {
            "actors": len(a.posts),
            "wanted": self._balance.wanted(),
            "busy": busy,
            "ready": a.buffer.waiting,
            "in_flight": a.buffer.in_flight,
            "buffer_mb": a.buffer.bytes / 2**20,
            "late": a.late,
            "dropped": a.dropped,
            "replaced": a.replaced,
            "served": a.served,
            "version": a.version,
            "attempt": a.number,
        }

    async def changes(self, since: int) -> tuple[int, list[Change], int]:
        """What became of the pool's actors, from change number `since` on, after the number of the next one; and how many there are."""
        return *self._noted.since(since), len(self._attempt.posts)

    def _current(self, number: int) -> Attempt:
        if number != self._attempt.number:
            raise RuntimeError(f"attempt {number} of the training is over: attempt {self._attempt.number} has begun")
        return self._attempt
