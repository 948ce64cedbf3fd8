"""The coordinator without Ray: attempts of the training follow each other and none sees anything of another; lost, silent, late and broken
actors; weights that are gone; and Ray's own words for these."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import pytest
import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, OwnerDiedError, RayActorError

from mutual_forcing.orchestration.coordinator import Coordinator
from mutual_forcing.orchestration.elastic.change import Change
from mutual_forcing.orchestration.failure_policy import Pace, Trouble
from mutual_forcing.orchestration.pool_attempt import PoolPlan
from mutual_forcing.orchestration.rollout_crew import trouble_of
from mutual_forcing.orchestration.rollouts_config import RolloutsConfig
from mutual_forcing.workers.wire import TornSnapshotError

RANKS, STEPS = 2, 3
PATIENCE = 20.0
LOST = ObjectLostError("00" * 28, None, "")


class Method:
    """`handle.method.remote(...)` of Ray, as a coroutine of this process."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def options(self, **_: object) -> Method:
        return self

    def remote(self, *words: Any) -> Any:
        return self._call(*words)


class Actor:
    """Loads numbers as weights; its rollouts say under which version and attempt they were made, and by whom. trouble: what its requests
    come to, one after the other: seconds to take, an exception, or "never".
    """

    def __init__(self, number: int, trouble: list[Any]) -> None:
        self.load, self.generate = Method(self._load), Method(self._generate)
        self.number, self._trouble = number, trouble
        self._held = ("none", -1)

    async def _load(self, snapshot: Any) -> int:
        if isinstance(snapshot, Exception):
            raise snapshot
        self._held = snapshot
        return snapshot[1]

    def _generate(self, positions: list[int]) -> tuple[Any, Any]:
        what = self._trouble.pop(0) if self._trouble else 0.0

        async def answer() -> tuple[int, int, int]:
            if isinstance(what, Exception):
                await asyncio.sleep(0.01)  # the others have started by then
                raise what
            await asyncio.sleep(1e6 if what == "never" else what)
            return self._held[1], self._held[1], 8

        return answer(), (self._held[0], positions, self.number)


class Actors:
    """Those of this process. trouble: of each in the order in which they start."""

    def __init__(self, trouble: tuple[list[Any], ...]) -> None:
        self.started: list[Actor] = []
        self.ended: set[Actor] = set()
        self._ills = trouble

    def start(self) -> Actor:
        n = len(self.started)
        self.started.append(Actor(n, list(self._ills[n]) if n < len(self._ills) else []))
        return self.started[-1]

    def end(self, handle: Any) -> None:
        self.ended.add(handle)


class Stubbed(Coordinator):
    """A coordinator whose actors live in this process."""

    def __init__(
        self,
        actors: Any = 1,
        max_age: int = 1,
        trouble: tuple[list[Any], ...] = (),
        clips: int = 1,
        source: type[Actors] = Actors,
        **settings: Any,
    ) -> None:
        chosen: dict[str, Any] = {"actors": actors, "max_age": max_age, "max_failures": 1} | settings
        self.actors = source(trouble)
        super().__init__(self.actors, RolloutsConfig(**chosen), PoolPlan(clips, RANKS, 1, STEPS))


def run(work: Coroutine) -> Any:
    return asyncio.run(asyncio.wait_for(work, PATIENCE))


async def taken_by(pool: Coordinator, number: int, requests: list[int], rank: int, trained_s: float | None = None) -> list[tuple[int, Any]]:
    """What a rank is offered and takes."""
    made = await pool.take(number, requests, rank)
    await pool.take(number, [], rank, requests, trained_s)
    return made


async def payload(pool: Coordinator, number: int, step: int, rank: int, trained_s: float | None = None) -> Any:
    ((_, found),) = await taken_by(pool, number, [step * RANKS + rank], rank, trained_s)
    return found


async def attempt(pool: Coordinator, name: str, number: int | None = None, steps: range = range(STEPS)) -> list[Any]:
    """A whole stage of restarted or first trainers; returns what each rank took."""
    number, taken = number or await pool.begin(steps.start), list[Any]()
    for step in steps:
        snapshot: Any = (name, step)
        await pool.publish(number, step, [snapshot])
        taken += await asyncio.gather(*(payload(pool, number, step, rank) for rank in range(RANKS)))
    return taken


