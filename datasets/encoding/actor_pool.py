"""A pool of actors, each with a network in memory, for the workers of a data pipeline: many callers, few GPUs.

    caller (CPU worker) --put--> object store                     actor: get, compute, put
           |                                                        |
           +--reference--> desk: queue, batches of equal shape --references-->+
           <--reference of the result, or the error of this request alone-----+

What is asked for at once is the most that may be; an autoscaler sees that and brings machines. Work begins when the fewest are up, and
those that come later take part. One that has had nothing to do for `idle_s` ends, down to the fewest, and is asked for again when requests
wait. A dead actor is replaced, and what it had is given to another; a request that ends actor after actor is refused, and takes no
others with it. Memory is bounded: a caller has `outstanding` requests at a time in the object store, an actor one batch.

The desk and the actors end with the driver that made the pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..progress import Progress, silent
from .actor_queue import ActorQueue, Ticket
from .pool_worker import PoolWorker, cause_of

Open = Callable[[], Callable[[list[Any]], list[Any]]]
"""Runs once in each actor and gives the work: a batch of payloads of one key -> for each its result, or a ValueError for it alone."""
LOOK = 0.2  # seconds between two looks
ATTEMPTS = 3  # actors that a request is given to
CALLERS = 10_000  # requests that wait at a time


class PoolFailed(RuntimeError):
    """The pool does no work any more; the message says why."""


@dataclass(frozen=True)
class PoolConfig:
    """A pool of actors with a network each.

    min_actors: work begins when so many are up; max_actors: so many are asked for.
    gpus, cpus: of each; gpus may be a share (0.5), 0 computes on the CPU. resource: a custom resource of the nodes that they may use, one
    unit each. threads: of each on the CPU.
    batch: clips that are computed together. 1: what comes out of a clip depends on the clip alone, bit for bit on one kind of machine;
    more: faster where one clip does not fill a GPU, and rounding may depend on its neighbours.
    outstanding: requests that a caller may have in the pool at a time.
    idle_s: seconds without work after which an actor above the fewest ends (0: never). start_s: that the fewest may take to be up;
    deadline_s: that a batch may take. max_failures: actors one after the other that fail to start.
    """

    min_actors: int = 1
    max_actors: int = 1
    gpus: float = 0.0
    cpus: float = 0.0
    resource: str = ""
    threads: int = 1
    batch: int = 1
    outstanding: int = 2
    idle_s: float = 300.0
    start_s: float = 900.0
    deadline_s: float = 900.0
    max_failures: int = 3

    def __post_init__(self) -> None:
        for name in ("min_actors", "threads", "batch", "outstanding", "max_failures"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.encoders.{name}={getattr(self, name)}: must be at least 1")
        if self.max_actors < self.min_actors:
            raise ValueError(f"data.encoders.max_actors={self.max_actors}: must be at least data.encoders.min_actors={self.min_actors}")
        for name in ("gpus", "cpus", "idle_s"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"data.encoders.{name}={getattr(self, name)}: must be 0 or more")
        for name in ("start_s", "deadline_s"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"data.encoders.{name}={getattr(self, name)}: must be seconds, more than 0")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"data.encoders.gpus={self.gpus}: must be a share of one GPU, or whole ones")

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def options(self) -> dict[str, Any]:
        """Of an actor, as Ray takes them."""
        resources = {self.resource: 1} if self.resource else None
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "resources": resources, "max_restarts": 0}


@dataclass(frozen=True)
class PoolState:
    """asked: actors, up: of them with their network in memory, busy: of those at work; waiting: requests; served: requests, in so many
    batches; lost: actors.
    """

    asked: int = 0
    up: int = 0
    busy: int = 0
    waiting: int = 0
    served: int = 0
    batches: int = 0
    lost: int = 0
    failed: str = ""


class Desk:
    """The pool's one actor that knows all: see the module."""

    def __init__(self, name: str, open_work: Open, config: PoolConfig) -> None:
        self._name, self._open, self._config = name, open_work, config
        self._queue, self._bell = ActorQueue(), asyncio.Condition()
        self._posts = dict[asyncio.Task, bool]()  # of each actor: whether it is up
        self._began, self._failed, self._since = False, "", time.monotonic()
        self._failed_starts = self._busy = self._served = self._batches = self._lost = 0
        self._watch: asyncio.Task | None = None
        self._maker: Any = ray.remote(PoolWorker).options(**config.options)

    async def call(self, key: Hashable, size: int, payload: list[ray.ObjectRef]) -> tuple[Exception | None, list[ray.ObjectRef]]:
        """The result's reference, or the error of this request. payload: a reference in a list, so that it is not fetched here."""
        self._staff()
        if self._failed:
            return PoolFailed(self._failed), []
        ticket = Ticket(key, size, payload, asyncio.get_running_loop().create_future())
        self._queue.put(ticket)
        await self._ring()
        return await ticket.answer

    async def state(self) -> PoolState:
        self._staff()
        up = sum(self._posts.values())
        return PoolState(len(self._posts), up, self._busy, len(self._queue), self._served, self._batches, self._lost, self._failed)

    async def close(self) -> None:
        """Answer all who still wait."""
        await self._fail(f"{self._name}: the pool has ended")

    def _staff(self) -> None:
        """Have it at work; after a restart of this actor too."""
        if self._watch is None:
            self._watch = asyncio.create_task(self._look())
            self._ask(self._config.max_actors)

    def _ask(self, count: int) -> None:
        for _ in range(count):
            self._posts[asyncio.create_task(self._serve())] = False

    async def _look(self) -> None:
        """Fail what cannot begin, and ask for actors that ended idle when requests wait again."""
        while not self._failed:
            await asyncio.sleep(LOOK)
            for task in [task for task in self._posts if task.done()]:
                del self._posts[task]
                if not task.cancelled() and (error := task.exception()) is not None:
                    await self._fail(f"{self._name}: the pool failed ({type(error).__name__}: {error})")
            up, c = sum(self._posts.values()), self._config
            if not self._began and time.monotonic() - self._since > c.start_s:
                await self._fail(
                    f"{self._name}: {up} of data.encoders.min_actors={c.min_actors} are up after {c.start_s:g} s; the cluster lacks "
                    f"{c.gpus:g} GPU, {c.cpus:g} CPU {c.resource} for each: start machines, or lower data.encoders"
                )
            if self._began and len(self._queue) > up:
                self._ask(c.max_actors - len(self._posts))

    async def _serve(self) -> None:
        """The life of an actor's post: start one, give it work, replace it when it is lost, end when there is nothing to do."""
        me = asyncio.current_task()
        assert me is not None
        while not self._failed:
            worker = self._maker.remote(self._open)
            try:
                if await self._started(worker):
                    self._posts[me] = True
                    self._began = self._began or sum(self._posts.values()) >= self._config.min_actors
                    await self._ring()
                    if not await self._work(worker):
                        return
            finally:
                self._posts[me] = False
                with contextlib.suppress(Exception):  # it may be gone already
                    ray.kill(worker)

    async def _started(self, worker: Any) -> bool:
        try:
            await worker.ready.remote()
        except Exception as error:  # noqa: BLE001  whatever keeps a network from being opened, callers have to hear of it
            self._failed_starts += 1
            if self._failed_starts >= self._config.max_failures and not any(self._posts.values()):
                await self._fail(f"{self._name}: {self._failed_starts} actors failed to start, the last with: {cause_of(error)}")
            await asyncio.sleep(min(60, self._failed_starts) * LOOK)  # others may be at work
            return False
        self._failed_starts = 0
        return True

    async def _work(self, worker: Any) -> bool:
        """Batch after batch; whether another actor is to take this one's place."""
        idle = time.monotonic()
        while not self._failed:
            tickets = self._queue.take(self._config.batch) if self._began else []
            if not tickets:
                if self._spare() and time.monotonic() - idle > self._config.idle_s > 0:
                    return False
                await self._wait()
                continue
            self._busy += 1
            try:
                await self._batch(worker, tickets)
            except Exception as error:  # noqa: BLE001  an actor that died, hangs or has a broken GPU is given up
                self._lost += 1
                await self._again(tickets, error)
                return True
            finally:
                self._busy -= 1
            idle = time.monotonic()
        return False

    async def _batch(self, worker: Any, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            ticket.attempts += 1
        made = worker.run.options(num_returns=1 + len(tickets)).remote([ticket.payload for ticket in tickets])
        errors = await asyncio.wait_for(made[0], self._config.deadline_s)
        self._batches += 1
        for ticket, error, result in zip(tickets, errors, made[1:], strict=True):
            self._served += 1
            _answer(ticket, error, [] if error is not None else [result])

    async def _again(self, tickets: list[Ticket], error: Exception) -> None:
        tired = [ticket for ticket in tickets if ticket.attempts >= ATTEMPTS]
        for ticket in tired:
            _answer(ticket, PoolFailed(f"{self._name}: a request ended {ATTEMPTS} actors, the last with: {cause_of(error)}"), [])
        self._queue.give_back([ticket for ticket in tickets if ticket not in tired])
        await self._ring()

    def _spare(self) -> bool:
        return sum(self._posts.values()) > self._config.min_actors

    async def _fail(self, why: str) -> None:
        self._failed = self._failed or why
        for ticket in self._queue.drain():
            _answer(ticket, PoolFailed(self._failed), [])
        await self._ring()

    async def _ring(self) -> None:
        async with self._bell:
            self._bell.notify_all()

    async def _wait(self) -> None:
        async with self._bell:
            if self._failed or (self._began and self._queue):
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bell.wait(), LOOK)


