"""The coordinator: an actor between the trainers and the rollout pool. It holds references and rules, never tensors.

    trainer rank 0 --begin(first step)--> the attempt's number, which all ranks get and every later call carries
    trainer rank 0 --publish(version, snapshot ref)--> coordinator --load(ref)--> each actor, between clips
                                                            |  admits while i < (held + 1 + max_age) * per_step   (rollout_buffer)
                                                            |  generate(positions)  ------------------------->  actor
    trainer rank r --take(step, rank)--- waits ----------> ready? <--- (versions) + payload stays in the object store

Who waits for whom: a trainer waits for its rollout; an actor's task waits for a version new enough to be admitted under; the
publication of a version wakes the tasks, the completion of a rollout wakes the trainers. Versions count optimizer steps, so with
max_age = 0 this is synchronous training: there is one loop, not two.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OwnerDiedError, RayActorError

from ..workers.rollout_actor import RolloutActor, RolloutActorConfig
from .failure_policy import Decision, PoolStatus, decide
from .rollout_buffer import Ready, RolloutBuffer


@dataclass(eq=False)
class _Attempt:
    """All that one attempt of the training knows. What waits holds its own attempt: no other can reach it, nor it another."""

    number: int
    buffer: RolloutBuffer[ray.ObjectRef]
    version: int = -1
    snapshot: ray.ObjectRef | None = None
    failures: int = 0
    served: int = 0
    error: str | None = None
    hopeless: bool = False  # what was refused would be refused again
    tasks: list[asyncio.Task] = field(default_factory=list)

    @property
    def idle(self) -> bool:
        """There is nothing more to generate."""
        return self.buffer.finished or self.error is not None


class Coordinator:
    """See the module docstring. Requests: number i stands for rank i % ranks of step i // ranks, `local` clips each."""

    def __init__(self, actor: RolloutActorConfig, actors: int, ranks: int, local: int, steps: int, max_age: int, max_failures: int) -> None:
        self._actor_config, self._ranks, self._local, self._max_failures = actor, ranks, local, max_failures
        self._count, self._max_age, self._total = actors, max_age, ranks * steps
        self._changed = asyncio.Condition()
        self._attempt = self._new_attempt(0, 0)

    def _new_attempt(self, number: int, first: int) -> _Attempt:
        return _Attempt(number, RolloutBuffer(self._ranks, self._max_age, self._total, first))

    async def begin(self, first: int) -> int:
        """Trainers start at step `first`: their number, which `publish` and `take` carry. Earlier attempts end."""
        async with self._changed:
            earlier = self._attempt
            earlier.error = f"attempt {earlier.number} of the training is over: attempt {earlier.number + 1} has begun"
            for task in earlier.tasks:
                task.cancel()  # its actors end with it
            self._attempt = self._new_attempt(earlier.number + 1, first)
            self._changed.notify_all()
            return self._attempt.number

    async def publish(self, number: int, version: int, snapshot: list[ray.ObjectRef]) -> None:
        """A new weight version of attempt `number`; the reference comes in a list so that Ray does not fetch it here."""
        attempt = self._current(number)
        async with self._changed:
            if attempt.error:
                raise RuntimeError(attempt.error)
            if version <= attempt.version:
                raise ValueError(f"weights of version {version} were published after version {attempt.version}")
            attempt.version, attempt.snapshot = version, snapshot[0]
            if not attempt.tasks:  # the pool starts with the first version: unimodal stages need no actors
                attempt.tasks = [asyncio.create_task(self._serve(attempt)) for _ in range(self._count)]
            self._changed.notify_all()

    async def take(self, number: int, step: int, rank: int) -> list[Any]:
        """[payload reference] of a rank's rollout in attempt `number`; waits until it is there."""
        attempt, request = self._current(number), step * self._ranks + rank
        async with self._changed:
            await self._changed.wait_for(lambda: attempt.error or attempt.buffer.settled(request))
            if attempt.error:
                raise (ValueError if attempt.hopeless else RuntimeError)(attempt.error)
            return [attempt.buffer.take(request).payload]

    async def status(self) -> dict[str, int]:
        """Counts for the record."""
        attempt = self._attempt
        return {"served": attempt.served, "failures": attempt.failures, "version": attempt.version, "attempt": attempt.number}

    def _current(self, number: int) -> _Attempt:
        if number != self._attempt.number:
            raise ValueError(f"rollouts: attempt {number} of the training is over, attempt {self._attempt.number} has begun")
        return self._attempt

    async def _serve(self, attempt: _Attempt) -> None:
        """The life of one place in the pool: load the newest version, ask for a request, generate, again."""
        handle, held = self._start(), -1
        while not attempt.idle:
            request: int | None = None
            wanted = attempt.version
            try:
                if held < wanted:
                    held = await handle.load.remote(attempt.snapshot)
                request = attempt.buffer.admit(held)
                if request is None:
                    await self._newer(attempt, held)
                    continue
                await self._generate(attempt, handle, request)
            except Exception as error:  # noqa: BLE001  every failure ends in a decision, and FAIL reaches the trainers
                handle, held = await self._fail(attempt, error, request, wanted, handle), -1
        async with self._changed:
            self._changed.notify_all()

    async def _newer(self, attempt: _Attempt, version: int) -> None:
        """Wait for a version after `version`, or the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: attempt.version > version or attempt.idle)

    async def _generate(self, attempt: _Attempt, handle: Any, request: int) -> None:
        positions = list(range(request * self._local, (request + 1) * self._local))
        versions, payload = handle.generate.options(num_returns=2).remote(positions)
        low, high = await versions
        async with self._changed:
            attempt.buffer.complete(request, Ready(low, high, payload))
            attempt.served += 1
            self._changed.notify_all()

    async def _fail(self, attempt: _Attempt, error: Exception, request: int | None, wanted: int, handle: Any) -> Any:
        """Carry out the decision about a failure; returns the handle to go on with."""
        orphaned = isinstance(error, OwnerDiedError)
        status = PoolStatus(attempt.failures + (not orphaned), lost=isinstance(error, RayActorError), orphaned=orphaned)
        attempt.failures = status.failures
        decision = decide(status, self._max_failures)
        async with self._changed:
            if decision is Decision.FAIL:
                attempt.error = f"rollout actor failed ({type(error).__name__}): {error}"
                attempt.hopeless = isinstance(error, ValueError)
            elif request is not None:
                attempt.buffer.give_back(request)
            self._changed.notify_all()
        if decision is Decision.WAIT:
            await self._newer(attempt, wanted)
        return self._start() if decision is Decision.REPLACE else handle

    def _start(self) -> Any:
        """A new actor's handle (Ray's handles are typed by what they proxy, so they stay Any here)."""
        threads = str(self._actor_config.threads)
        options = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}}}
        handle: Any = ray.remote(RolloutActor).options(**options)
        return handle.remote(self._actor_config)