def positions(taken: list[Any]) -> list[list[int]]:
    return [positions for _, positions, _ in taken]


EVERY = [[i] for i in range(RANKS * STEPS)]


def test_every_rank_takes_its_own_positions_in_order() -> None:
    taken = run(attempt(Stubbed(), "first"))
    assert positions(taken) == EVERY
    assert {name for name, *_ in taken} == {"first"}
    assert positions(run(attempt(Stubbed(clips=4, actors=3), "first"))) == [list(range(4 * i, 4 * i + 4)) for i in range(RANKS * STEPS)]


def test_a_take_left_by_a_killed_trainer_takes_nothing_from_the_next_attempt() -> None:
    async def work() -> None:
        pool = Stubbed()
        first = await pool.begin(0)
        stale = asyncio.create_task(pool.take(first, [0], 0))
        await asyncio.sleep(0)
        assert positions(await attempt(pool, "second")) == EVERY
        with pytest.raises(RuntimeError, match="attempt 1 of the training is over: attempt 2 has begun"):
            await stale

    run(work())


def test_the_error_of_an_attempt_ends_with_it() -> None:
    async def work() -> None:
        pool = Stubbed(trouble=([ValueError("history is not finite")], [ValueError("history is not finite")]))
        first = await pool.begin(0)
        await pool.publish(first, 0, [("first", 0)])  # type: ignore[list-item]
        with pytest.raises(ValueError, match="history is not finite"):
            await pool.take(first, [1], 1)
        second = await pool.begin(0)
        early = asyncio.create_task(payload(pool, second, 0, 1))  # before rank 0 has published anything
        await asyncio.sleep(0.05)
        assert not early.done()
        await pool.publish(second, 0, [("second", 0)])  # type: ignore[list-item]
        assert (await early)[:2] == ("second", [1])

    run(work())


@pytest.mark.parametrize("late", ["publish", "take"])
def test_a_trainer_of_an_earlier_attempt_is_refused(late: str) -> None:
    async def work() -> None:
        pool = Stubbed()
        first = await pool.begin(0)
        await pool.begin(0)
        snapshot: Any = ("first", 0)
        with pytest.raises(RuntimeError, match="attempt 1 of the training is over: attempt 2 has begun"):
            await (pool.publish(first, 0, [snapshot]) if late == "publish" else pool.take(first, [0], 0))
        assert (await pool.status())["version"] == -1

    run(work())


def test_a_rollout_is_taken_once() -> None:
    async def work() -> None:
        pool = Stubbed()
        number = await pool.begin(0)
        await pool.publish(number, 0, [("first", 0)])  # type: ignore[list-item]
        assert await pool.take(number, [0], 0) == await pool.take(number, [0], 0), "what is offered stays"
        await pool.take(number, [], 0, [0])
        for again in (pool.take(number, [0], 0), pool.take(number, [], 0, [0])):
            with pytest.raises(ValueError, match="request 0 was consumed already"):
                await again

    run(work())


# --- actors in trouble ------------------------------------------------------------------------------------------------------


def test_lost_actors_are_replaced_as_long_as_rollouts_are_made_between_their_ends() -> None:
    """Three lost ones with a budget of one in a row: a pool on spot machines."""
    pool = Stubbed(trouble=([0.0, RayActorError()], [0.0, RayActorError()], [0.0, RayActorError()]))
    assert positions(run(attempt(pool, "first"))) == EVERY
    assert len(pool.actors.started) == 4
    seen, news, _ = run(pool.changes(0))
    assert (seen, news) == (3, [Change("rollout actors", 1, 1, "one was lost, another takes its place")] * 3)
    assert run(pool.changes(seen))[:2] == (3, [])


def test_actors_that_are_lost_one_after_the_other_stop_the_run() -> None:
    async def work() -> None:
        pool = Stubbed(trouble=([RayActorError()],) * 9)
        number = await pool.begin(0)
        await pool.publish(number, 0, [("first", 0)])  # type: ignore[list-item]
        with pytest.raises(RuntimeError, match="rollout actor failed"):
            await pool.take(number, [0], 0)
        assert len(pool.actors.started) == 2

    run(work())