def _answer(ticket: Ticket, error: Exception | None, result: list[ray.ObjectRef]) -> None:
    if not ticket.answer.done():  # else whoever asked has ended
        ticket.answer.set_result((error, result))


class Pending:
    """An answer that is on its way."""

    def __init__(self, ask: Callable[[], ray.ObjectRef]) -> None:
        self._ask = ask
        self._answer: Any = ask()

    def result(self) -> Any:
        """Blocks until it is there.

        Raises:
            ValueError: what is wrong with this request. PoolFailed: the pool does no work any more.
        """
        for attempt in range(ATTEMPTS):
            error, made = ray.get(self._answer)
            if error is not None:
                raise error
            try:
                return ray.get(made[0])
            except (ObjectLostError, RayActorError):  # its machine is gone; it is computed again
                if attempt + 1 == ATTEMPTS:
                    raise
                self._answer = self._ask()
        raise AssertionError("unreachable")

    def wait(self) -> None:
        """Blocks until it is there, whatever it is."""
        ray.wait([self._answer])


class PoolClient:
    """What callers have of a pool: it travels to other processes, each of which has `outstanding` requests at most at a time."""

    def __init__(self, desk: Any, config: PoolConfig) -> None:
        self._desk, self._config = desk, config
        self._under_way = deque[Pending]()

    def __getstate__(self) -> dict[str, Any]:
        return {"_desk": self._desk, "_config": self._config, "_under_way": deque()}

    def submit(self, key: Hashable, size: int, payload: Any) -> Pending:
        """Ask for something; blocks while there are as many requests under way as there may be. size: clips in it."""
        while len(self._under_way) >= self._config.outstanding:
            self._under_way.popleft().wait()
        reference = ray.put(payload)  # once, however often it is asked for; kept until the answer is there
        pending = Pending(lambda: self._desk.call.remote(key, size, [reference]))
        self._under_way.append(pending)
        return pending

    def state(self) -> PoolState:
        return ray.get(self._desk.state.remote())


@contextmanager
def actor_pool(name: str, open_work: Open, config: PoolConfig, progress: Progress = silent) -> Iterator[PoolClient]:
    """A pool for the time of the block; Ray must be running. Returns when the fewest actors are up. name: for its errors.

    Raises:
        PoolFailed: they do not come up.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # on no machine that a cloud takes back
    options = {"num_cpus": 0, "max_concurrency": CALLERS, "max_restarts": 2, "max_task_retries": 2, "scheduling_strategy": here}
    remote: Any = ray.remote(Desk).options(**options)
    desk = remote.remote(name, open_work, config)
    try:
        client = PoolClient(desk, config)
        while (state := client.state()).up < config.min_actors:
            if state.failed:
                raise PoolFailed(state.failed)
            progress(f"start {name}", state.up, config.min_actors)
            time.sleep(LOOK)
        progress(f"start {name}", config.min_actors, config.min_actors)
        yield client
    finally:
        with contextlib.suppress(RayError):  # it may be gone already; or slow, which must not keep anybody
            ray.get(desk.close.remote(), timeout=LOOK * 25)
        ray.kill(desk)  # the actors are its own, and end with it
