"""The actors' side of the coordinator: posts in the pool are filled, given work, watched, and filled again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, OutOfMemoryError, RayActorError, RayDirectTransportError

from ..workers.wire import TornSnapshotError
from .elastic.change import ACTORS, Change
from .failure_policy import Decision, Trouble, curable
from .pool_attempt import Actor, Attempt, Bell, PoolPlan, Post
from .pool_balance import Balance
from .rollout_buffer import Ready, Ticket
from .rollouts_config import RolloutsConfig
from .root_cause import root_cause

T = TypeVar("T")
LOOK = 0.1  # seconds between two looks for late requests


class ActorSource(Protocol):
    """Where actors come from: handles with `load(snapshot)` and `generate(positions)`, as Ray has them."""

    def start(self) -> Any: ...

    def end(self, handle: Any) -> None: ...


@dataclass(frozen=True)
class RayActors:
    """Ray actors of class `kind`, made with `config`."""

    kind: type
    config: Any
    options: Mapping[str, Any]

    @cached_property
    def _maker(self) -> Any:
        """Once: each use of `ray.remote` exports the class anew."""
        return ray.remote(self.kind).options(**self.options)

    def start(self) -> Any:
        """A new actor's handle (Ray's handles are typed by what they proxy, so they stay Any here)."""
        return self._maker.remote(self.config)

    def end(self, handle: Any) -> None:
        with contextlib.suppress(Exception):  # it may be gone already
            ray.kill(handle)


class Crew:
    """Whoever works for an attempt. bell: rings when there may be something to do; note: is told what becomes of the actors."""

    def __init__(
        self, actors: ActorSource, config: RolloutsConfig, plan: PoolPlan, balance: Balance, bell: Bell, note: Callable[[Change], None]
    ) -> None:
        self._actors, self._config, self._plan, self._balance, self._bell = actors, config, plan, balance, bell
        self._note = note

    def staff(self, attempt: Attempt) -> None:
        """Have the pool at work, if there is work."""
        if attempt.over or attempt.version < 0:
            return
        if attempt.watch is None or attempt.watch.done():
            attempt.watch = self._have(attempt, self._watch(attempt))
        self._resize(attempt, self._balance.size_now)

    def _have(self, attempt: Attempt, work: Coroutine[Any, Any, None]) -> asyncio.Task:
        """Have it done beside; a mistake of ours in it ends the attempt instead of leaving trainers to wait for ever."""

        def done(task: asyncio.Task) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                attempt.fail(f"the rollout coordinator failed ({type(error).__name__}): {error}")
                attempt.dismiss()

        task = asyncio.create_task(work)
        task.add_done_callback(done)
        return task

    def _resize(self, attempt: Attempt, size: int) -> None:
        """Grow or shrink the pool; posts that are no longer wanted end between two requests."""
        while len(attempt.posts) < size:
            post = Post()
            attempt.posts.append(post)
            attempt.tasks = [task for task in attempt.tasks if not task.done()]
            attempt.tasks.append(self._have(attempt, self._serve(attempt, post)))
        while len(attempt.posts) > size:
            attempt.posts.pop().wanted = False

    async def _watch(self, attempt: Attempt) -> None:
        """Requests that are late go out again; where the configuration asks for it, the pool follows the trainers' need."""
        while not attempt.over:
            await asyncio.sleep(LOOK)
            late = attempt.buffer.overdue(time.monotonic(), attempt.pace.deadline)
            attempt.late += len(late)
            before, size = self._balance.size_now, self._balance.size(time.monotonic())
            if size != before:
                self._note(Change(ACTORS, before, size, "so many keep the trainers busy"))
            if late or size != len(attempt.posts):
                self._resize(attempt, size)
                self._bell.ring()
        attempt.dismiss()

    async def _serve(self, attempt: Attempt, post: Post) -> None:
        """The life of one post in the pool: load the newest version, ask for a request, generate, again."""
        actor = Actor(self._actors.start())
        try:
            while post.wanted and not attempt.over:
                ticket: Ticket | None = None
                given, post.since = (attempt.version, attempt.snapshot), (began := time.monotonic())
                proven = actor.proven
                try:
                    if actor.held < attempt.version:
                        await self._load(attempt, actor)
                    ticket = attempt.buffer.admit(actor.held, time.monotonic())
                    if ticket is not None:
                        await self._generate(attempt, actor, ticket)
                        if proven:  # the first one waits for the actor's start, or for a machine
                            self._balance.made(time.monotonic() - began)
                        continue
                except Exception as error:  # noqa: BLE001  every failure ends in a decision, and FAIL reaches the trainers
                    post.stop(time.monotonic())  # what follows may wait for weights
                    actor.held = -1
                    if await self._trouble(attempt, error, actor, ticket, given):
                        self._actors.end(actor.handle)
                        actor = Actor(self._actors.start())
                    continue
                finally:
                    post.stop(time.monotonic())
                if actor.held >= attempt.version:  # else there is more that it may do
                    await self._bell.wait()
        finally:
            self._actors.end(actor.handle)
            if post in attempt.posts:
                attempt.posts.remove(post)
        self._bell.ring()

    async def _load(self, attempt: Attempt, actor: Actor) -> None:
        began = time.monotonic()
        patience = attempt.loads.patience(actor.proven)
        snapshot = [attempt.snapshot] if self._config.direct else attempt.snapshot  # in a list: the actor reads it itself
        actor.held = await _within(actor.handle.load.remote(snapshot), patience)
        if actor.proven:  # the first one waits for the actor's start
            attempt.loads = attempt.loads.after(time.monotonic() - began)

    async def _generate(self, attempt: Attempt, actor: Actor, ticket: Ticket) -> None:
        first, began = ticket.request * self._plan.clips, time.monotonic()
        positions = list(range(first, first + self._plan.clips))
        answer, payload = actor.handle.generate.options(num_returns=2).remote(positions)
        patience = attempt.pace.patience(actor.proven)
        low, high, size = await _within(answer, patience)
        attempt.pace, actor.proven = attempt.pace.after(time.monotonic() - began), True
        attempt.troubles.made()
        if attempt.buffer.complete(ticket, Ready(low, high, payload, size)):
            attempt.served += 1
            attempt.tell(ticket.request)
        else:
            attempt.dropped += 1
        if attempt.over:
            self._bell.ring()

    async def _trouble(
        self, attempt: Attempt, error: Exception, actor: Actor, ticket: Ticket | None, given: tuple[int, ray.ObjectRef | None]
    ) -> bool:
        """Carry out the decision about a failure of an actor that was given these weights; whether another actor takes its place."""
        if attempt.over:  # what it was to make is there
            return False
        trouble, (version, snapshot) = trouble_of(error), given
        if trouble is not Trouble.NO_WEIGHTS or (snapshot is attempt.snapshot and not attempt.missing):  # of others, one tells it
            work = ("load", version) if ticket is None else ticket.request
            decision = attempt.troubles.decide(trouble, work, actor.began, time.monotonic())
        else:
            decision = Decision.REPUBLISH
        if ticket is not None:
            attempt.buffer.give_back(ticket)
        if decision is Decision.FAIL:
            cause = root_cause(error)
            attempt.fail(f"rollout actor failed ({type(cause).__name__}): {cause}", not curable(cause))
        elif decision is Decision.REPUBLISH:
            attempt.missing = attempt.missing or snapshot is attempt.snapshot
            self._bell.ring()
            while attempt.missing and not attempt.over:
                await self._bell.wait()
        else:
            attempt.replaced += 1
            self._note(Change(ACTORS, len(attempt.posts), len(attempt.posts), f"one was {trouble.value}, another takes its place"))
        self._bell.ring()
        return decision is Decision.REPLACE


async def _within(answer: Awaitable[T], seconds: float) -> T:
    limit = asyncio.timeout(seconds)  # `wait_for` of Python 3.11 may swallow a cancellation
    try:
        async with limit:
            return await answer
    except TimeoutError:
        if limit.expired():
            raise TimeoutError(f"it did not answer for {seconds:g} s") from None
        raise
    raise AssertionError("unreachable")


def trouble_of(error: BaseException) -> Trouble:
    """What kind of failure an exception of an actor's call tells of."""
    if isinstance(error, TornSnapshotError | ObjectLostError | RayDirectTransportError):
        return Trouble.NO_WEIGHTS
    if isinstance(error, RayActorError | OutOfMemoryError):
        return Trouble.LOST
    if isinstance(error, TimeoutError | GetTimeoutError):
        return Trouble.SILENT
    return Trouble.BROKEN