def test_actors_that_are_lost_together_are_one_failure() -> None:
    """As with their machine: six of them, with a budget of one."""
    pool = Stubbed(actors=6, max_age=2, trouble=([RayActorError()],) * 6)
    assert positions(run(attempt(pool, "first"))) == EVERY
    assert len(pool.actors.started) == 12


def test_work_that_broke_once_and_was_lost_once_goes_on() -> None:
    pool = Stubbed(trouble=([RayActorError()], [ValueError("not finite")]), max_failures=3)
    assert positions(run(attempt(pool, "first"))) == EVERY
    assert len(pool.actors.started) == 3


class Impatient(Pace):
    START = 0.1


def test_the_first_rollout_of_an_actor_may_take_longer() -> None:
    """It starts, loads, and warms up: others' pace says nothing about that."""

    async def work() -> None:
        pool = Stubbed(trouble=([RayActorError()], [1.0]), deadline_s=5.0)
        number = await pool.begin(0)
        pool._attempt.pace = Impatient(5.0, 3.0, (0.01,) * Pace.ENOUGH)
        assert pool._attempt.pace.silence < 1.0
        assert positions(await attempt(pool, "first", number)) == EVERY
        assert len(pool.actors.started) == 2

    run(work())


def test_work_that_breaks_once_is_given_to_another_actor() -> None:
    pool = Stubbed(trouble=([ValueError("not finite")],))
    assert positions(run(attempt(pool, "first"))) == EVERY
    assert len(pool.actors.started) == 2


def test_a_silent_actor_is_replaced_and_its_request_made_by_another() -> None:
    pool = Stubbed(trouble=(["never"],), deadline_s=0.3)
    assert positions(run(attempt(pool, "first"))) == EVERY
    assert [actor.number for actor in pool.actors.started] == [0, 1]


def test_a_late_request_goes_to_another_actor_and_the_late_answer_is_dropped() -> None:
    async def work() -> None:
        pool = Stubbed(actors=2, max_age=2, trouble=([0.0, 1.5],), deadline_s=3.0)
        number = await pool.begin(0)
        pool._attempt.pace = Pace(3.0, 3.0, (0.05,) * Pace.ENOUGH)  # eight requests have been served: it knows the pace
        await pool.publish(number, 0, [("first", 0)])  # type: ignore[list-item]
        began = time.monotonic()
        taken = [await payload(pool, number, step, rank) for step in range(STEPS) for rank in range(RANKS) if await caught_up(pool, step)]
        assert time.monotonic() - began < 1.2, "nobody waited for the slow one"
        assert positions(taken) == EVERY
        assert (await pool.status())["late"] == 1

    async def caught_up(pool: Coordinator, step: int) -> bool:
        if step > pool._attempt.version:
            await pool.publish(pool._attempt.number, step, [("first", step)])  # type: ignore[list-item]
        return True

    run(work())


@pytest.mark.parametrize("way", ["one is silent", "all was kept", "no failure allowed"])
def test_no_actor_is_left_when_all_is_made(way: str) -> None:
    """Also one that hangs at what another has made, and those that never had anything to do."""

    async def work() -> None:
        silent = {} if way == "all was kept" else {"trouble": ([], ["never"]), "max_failures": int(way == "one is silent")}
        pool = Stubbed(actors=2, max_age=STEPS, deadline_s=1.0, **silent)
        payload: Any = "kept"
        saved = {i: (0, 0, 8, [payload]) for i in range(RANKS * STEPS)} if way == "all was kept" else {}
        number = await pool.begin(0, saved)
        pool._attempt.pace = Pace(1.0, 3.0, (0.01,) * Pace.ENOUGH)
        await pool.publish(number, 0, [("first", 0)])  # type: ignore[list-item]
        for i in range(RANKS * STEPS):
            assert await taken_by(pool, number, [i], i % RANKS)
        await asyncio.sleep(0.3)
        assert pool._attempt.over
        assert len(pool.actors.started) == 2
        assert pool.actors.ended == set(pool.actors.started)
        assert (await pool.status())["actors"] == 0

    run(work())


