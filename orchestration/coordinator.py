"""The coordinator: an actor between the trainers and the rollout pool. It holds references and rules, never tensors.

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
from typing import Any

import ray
from ray.exceptions import RayActorError

from ..workers.rollout_actor import RolloutActor, RolloutActorConfig
from .failure_policy import Decision, PoolStatus, decide
from .rollout_buffer import Ready, RolloutBuffer


class Coordinator:
    """See the module docstring. Requests: number i stands for rank i % ranks of step i // ranks, `local` clips each."""

    def __init__(self, actor: RolloutActorConfig, actors: int, ranks: int, local: int, steps: int, max_age: int, max_failures: int) -> None:
        self._actor_config, self._ranks, self._local, self._max_failures = actor, ranks, local, max_failures
        self._count, self._max_age, self._total = actors, max_age, ranks * steps
        self._changed = asyncio.Condition()
        self._tasks: list[asyncio.Task] = []
        self._reset()

    def _reset(self) -> None:
        """Begin the stage: nothing admitted, nothing held. Actors of an earlier attempt end with the tasks that hold them."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        self._buffer: RolloutBuffer[ray.ObjectRef] = RolloutBuffer(self._ranks, self._max_age, self._total)
        self._version, self._snapshot = -1, None
        self._failures, self._served = 0, 0
        self._error: str | None = None

    async def publish(self, version: int, snapshot: list[ray.ObjectRef]) -> None:
        """A new weight version; the reference comes in a list so that Ray does not fetch it here.

        Version 0 begins the stage, also when restarted trainers begin it again.
        """
        async with self._changed:
            if version == 0:
                self._reset()
            if version <= self._version:
                raise ValueError(f"weights of version {version} were published after version {self._version}")
            self._version, self._snapshot = version, snapshot[0]
            self._changed.notify_all()
        if not self._tasks:  # the pool starts with the first version: unimodal stages need no actors
            self._tasks = [asyncio.create_task(self._serve()) for _ in range(self._count)]

    async def take(self, step: int, rank: int) -> list[Any]:
        """[payload reference] of a rank's rollout; waits until it is there."""
        request = step * self._ranks + rank
        async with self._changed:
            await self._changed.wait_for(lambda: self._error or self._buffer.ready(request))
            if self._error:
                raise RuntimeError(self._error)
            return [self._buffer.take(request).payload]

    async def status(self) -> dict[str, int]:
        """Counts for the record."""
        return {"served": self._served, "failures": self._failures, "version": self._version}

    async def _serve(self) -> None:
        """The life of one place in the pool: load the newest version, ask for a request, generate, again."""
        handle, held = self._start(), -1
        while not self._buffer.finished and self._error is None:
            request: int | None = None
            try:
                if held < self._version:
                    held = await handle.load.remote(self._snapshot)
                request = self._buffer.admit(held)
                if request is None:
                    async with self._changed:
                        await self._changed.wait_for(lambda h=held: self._version > h or self._buffer.finished or self._error)
                    continue
                await self._generate(handle, request)
            except Exception as error:  # noqa: BLE001  every failure ends in a decision, and FAIL reaches the trainers
                handle, held = await self._fail(error, request, handle), -1
        async with self._changed:
            self._changed.notify_all()

    async def _generate(self, handle: Any, request: int) -> None:
        positions = list(range(request * self._local, (request + 1) * self._local))
        versions, payload = handle.generate.options(num_returns=2).remote(positions)
        low, high = await versions
        async with self._changed:
            self._buffer.complete(request, Ready(low, high, payload))
            self._served += 1
            self._changed.notify_all()

    async def _fail(self, error: Exception, request: int | None, handle: Any) -> Any:
        lost = isinstance(error, RayActorError)
        self._failures += 1
        async with self._changed:
            if decide(PoolStatus(self._failures, lost), self._max_failures) is Decision.FAIL:
                self._error = f"rollout actor failed ({type(error).__name__}): {error}"
            elif request is not None:
                self._buffer.give_back(request)
            self._changed.notify_all()
        return handle if self._error else self._start()

    def _start(self) -> Any:
        """A new actor's handle (Ray's handles are typed by what they proxy, so they stay Any here)."""
        threads = str(self._actor_config.threads)
        options = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads}}}
        handle: Any = ray.remote(RolloutActor).options(**options)
        return handle.remote(self._actor_config)
