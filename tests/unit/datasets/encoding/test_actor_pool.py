"""A pool of actors on a real cluster: every caller gets its own answer, whatever becomes of the actors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pool_work_material
import pytest
import ray
from pool_work_material import Squares, refuse
from ray import cloudpickle
from ray.exceptions import RayActorError

from mutual_forcing.datasets.encoding.actor_pool import PoolClient, PoolConfig, PoolFailed, PoolState, actor_pool

cloudpickle.register_pickle_by_value(pool_work_material)  # Ray's processes do not find the tests' modules
pytestmark = pytest.mark.usefixtures("ray_cluster")
PATIENCE = 60.0
TWO = PoolConfig(min_actors=2, max_actors=2, batch=3)


def until(client: PoolClient, there: Callable[[PoolState], bool]) -> PoolState:
    deadline = time.monotonic() + PATIENCE
    while not there(state := client.state()):
        assert time.monotonic() < deadline, state
        time.sleep(0.05)
    return state


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_callers_get_their_own_answers_from_two_actors_and_the_pool_ends_with_its_block(tmp_path: Path) -> None:
    with actor_pool("squares", Squares, TWO) as client:
        held = [client.submit(("wait", i), 1, ("wait", str(tmp_path / "go"))) for i in range(2)]  # both actors are busy
        until(client, lambda s: s.busy == 2)

        @ray.remote(num_cpus=0)
        def elsewhere(client: PoolClient, seed: int) -> bool:
            given = [np.random.default_rng([seed, i]).normal(size=(50, 1000)) for i in range(7)]
            answers = [client.submit("square", 1, x) for x in given]
            return all(np.array_equal(a.result(), x**2) for a, x in zip(answers, given, strict=True))

        others = [elsewhere.remote(client, seed) for seed in range(3)]
        until(client, lambda s: s.waiting == 3 * TWO.outstanding)
        time.sleep(0.3)
        assert client.state().waiting == 3 * TWO.outstanding, "no caller has more under way than it may have"
        (tmp_path / "go").touch()
        processes = {pending.result()[0] for pending in held}
        assert len(processes) == 2
        assert all(ray.get(others))
        state = client.state()
        assert (state.served, state.lost, state.up) == (2 + 21, 0, 2)
        assert state.batches <= 2 + 21 - 4, "those that waited together were computed together"
    deadline = time.monotonic() + PATIENCE
    while any(map(alive, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(RayActorError):
        client.submit("square", 1, np.ones(1)).result()


def test_an_actor_that_dies_costs_nobody_an_answer_but_who_ends_every_actor_is_refused(tmp_path: Path) -> None:
    with actor_pool("squares", Squares, TWO) as client:
        answers = [PoolClient(client._desk, TWO).submit("square", 1, x) for x in np.arange(20.0)]
        once = PoolClient(client._desk, TWO).submit("other", 1, ("die once", str(tmp_path / "died")))
        poison = PoolClient(client._desk, TWO).submit("square", 1, "die")
        answers += [PoolClient(client._desk, TWO).submit("square", 1, x) for x in np.arange(20.0)]
        assert once.result() == "alive"
        with pytest.raises(PoolFailed, match="squares: a request ended 3 actors, the last with: ActorDied"):
            poison.result()
        assert [float(a.result()) for a in answers] == [*np.arange(20.0) ** 2] * 2
        state = until(client, lambda s: s.up == 2)
        assert (state.lost, state.failed) == (4, "")
        with pytest.raises(PoolFailed, match="the last with: RuntimeError: the GPU fell off"):
            client.submit("square", 1, "broken").result()


def test_what_is_wrong_with_one_request_is_told_to_it_alone(tmp_path: Path) -> None:
    with actor_pool("squares", Squares, PoolConfig(batch=8, outstanding=8)) as client:
        held = client.submit("hold", 1, ("wait", str(tmp_path / "go")))
        until(client, lambda s: s.busy == 1)
        wrong, right = client.submit("a", 1, "wrong"), client.submit("a", 1, np.full(3, 3))
        until(client, lambda s: s.waiting == 2)
        (tmp_path / "go").touch()
        with pytest.raises(ValueError, match="this one is wrong"):
            wrong.result()
        assert right.result().tolist() == [9, 9, 9]
        assert held.result()[1] == 1
        assert client.state().batches == 2


def test_work_begins_with_the_fewest_and_late_ones_take_part(tmp_path: Path) -> None:
    config = PoolConfig(min_actors=1, max_actors=2, cpus=2)

    class Occupant:
        def there(self) -> None: ...

    occupant: Any = ray.remote(num_cpus=2)(Occupant).remote()
    ray.get(occupant.there.remote())
    with actor_pool("squares", Squares, config) as client:
        first = client.submit("w", 1, ("wait", str(tmp_path / "go")))
        until(client, lambda s: s.busy == 1)
        second = client.submit("w", 1, np.ones(1))
        state = until(client, lambda s: s.waiting == 1)
        assert (state.asked, state.up) == (2, 1), "the second is asked for, and nobody waits for it"
        ray.kill(occupant)
        assert second.result() == 1.0, "of the one that came later"
        (tmp_path / "go").touch()
        first.result()


@pytest.mark.slow
def test_idle_actors_end_down_to_the_fewest_and_come_back_with_work(tmp_path: Path) -> None:
    with actor_pool("squares", Squares, PoolConfig(min_actors=1, max_actors=2, idle_s=0.5, outstanding=9)) as client:
        assert until(client, lambda s: s.up == 1 and s.asked == 1).lost == 0
        held = [client.submit(i, 1, ("wait", str(tmp_path / "go"))) for i in range(4)]
        until(client, lambda s: s.up == 2)
        (tmp_path / "go").touch()
        assert len({pending.result()[0] for pending in held}) == 2


def test_a_network_that_cannot_be_opened_is_told_in_one_line() -> None:
    with pytest.raises(PoolFailed) as failed, actor_pool("squares", refuse, PoolConfig(max_failures=2)):
        pass
    assert (
        str(failed.value)
        == "squares: 2 actors failed to start, the last with: ActorDiedError: ValueError: folder='/nowhere' does not exist"
    )


def test_a_machine_that_never_comes_is_told_with_what_it_lacks() -> None:
    lacking = PoolConfig(gpus=1, start_s=1.0)
    words = r"0 of data\.encoders\.min_actors=1 are up after 1 s; the cluster lacks 1 GPU"
    with pytest.raises(PoolFailed, match=words), actor_pool("squares", Squares, lacking):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_actors": 0}, "data.encoders.min_actors=0: must be at least 1"),
        ({"min_actors": 2}, "data.encoders.max_actors=1: must be at least data.encoders.min_actors=2"),
        ({"gpus": 1.5}, "a share of one GPU, or whole ones"),
        ({"idle_s": float("nan")}, "data.encoders.idle_s=nan: must be 0 or more"),
        ({"deadline_s": 0}, "must be seconds, more than 0"),
    ],
)
def test_settings_that_make_no_pool_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PoolConfig(**change)