def test_the_actors_of_an_attempt_end_with_it() -> None:
    async def work() -> None:
        pool = Stubbed(actors=2, trouble=(["never"],))
        number = await pool.begin(0)
        await pool.publish(number, 0, [("first", 0)])  # type: ignore[list-item]
        await asyncio.sleep(0.1)
        await pool.begin(0)
        await asyncio.sleep(0.1)
        assert len(pool.actors.started) == 2
        assert pool.actors.ended == set(pool.actors.started)

    run(work())


# --- weights and payloads that are gone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OwnerDiedError("00" * 28, None, ""), LOST, TornSnapshotError("torn")])
def test_weights_that_are_gone_or_torn_are_published_once_more(error: Exception) -> None:
    async def work() -> None:
        pool = Stubbed(actors=6, max_failures=1)
        number = await pool.begin(0)
        await pool.publish(number, 0, [error])  # type: ignore[list-item]
        assert await pool.missing(number), "the publisher is asked"
        other = asyncio.create_task(payload(pool, number, 0, 1))
        await asyncio.sleep(0.05)
        assert not other.done(), "the others wait"
        await pool.publish(number, 0, [("again", 0)])  # type: ignore[list-item]
        assert await other == ("again", [1], (await other)[2])
        assert len(pool.actors.started) == 6, "no actor is to blame"
        with pytest.raises(ValueError, match="published after version"):
            await pool.publish(number, 0, [("again", 0)])  # type: ignore[list-item]

    run(work())


async def asked_again(pool: Coordinator, number: int, torn: Any) -> int:
    asked = 0
    while await pool.missing(number):
        asked += 1
        await pool.publish(number, 0, [torn])
    return asked


def test_weights_that_are_torn_again_and_again_stop_the_run() -> None:
    async def work() -> None:
        pool = Stubbed(max_failures=2)
        number = await pool.begin(0)
        torn: Any = TornSnapshotError("torn")
        await pool.publish(number, 0, [torn])
        assert await asked_again(pool, number, torn) == 2
        with pytest.raises(ValueError, match="torn"):
            await pool.take(number, [0], 0)

    run(work())


def test_a_payload_that_is_gone_with_its_node_is_made_again_also_at_the_end() -> None:
    async def work() -> None:
        pool = Stubbed()
        number = await pool.begin(0)
        last = RANKS * STEPS - 1
        await attempt(pool, "first", number, range(STEPS - 1))
        await pool.publish(number, STEPS - 1, [("first", STEPS - 1)])  # type: ignore[list-item]
        await pool.take(number, [last], 0)
        await asyncio.sleep(0.05)
        assert pool._attempt.over
        await pool.lost(number, last, 1)
        made = await pool.take(number, [last], 0)
        assert [(n, found[:2]) for n, found in made] == [(2, ("first", [last]))]

    run(work())


def test_every_rank_keeps_what_it_takes_itself() -> None:
    """So that a rank that is ahead has not taken away what another one was to keep."""

    async def work() -> None:
        pool = Stubbed(max_age=1)
        pool._plan = PoolPlan(1, 4, 1, STEPS)
        number = await pool.begin(0)
        await pool.publish(number, 0, [("first", 0)])  # type: ignore[list-item]
        while pool._attempt.buffer.waiting < 8:
            await asyncio.sleep(0.01)
        await taken_by(pool, number, [0, 1], 0)
        await taken_by(pool, number, [2, 3], 1)
        assert await pool.take(number, [4, 5], 0), "it reads ahead"
        assert [i for i, *_ in await pool.held(number, 1, 0, 2)] == [4, 5]
        await taken_by(pool, number, [4, 5], 0)
        assert [i for i, *_ in await pool.held(number, 1, 1, 2)] == [6, 7]

    run(work())


def test_what_a_checkpoint_kept_is_not_made_again() -> None:
    async def work() -> None:
        pool = Stubbed(max_age=2)
        number = await pool.begin(0)
        await pool.publish(number, 0, [("first", 0)])  # type: ignore[list-item]
        while pool._attempt.buffer.waiting < 3 * RANKS:
            await asyncio.sleep(0.01)
        for rank in range(RANKS):
            await payload(pool, number, 0, rank)
        kept = [await pool.held(number, 1, share, 2) for share in range(2)]
        assert [[i for i, *_ in share] for share in kept] == [[2, 4], [3, 5]]
        saved = {i: (low, high, 8, payload) for share in kept for i, low, high, payload in share}
        del saved[3]  # of a node that is gone
        again = await pool.begin(1, saved)
        await pool.publish(again, 1, [("second", 1)])  # type: ignore[list-item]
        taken = [await payload(pool, again, step, rank) for step in (1, 2) for rank in range(RANKS)]
        assert [name for name, *_ in taken] == ["first", "second", "first", "first"]
        assert positions(taken) == EVERY[RANKS:]

    run(work())


