"""The coordinator without Ray: attempts of the training follow each other, and none sees anything of another; and what it does about
weights whose owner died, with Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import OwnerDiedError, RayActorError

from mutual_forcing.orchestration.coordinator import Coordinator

RANKS, STEPS = 2, 3
PATIENCE = 20.0


class Method:
    """`handle.method.remote(...)` of Ray, as a coroutine of this process."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def options(self, **_: object) -> Method:
        return self

    def remote(self, *words: Any) -> Any:
        return self._call(*words)


class Actor:
    """Loads numbers as weights; its rollouts say under which version and attempt they were made."""

    def __init__(self) -> None:
        self.load, self.generate = Method(self._load), Method(self._generate)
        self._held = ("none", -1)

    async def _load(self, snapshot: Any) -> int:
        if isinstance(snapshot, Exception):
            raise snapshot
        self._held = snapshot
        return snapshot[1]

    def _generate(self, positions: list[int]) -> tuple[Any, Any]:
        versions: asyncio.Future = asyncio.get_running_loop().create_future()
        versions.set_result((self._held[1], self._held[1]))
        return versions, (self._held[0], positions)


class Stubbed(Coordinator):
    """A coordinator whose actors live in this process."""

    def __init__(self, actors: int = 1, max_age: int = 1) -> None:
        config: Any = SimpleNamespace(threads=1)
        super().__init__(config, actors, RANKS, local=1, steps=STEPS, max_age=max_age, max_failures=1)
        self.started = 0

    def _start(self) -> Any:
        self.started += 1
        return Actor()


def run(work: Coroutine) -> Any:
    return asyncio.run(asyncio.wait_for(work, PATIENCE))


async def attempt(pool: Coordinator, name: str) -> list[Any]:
    """A whole stage of restarted or first trainers; returns what each rank took."""
    number, taken = await pool.begin(0), []
    for step in range(STEPS):
        snapshot: Any = (name, step)
        await pool.publish(number, step, [snapshot])
        taken += await asyncio.gather(*(pool.take(number, step, rank) for rank in range(RANKS)))
    return [payload for [payload] in taken]


def test_every_rank_takes_its_own_positions_in_order() -> None:
    assert run(attempt(Stubbed(), "first")) == [("first", [i]) for i in range(RANKS * STEPS)]


def test_a_take_left_by_a_killed_trainer_takes_nothing_from_the_next_attempt() -> None:
    async def work() -> None:
        pool = Stubbed()
        first = await pool.begin(0)
        stale = asyncio.create_task(pool.take(first, 0, 0))
        await asyncio.sleep(0)
        assert await attempt(pool, "second") == [("second", [i]) for i in range(RANKS * STEPS)]
        with pytest.raises(RuntimeError, match="attempt 1 of the training is over: attempt 2 has begun"):
            await stale

    run(work())


def test_the_error_of_an_attempt_ends_with_it() -> None:
    async def work() -> None:
        pool = Stubbed()
        first = await pool.begin(0)
        await pool.publish(first, 0, [ValueError("these weights are torn")])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="these weights are torn"):
            await pool.take(first, 0, 1)
        second = await pool.begin(0)
        early = asyncio.create_task(pool.take(second, 0, 1))  # before rank 0 has published anything
        await asyncio.sleep(0.05)
        assert not early.done()
        snapshot: Any = ("second", 0)
        await pool.publish(second, 0, [snapshot])
        assert await early == [("second", [1])]

    run(work())


@pytest.mark.parametrize("late", ["publish", "take"])
def test_a_trainer_of_an_earlier_attempt_is_refused(late: str) -> None:
    async def work() -> None:
        pool = Stubbed()
        first = await pool.begin(0)
        await pool.begin(0)
        snapshot: Any = ("first", 0)
        with pytest.raises(ValueError, match="attempt 1 of the training is over, attempt 2 has begun"):
            await (pool.publish(first, 0, [snapshot]) if late == "publish" else pool.take(first, 0, 0))
        assert (await pool.status())["version"] == -1

    run(work())


def test_a_rollout_is_taken_once() -> None:
    async def work() -> None:
        pool = Stubbed()
        number = await pool.begin(0)
        snapshot: Any = ("first", 0)
        await pool.publish(number, 0, [snapshot])
        await pool.take(number, 0, 0)
        with pytest.raises(ValueError, match="request 0 was consumed already"):
            await pool.take(number, 0, 0)

    run(work())


def test_a_lost_actor_is_replaced_until_its_budget_is_spent() -> None:
    async def work() -> None:
        pool = Stubbed()
        number = await pool.begin(0)
        await pool.publish(number, 0, [RayActorError()])  # type: ignore[list-item]
        with pytest.raises(RuntimeError, match="rollout actor failed"):
            await pool.take(number, 0, 0)
        assert pool.started == 2

    run(work())


def test_weights_that_died_with_their_trainer_are_waited_out() -> None:
    async def work() -> None:
        pool = Stubbed(actors=3)
        number = await pool.begin(0)
        await pool.publish(number, 0, [OwnerDiedError("00" * 28, "", "")])  # type: ignore[list-item]
        waiting = asyncio.create_task(pool.take(number, 1, 0))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert (await pool.status())["failures"] == 0
        snapshot: Any = ("first", 1)
        await pool.publish(number, 1, [snapshot])
        assert await waiting == [("first", [2])]

    run(work())


@ray.remote(num_cpus=0)
class Trainer:
    """Owns the weights that it puts."""

    def weights(self) -> list[ray.ObjectRef]:
        return [ray.put(b"x" * 2**20)]


@ray.remote(num_cpus=0)
class Loader:
    """An actor of the pool that only loads."""

    def load(self, snapshot: bytes) -> int:
        return len(snapshot)


class Loading(Stubbed):
    """A coordinator whose actors are Ray's."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []

    def _start(self) -> Any:
        self.started += 1
        handle: Any = Loader
        return handle.remote()

    async def _fail(self, attempt: Any, error: Exception, *rest: Any) -> Any:
        self.errors.append(error)
        return await super()._fail(attempt, error, *rest)


@pytest.mark.usefixtures("ray_cluster")
def test_rays_own_word_for_a_dead_owner_is_understood() -> None:
    async def work() -> None:
        maker: Any = Trainer
        trainer = maker.remote()
        snapshot = await trainer.weights.remote()
        ray.kill(trainer)
        pool = Loading()
        number = await pool.begin(0)
        await asyncio.sleep(2)  # the store keeps the weights until Ray has noticed the death
        await pool.publish(number, 0, snapshot)
        while not pool.errors:
            await asyncio.sleep(0.1)
        assert [isinstance(e, OwnerDiedError) for e in pool.errors] == [True]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.take(number, 0, 0), 0.5)
        assert (pool.started, (await pool.status())["failures"]) == (1, 0)

    asyncio.run(asyncio.wait_for(work(), 60))
