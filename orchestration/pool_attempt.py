"""What the coordinator knows: of the pool's purpose, of one attempt of the training, of a post in the pool and who holds it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import ray

from .failure_policy import Pace, Troubles
from .rollout_buffer import RolloutBuffer


@dataclass(frozen=True)
class PoolPlan:
    """What a pool is for: the mutual stage. per_step: requests of `clips` clips an optimizer step, `steps` of them; consumers: ranks in a
    request.
    """

    clips: int
    per_step: int
    consumers: int
    steps: int


class Bell:
    """Wakes whoever has found nothing to do. One after the other: what trainers ask meanwhile does not wait behind all of them."""

    def __init__(self) -> None:
        self._asleep = list[asyncio.Future]()
        self._waking = deque[asyncio.Future]()

    async def wait(self) -> None:
        """Until it rings. Nothing may come between a look for work and this."""
        sleeper = asyncio.get_running_loop().create_future()
        self._asleep.append(sleeper)
        await sleeper

    def ring(self) -> None:
        """Something has changed."""
        idle = not self._waking
        self._waking.extend(self._asleep)
        self._asleep.clear()
        if idle and self._waking:
            self._wake()

    def _wake(self) -> None:
        sleeper = self._waking.popleft()
        if not sleeper.done():
            sleeper.set_result(None)
        if self._waking:
            asyncio.get_running_loop().call_soon(self._wake)


@dataclass(eq=False)
class Post:
    """A post in the pool, and whoever holds it now. busy: seconds of work since the last look; since: when its work began."""

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
class Actor:
    """An actor of the pool. held: the version that it has loaded; proven: it has made a rollout, so its pace is known; began: when."""

    handle: Any
    held: int = -1
    proven: bool = False
    began: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Attempt:
    """All that one attempt of the training knows. What waits holds its own attempt: no other can reach it, nor it another."""

    number: int
    buffer: RolloutBuffer[ray.ObjectRef]
    pace: Pace  # of requests
    loads: Pace
    troubles: Troubles
    version: int = -1
    snapshot: ray.ObjectRef | None = None
    missing: bool = False  # the snapshot has to be published once more
    served: int = 0
    replaced: int = 0
    late: int = 0
    dropped: int = 0
    error: str | None = None
    hopeless: bool = False  # what was refused would be refused again
    watch: asyncio.Task | None = None
    tasks: list[asyncio.Task] = field(default_factory=list)  # a post's each
    posts: list[Post] = field(default_factory=list)
    takers: dict[int, list[asyncio.Future]] = field(default_factory=dict)  # request -> trainers that wait for it

    @property
    def over(self) -> bool:
        """There is nothing more to generate."""
        return self.buffer.finished or self.error is not None

    def refuse(self) -> None:
        """Raise what stopped the pool, if something did."""
        if self.error:
            raise (ValueError if self.hopeless else RuntimeError)(self.error)

    def fail(self, error: str, hopeless: bool = False) -> None:
        """Stop, for the reason that came first; the trainers that wait are told."""
        if self.error is None:
            self.error, self.hopeless = error, hopeless
        for request in list(self.takers):
            self.tell(request)

    async def wait_for(self, request: int) -> None:
        """Until the request may be there."""
        waiter = asyncio.get_running_loop().create_future()
        self.takers.setdefault(request, []).append(waiter)
        await waiter

    def tell(self, request: int) -> None:
        """Wake the trainers that wait for a request."""
        for waiter in self.takers.pop(request, ()):
            if not waiter.done():
                waiter.set_result(None)

    def dismiss(self) -> None:
        """End its actors, also those that are at work, or silent: nobody needs what they make."""
        for task in self.tasks:
            task.cancel()
        self.tasks.clear()
        self.posts.clear()