def test_trainers_hear_of_weights_that_will_not_come() -> None:
    async def work() -> None:
        pool = Stubbed(max_age=0)
        number = await pool.begin(0)
        await pool.publish(number, 0, [LOST])  # type: ignore[list-item]
        waiting = asyncio.create_task(payload(pool, number, 0, 0))
        assert await pool.missing(number)
        await pool.give_up(number, "weights could not be published once more (the store is full)")
        with pytest.raises(RuntimeError, match="the store is full"):
            await waiting
        assert not await pool.missing(number)

    run(work())


# --- balance ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("train_s", "grows"), [(0.05, True), (1.0, False)])
def test_the_pool_grows_and_shrinks_to_what_keeps_trainers_busy(train_s: float, grows: bool) -> None:
    """A step needs two requests of 0.1 s each: more than one actor has time for in 0.05 s, and less than one has in 1 s."""

    async def work() -> dict[str, float]:
        pool = Stubbed(max_age=2, trouble=([0.1] * 1000,) * 9, actors="auto", balance_s=0.2, min_actors=1, max_actors=6, deadline_s=60.0)
        pool._plan = PoolPlan(1, RANKS, 1, 1000)
        pool._balance.size_now = 1 if grows else 4
        number, step, end = await pool.begin(0), 0, time.monotonic() + 2.5
        while time.monotonic() < end:
            await pool.publish(number, step, [("first", step)])  # type: ignore[list-item]
            await asyncio.gather(*(payload(pool, number, step, rank, train_s) for rank in range(RANKS)))
            await asyncio.sleep(train_s)
            step += 1
        return await pool.status()

    status = run(work())
    assert 0 <= status["busy"] <= 1
    assert (status["actors"] > 1) == (status["wanted"] > 1) == grows


# --- Ray's own words --------------------------------------------------------------------------------------------------------


def test_what_an_exception_tells_of() -> None:
    assert trouble_of(RayActorError()) is Trouble.LOST
    assert trouble_of(OutOfMemoryError("a machine's memory")) is Trouble.LOST
    assert trouble_of(TimeoutError()) is Trouble.SILENT
    assert trouble_of(ValueError("not finite")) is Trouble.BROKEN
    assert trouble_of(OwnerDiedError("00" * 28, None, "")) is Trouble.NO_WEIGHTS


@ray.remote(num_cpus=0)
class Trainer:
    """Owns the weights that it puts."""

    def weights(self) -> list[ray.ObjectRef]:
        return [ray.put(b"x" * 2**20)]


@ray.remote(num_cpus=0)
class Loader:
    """An actor of the pool that only loads."""

    def load(self, snapshot: bytes) -> int:
        if snapshot == b"torn":
            raise TornSnapshotError("torn")
        return len(snapshot)


class Loaders(Actors):
    """Those of Ray."""

    def start(self) -> Any:
        handle: Any = Loader
        return handle.remote()


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("way", ["owner died", pytest.param("torn", marks=pytest.mark.slow)])
def test_rays_own_words_are_understood(way: str) -> None:
    async def work() -> None:
        maker: Any = Trainer
        trainer = maker.remote()
        snapshot = await trainer.weights.remote()
        if way == "owner died":
            ray.kill(trainer)
            await asyncio.sleep(2)  # the store keeps the weights until Ray has noticed the death
        else:
            snapshot = [ray.put(b"torn")]
        pool = Stubbed(source=Loaders)
        number = await pool.begin(0)
        await pool.publish(number, 0, snapshot)
        assert await pool.missing(number)
        with pytest.raises((TornSnapshotError, OwnerDiedError)) as told:
            await Loaders(()).start().load.remote(snapshot[0])
        assert trouble_of(told.value) is Trouble.NO_WEIGHTS

    asyncio.run(asyncio.wait_for(work(), 60))
