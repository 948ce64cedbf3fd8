"""The coordinator: an actor between the trainers and the rollout pool. It holds references and rules, never tensors.

    trainer rank 0 --begin(first step, what a checkpoint kept)--> the attempt's number, which every later call carries
    trainer rank 0 --publish(version, snapshot ref)--> coordinator --load(ref)--> each actor, between requests
                                                            |  admits while i < (held + 1 + max_age) * per_step   (rollout_buffer)
                                                            |  generate(positions)  ------------------------->  actor
    every trainer --take(requests)----- waits ----------> ready? <--- (versions, bytes) + payload stays in the object store
    every trainer --lost(request)------> it is made again               (its node died with the payload)

Who waits for whom, and who ends the wait:
    a trainer waits for its rollouts          <- an actor that completes one; the end of the attempt
    an idle actor waits for work              <- a new version; a request that comes back or is late; room in the buffer; the end
    the coordinator waits for an actor        <- its answer; its death; a deadline from the running quantile (failure_policy.Pace)
    a thread of rank 0 waits to publish again <- an actor that found the weights gone or torn; the end of the stage or the attempt
Versions count optimizer steps, so with max_age = 0 this is synchronous training: there is one loop, not two. What an actor makes is a
function of the positions and the version alone, so it may be made twice, and anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, OutOfMemoryError, RayActorError

from ..workers.rollout_actor import RolloutActor
from ..workers.wire import TornSnapshotError
from .failure_policy import Decision, Pace, PoolStatus, Trouble, decide
from .pool_balance import Balance
from .rollout_buffer import Ready, RolloutBuffer, Ticket
from .rollouts_config import RolloutsConfig

T = TypeVar("T")
LOOK = 0.1  # seconds between two looks for late requests


@dataclass(frozen=True)
class PoolPlan:
    """What a pool is for: the mutual stage. per_step: requests of `clips` clips an optimizer step, `steps` of them; consumers: ranks in a
    request.
    """

    clips: int
    per_step: int
    consumers: int
    steps: int


@dataclass(eq=False)
class _Place:
    """One place in the pool, and whoever holds it now. busy: seconds of work since the last look; since: when its work began."""

    wanted: bool = True
    busy: float = 0.0
    since: float | None = None

    def stop(self, now: float) -> None:
        if self.since is not None:
            self.busy, self.since = self.busy + now - self.since, None

    def work(self, now: float) -> float:
        """Seconds of work since the last call."""
        working = self.since is not None
        self.stop(now)
        total, self.busy, self.since = self.busy, 0.0, now if working else None
        return total


@dataclass(eq=False)
class _Actor:
    """An actor of the pool. held: the version that it has loaded; proven: it has made a rollout, so its pace is known; began: when."""

    handle: Any
    held: int = -1
    proven: bool = False
    began: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class _Attempt:
    """All that one attempt of the training knows. What waits holds its own attempt: no other can reach it, nor it another."""

    number: int
    buffer: RolloutBuffer[ray.ObjectRef]
    pace: Pace  # of requests
    loads: Pace
    version: int = -1
    snapshot: ray.ObjectRef | None = None
    missing: bool = False  # the snapshot has to be published once more
    failures: int = 0  # since the last rollout
    failed: float = 0.0  # when the last of them was
    repeats: dict[Any, int] = field(default_factory=dict)  # trouble and work -> how often the work ended in it
    served: int = 0
    replaced: int = 0
    late: int = 0
    dropped: int = 0
    error: str | None = None
    hopeless: bool = False  # what was refused would be refused again
    watch: asyncio.Task | None = None
    tasks: list[asyncio.Task] = field(default_factory=list)  # a place's each
    places: list[_Place] = field(default_factory=list)
    takers: dict[int, list[asyncio.Future]] = field(default_factory=dict)  # request -> trainers that wait for it

    @property
    def over(self) -> bool:
        """There is nothing more to generate."""
        return self.buffer.finished or self.error is not None

    def tell(self, request: int) -> None:
        """Wake the trainers that wait for a request."""
        for waiter in self.takers.pop(request, ()):
            if not waiter.done():
                waiter.set_result(None)

    def tell_all(self) -> None:
        for request in list(self.takers):
            self.tell(request)


class Coordinator:
    """See the module docstring. actor: what each actor of class `kind` is made with."""

    def __init__(self, actor: Any, config: RolloutsConfig, plan: PoolPlan, kind: type = RolloutActor) -> None:
        self._actor_config, self._kind, self._config, self._plan = actor, kind, config, plan
        self._idle: set[asyncio.Future] = set()  # actors that wait for work
        self._attempt = self._new_attempt(0, 0)
        self._balance = Balance(config, plan.per_step)

    def _new_attempt(self, number: int, first: int) -> _Attempt:
        p, c = self._plan, self._config
        buffer: RolloutBuffer[ray.ObjectRef] = RolloutBuffer(
            p.per_step, c.max_age, p.per_step * p.steps, first, p.consumers, round(c.buffer_mb * 2**20)
        )
        pace = Pace(c.deadline_s, c.straggler)
        return _Attempt(number, buffer, pace, pace)

    async def begin(self, first: int, saved: dict[int, tuple[int, int, int, list[ray.ObjectRef]]] | None = None) -> int:
        """Trainers start at step `first`: their number, which all later calls carry. Earlier attempts end. saved: what a checkpoint kept,
        request -> (lowest version, highest, bytes, [payload]).
        """
        earlier = self._attempt
        earlier.error = f"attempt {earlier.number} of the training is over: attempt {earlier.number + 1} has begun"
        self._dismiss(earlier)
        earlier.tell_all()
        self._attempt = attempt = self._new_attempt(earlier.number + 1, first)
        kept = {i: Ready(low, high, payload, size) for i, (low, high, size, [payload]) in (saved or {}).items()}
        attempt.buffer.restore(kept)
        self._balance.begin(first)
        self._wake()
        return attempt.number

    async def publish(self, number: int, version: int, snapshot: list[ray.ObjectRef]) -> None:
        """A new weight version of attempt `number`, or the same once more where that was asked for; the reference comes in a list so that
        Ray does not fetch it here.
        """
        attempt = self._current(number)
        self._refuse(attempt)
        again = attempt.missing and version == attempt.version
        if version <= attempt.version and not again:
            raise ValueError(f"weights of version {version} were published after version {attempt.version}")
        attempt.version, attempt.snapshot, attempt.missing = version, snapshot[0], False
        self._staff(attempt)  # the pool starts with the first version: unimodal stages need no actors
        self._wake()

    async def missing(self, number: int) -> bool:
        """Waits until the newest weights are gone or torn and have to be published once more (True), or nobody needs any (False)."""
        attempt = self._current(number)
        while not (attempt.missing or attempt.error or attempt.buffer.consumed):
            await self._sleep()
        return attempt.missing and not attempt.error

    async def take(self, number: int, requests: Sequence[int], rank: int) -> list[tuple[int, Any]]:
        """[(attempt at it, payload reference)] of the requests, when all are there."""
        attempt, consumer = self._current(number), rank % self._plan.consumers
        self._balance.asked(requests[0] // self._plan.per_step, time.monotonic())
        while not attempt.error and (open_ := [i for i in requests if not attempt.buffer.settled(i, consumer)]):
            waiter = asyncio.get_running_loop().create_future()
            attempt.takers.setdefault(open_[0], []).append(waiter)
            await waiter
        self._refuse(attempt)
        made = [attempt.buffer.take(i, consumer) for i in requests]
        self._balance.given(time.monotonic())
        if self._config.buffer_mb or attempt.buffer.consumed:
            self._wake()  # there is room again, or nothing more to come
        return [(m.attempt, m.payload) for m in made]

    async def lost(self, number: int, request: int, rank: int, attempt: int) -> None:
        """A payload that was given out is gone."""
        current = self._current(number)
        current.buffer.lose(request, rank % self._plan.consumers, attempt)
        self._staff(current)
        self._wake()

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
        busy = self._balance.busy([place.work(now) for place in a.places], now)
        return {
            "actors": len(a.places),
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

    def _current(self, number: int) -> _Attempt:
        if number != self._attempt.number:
            raise ValueError(f"rollouts: attempt {number} of the training is over, attempt {self._attempt.number} has begun")
        return self._attempt

    def _refuse(self, attempt: _Attempt) -> None:
        if attempt.error:
            raise (ValueError if attempt.hopeless else RuntimeError)(attempt.error)

    def _wake(self) -> None:
        """Idle actors look whether there is work."""
        for sleeper in self._idle:
            if not sleeper.done():
                sleeper.set_result(None)
        self._idle.clear()

    async def _sleep(self) -> None:
        """Until something has changed. Nothing may come between a look for work and this."""
        sleeper = asyncio.get_running_loop().create_future()
        self._idle.add(sleeper)
        await sleeper

    def _staff(self, attempt: _Attempt) -> None:
        """Have the pool at work, if there is work."""
        if attempt.over or attempt.version < 0:
            return
        if attempt.watch is None or attempt.watch.done():
            attempt.watch = self._have(attempt, self._watch(attempt))
        self._resize(attempt, self._balance.size_now)

    def _dismiss(self, attempt: _Attempt) -> None:
        """End its actors, also those that are at work, or silent: nobody needs what they make."""
        for task in attempt.tasks:
            task.cancel()
        attempt.tasks.clear()
        attempt.places.clear()

    def _have(self, attempt: _Attempt, work: Coroutine[Any, Any, None]) -> asyncio.Task:
        """Have it done beside; a mistake of ours in it ends the attempt instead of leaving trainers to wait for ever."""

        def done(task: asyncio.Task) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                attempt.error = attempt.error or f"the rollout coordinator failed ({type(error).__name__}): {error}"
                attempt.tell_all()
                self._dismiss(attempt)

        task = asyncio.create_task(work)
        task.add_done_callback(done)
        return task

    def _resize(self, attempt: _Attempt, size: int) -> None:
        """Grow or shrink the pool; places that are no longer wanted end between two requests."""
        while len(attempt.places) < size:
            place = _Place()
            attempt.places.append(place)
            attempt.tasks = [task for task in attempt.tasks if not task.done()]
            attempt.tasks.append(self._have(attempt, self._serve(attempt, place)))
        while len(attempt.places) > size:
            attempt.places.pop().wanted = False

    async def _watch(self, attempt: _Attempt) -> None:
        """Requests that are late go out again; where the configuration asks for it, the pool follows the trainers' need."""
        while not attempt.over:
            await asyncio.sleep(LOOK)
            late = attempt.buffer.overdue(time.monotonic(), attempt.pace.deadline)
            attempt.late += len(late)
            size = self._balance.size(time.monotonic())
            if late or size != len(attempt.places):
                self._resize(attempt, size)
                self._wake()
        self._dismiss(attempt)

    async def _serve(self, attempt: _Attempt, place: _Place) -> None:
        """The life of one place in the pool: load the newest version, ask for a request, generate, again."""
        actor = _Actor(self._start())
        try:
            while place.wanted and not attempt.over:
                ticket: Ticket | None = None
                snapshot, place.since = attempt.snapshot, (began := time.monotonic())
                try:
                    if actor.held < attempt.version:
                        await self._load(attempt, actor)
                    ticket = attempt.buffer.admit(actor.held, time.monotonic())
                    if ticket is not None:
                        await self._generate(attempt, actor, ticket)
                        self._balance.made(time.monotonic() - began)
                        continue
                except Exception as error:  # noqa: BLE001  every failure ends in a decision, and FAIL reaches the trainers
                    actor.held = -1
                    if await self._trouble(attempt, error, actor, ticket, snapshot):
                        self._end(actor.handle)
                        actor = _Actor(self._start())
                    continue
                finally:
                    place.stop(time.monotonic())
                if actor.held >= attempt.version:  # else there is more that it may do
                    await self._sleep()
        finally:
            self._end(actor.handle)
            if place in attempt.places:
                attempt.places.remove(place)
        self._wake()

    async def _within(self, answer: Awaitable[T], seconds: float) -> T:
        limit = asyncio.timeout(seconds)  # `wait_for` of Python 3.11 may swallow a cancellation
        try:
            async with limit:
                return await answer
        except TimeoutError:
            if limit.expired():
                raise TimeoutError(f"it did not answer for {seconds:g} s") from None
            raise
        raise AssertionError("unreachable")

    async def _load(self, attempt: _Attempt, actor: _Actor) -> None:
        began = time.monotonic()
        patience = attempt.loads.silence if actor.proven else self._config.deadline_s
        actor.held = await self._within(actor.handle.load.remote(attempt.snapshot), patience)
        if actor.proven:  # the first one waits for the actor's start
            attempt.loads = attempt.loads.after(time.monotonic() - began)

    async def _generate(self, attempt: _Attempt, actor: _Actor, ticket: Ticket) -> None:
        first, began = ticket.request * self._plan.clips, time.monotonic()
        positions = list(range(first, first + self._plan.clips))
        answer, payload = actor.handle.generate.options(num_returns=2).remote(positions)
        patience = attempt.pace.silence if actor.proven else self._config.deadline_s
        low, high, size = await self._within(answer, patience)
        attempt.pace, actor.proven = attempt.pace.after(time.monotonic() - began), True
        attempt.failures = 0
        if attempt.buffer.complete(ticket, Ready(low, high, payload, size)):
            attempt.served += 1
            attempt.tell(ticket.request)
        else:
            attempt.dropped += 1
        if attempt.over:
            self._wake()

    async def _trouble(self, attempt: _Attempt, error: Exception, actor: _Actor, ticket: Ticket | None, snapshot: Any) -> bool:
        """Carry out the decision about a failure of an actor that was given `snapshot`; whether another actor takes its place."""
        if attempt.over:  # what it was to make is there
            return False
        trouble = trouble_of(error)
        if trouble is not Trouble.NO_WEIGHTS or (snapshot is attempt.snapshot and not attempt.missing):  # of others, one tells it
            decision = self._decide(attempt, trouble, actor, ticket)
        else:
            decision = Decision.REPUBLISH
        if ticket is not None:
            attempt.buffer.give_back(ticket)
        if decision is Decision.FAIL:
            attempt.error = f"rollout actor failed ({type(error).__name__}): {error}"
            attempt.hopeless = isinstance(error, ValueError)
            attempt.tell_all()
        elif decision is Decision.REPUBLISH:
            attempt.missing = attempt.missing or snapshot is attempt.snapshot
            self._wake()
            while attempt.missing and not attempt.over:
                await self._sleep()
        else:
            attempt.replaced += 1
        self._wake()
        return decision is Decision.REPLACE

    def _decide(self, attempt: _Attempt, trouble: Trouble, actor: _Actor, ticket: Ticket | None) -> Decision:
        """Count a failure, and say what follows. Actors that were there when the last one failed have failed with it, as on one machine."""
        work = (trouble, ("load", attempt.version) if ticket is None else ticket.request)
        attempt.repeats[work] = repeats = attempt.repeats.get(work, 0) + 1
        if len(attempt.repeats) > 1000:  # of a long run that goes well: old work is not met again
            attempt.repeats.pop(next(iter(attempt.repeats)))
        if trouble is not Trouble.NO_WEIGHTS and actor.began >= attempt.failed:
            attempt.failures, attempt.failed = attempt.failures + 1, time.monotonic()
        return decide(PoolStatus(trouble, attempt.failures, repeats), self._config.max_failures)

    def _end(self, handle: Any) -> None:
        with contextlib.suppress(Exception):  # it may be gone already
            ray.kill(handle)

    def _start(self) -> Any:
        """A new actor's handle (Ray's handles are typed by what they proxy, so they stay Any here)."""
        handle: Any = ray.remote(self._kind).options(**self._config.options)
        return handle.remote(self._actor_config)


def trouble_of(error: BaseException) -> Trouble:
    """What kind of failure an exception of an actor's call tells of."""
    if isinstance(error, TornSnapshotError | ObjectLostError):
        return Trouble.NO_WEIGHTS
    if isinstance(error, RayActorError | OutOfMemoryError):
        return Trouble.LOST
    if isinstance(error, TimeoutError | GetTimeoutError):
        return Trouble.SILENT
    return Trouble.BROKEN
