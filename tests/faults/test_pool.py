"""The rollout pool under faults, on a real Ray cluster: whatever actors, weights, coordinators and trainers suffer, a stage ends, each clip
of each step has had exactly one rollout within the bound on its age, and no process is left.

What actors make is cheap and exactly known (`number_actor`), so nothing made wrongly, twice or by too old weights goes unseen.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
import torch.distributed as dist
from number_actor import NumberPlan, Numbers
from pool_material import SlowOnceActor, SlowPlan, Trainers, gone, number_pool
from ray.exceptions import RayActorError
from run_material import untrained_run

from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.orchestration.failure_policy import curable
from mutual_forcing.orchestration.rollout_pool import RolloutClient, start_pool
from mutual_forcing.orchestration.rollouts_config import RolloutsConfig
from mutual_forcing.orchestration.root_cause import root_cause
from mutual_forcing.orchestration.run_record import loop_config
from mutual_forcing.workers.rollout_actor import RolloutActorConfig
from mutual_forcing.workers.wire import pack_weights

pytestmark = pytest.mark.usefixtures("ray_cluster", "alone")

RANKS, BATCH, STEPS, ACTORS = 2, 8, 16, 3
DEADLINE = 20.0  # seconds for an actor to start, and to import torch where it has to say that weights are torn
ENDS = 12.0  # seconds: Ray kills a stopped process after five
AGES = (0, 2)
SLOW_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(20)]
SEEDS = [0, *SLOW_SEEDS[1:]]


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """`join` speaks to all ranks; here it is one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    yield
    dist.destroy_process_group()


class Pool:
    """A coordinator, which serves one attempt after the other."""

    def __init__(self, folder: Path, max_age: int, **settings: Any) -> None:
        self.plan, self.max_age = NumberPlan(folder, 0.02), max_age
        chosen: dict[str, Any] = {"actors": ACTORS, "max_age": max_age, "deadline_s": DEADLINE, "clips": 2} | settings
        self.client: RolloutClient = number_pool(self.plan, RolloutsConfig(**chosen), RANKS, BATCH, STEPS)

    def trainers(self, first: int = 0, saved: Any = None, **settings: Any) -> Trainers:
        self.plan.clear()
        trainers = Trainers(self.client, RANKS, BATCH, STEPS, self.max_age, **settings)
        trainers.begin(first, saved)
        return trainers

    def assert_nothing_left(self) -> None:
        end = time.monotonic() + ENDS
        while self.client.figures()["actors"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert gone(self.plan.actors(), ENDS)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Pool]]:
    made = {age: Pool(tmp_path_factory.mktemp(f"age{age}"), age) for age in AGES}
    yield made
    for pool in made.values():
        ray.kill(pool.client._coordinator)


def test_a_trainer_reads_ahead_and_a_checkpoint_has_what_it_read(tmp_path: Path) -> None:
    pool = Pool(tmp_path, 2)
    client = pool.trainers().client
    first = client.take(0, 0)
    ahead = client._ahead[1, 0].result(timeout=DEADLINE)
    assert {8, 10} <= client.held(1, 0).keys()
    ray.kill(client._coordinator)
    assert client.take(1, 0) is ahead
    assert first.samples + ahead.samples == (0, 1, 2, 3, 8, 9, 10, 11)
    with pytest.raises(RayActorError):
        client.take(2, 0)
    assert gone(pool.plan.actors(), ENDS)


def test_a_publication_that_failed_is_told(pools: dict[int, Pool]) -> None:
    """By the next one, also where rollouts are there for some time."""
    client = pools[2].trainers().client
    for version in (3, 2):
        client.publish(Numbers.of(version))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="version 2 were published after version 3"):
        client.publish(Numbers.of(4))  # pyright: ignore[reportArgumentType]


def disturbed(trainers: Trainers, dice: random.Random, fault: Callable[[], None], at: int = 0) -> None:
    """Run it, with the fault in step `at` (0: a random one of the first half)."""
    at, later = at or dice.randrange(1, STEPS // 2), dice.random() * 0.03

    def strike() -> None:
        while trainers.step < at and not trainers.errors:
            time.sleep(0.001)
        time.sleep(later)
        fault()

    striker = threading.Thread(target=strike)
    striker.start()
    trainers.run()
    striker.join()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_actor(pools: dict[int, Pool], seed: int) -> None:
    dice, pool = random.Random(seed), pools[AGES[seed % 2]]
    trainers = pool.trainers()
    disturbed(trainers, dice, lambda: os.kill(dice.choice(pool.plan.actors()), signal.SIGKILL))
    trainers.assert_right()
    pool.assert_nothing_left()


@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_a_stopped_actor(pools: dict[int, Pool], seed: int) -> None:
    """It is alive and silent. Others go on without it; in the end it is killed."""
    dice, pool = random.Random(seed), pools[AGES[seed % 2]]
    trainers, stopped = pool.trainers(), []

    def stop() -> None:
        stopped.append(dice.choice(pool.plan.actors()))
        os.kill(stopped[0], signal.SIGSTOP)

    disturbed(trainers, dice, stop)
    trainers.assert_right()
    assert gone(stopped, ENDS)
    pool.assert_nothing_left()


@pytest.mark.slow
def test_a_stopped_actor_is_replaced_in_a_long_stage(tmp_path: Path) -> None:
    pool = Pool(tmp_path, 2)  # it is ended after ten seconds
    trainers, stopped = pool.trainers(train_s=2.0), []

    def stop() -> None:
        stopped.append(pool.plan.actors()[0])
        os.kill(stopped[0], signal.SIGSTOP)

    disturbed(trainers, random.Random(0), stop, at=4)
    trainers.assert_right()
    assert pool.client.figures()["replaced"] == 1
    assert pool.client.figures()["late"] <= 1
    pool.assert_nothing_left()


@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_work_that_is_not_finite_once(pools: dict[int, Pool], seed: int) -> None:
    dice, pool = random.Random(seed), pools[AGES[seed % 2]]
    trainers = pool.trainers()
    disturbed(trainers, dice, lambda: pool.plan.ill("broken"))
    trainers.assert_right()
    assert pool.client.figures()["replaced"] == 1
    pool.assert_nothing_left()


@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_work_that_breaks_on_two_actors_stops_the_run_with_its_cause(pools: dict[int, Pool], seed: int) -> None:
    pool, position = pools[AGES[seed % 2]], random.Random(seed).randrange(STEPS * BATCH)
    trainers = pool.trainers()
    pool.plan.ill("always", str(position))
    trainers.run()
    assert trainers.errors
    assert trainers.step <= position // BATCH
    with pytest.raises(RuntimeError, match=f"(?s)rollout actor failed .*no memory for position {position}"):
        trainers.assert_right()
    pool.assert_nothing_left()


@ray.remote(num_cpus=0)
class Publisher:
    """Owns weights, until it is killed."""

    def put(self, version: int) -> list[ray.ObjectRef]:
        return [ray.put(Numbers.of(version))]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("way", ["torn", "lost"])
def test_weights_that_are_torn_or_gone(pools: dict[int, Pool], way: str, seed: int) -> None:
    dice, pool = random.Random(seed), pools[AGES[seed % 2]]
    at = dice.randrange(1, STEPS)
    trainers = pool.trainers()
    plain, client = trainers.publish, trainers.client

    def publish(version: int) -> None:
        if version != at:
            return plain(version)
        if way == "torn":
            client.publish(Numbers(version, Numbers.of(version).data, 0))  # pyright: ignore[reportArgumentType]
        else:
            maker: Any = Publisher
            publisher = maker.remote()
            refs = ray.get(publisher.put.remote(version))
            ray.kill(publisher)
            time.sleep(1.0 + dice.random())  # Ray has noticed it, or not yet
            client._published = client._coordinator.publish.remote(client._attempt, version, refs)
        client._snapshot = Numbers.of(version)  # pyright: ignore[reportAttributeAccessIssue]  the trainer has what it sent
        return None

    trainers.publish = publish
    trainers.run()
    trainers.assert_right()
    assert pool.client.figures()["replaced"] == 0
    pool.assert_nothing_left()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_killed_coordinator_is_a_failure_that_another_start_cures(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    before = coordinators()
    pool = Pool(tmp_path, AGES[seed % 2])
    trainers = pool.trainers()
    (pid,) = coordinators() - before
    disturbed(trainers, dice, lambda: os.kill(pid, signal.SIGKILL))
    assert trainers.errors
    assert all(curable(root_cause(error)) for error in trainers.errors), trainers.errors
    assert trainers.client.held(0, 0) == {}, "a checkpoint can still be written"
    assert trainers.client.figures() == {}
    assert gone(pool.plan.actors(), ENDS)


def coordinators() -> set[int]:
    return {p.pid for p in psutil.Process().children(recursive=True) if p.name().startswith("ray::Coordina")}


@pytest.mark.parametrize("seed", SLOW_SEEDS)
def test_trainers_that_start_again(pools: dict[int, Pool], seed: int) -> None:
    """Trainers stop where they are: their successors take up what a checkpoint kept, and make none of it again."""
    dice, pool = random.Random(seed), pools[AGES[seed % 2]]
    kept_at = dice.randrange(1, STEPS // 2)
    first = pool.trainers()
    first.run(until=dice.randrange(kept_at, STEPS), keep_at=kept_at)
    assert not first.errors
    stale = first.client._coordinator.take.remote(first.client._attempt, [STEPS * BATCH // 2 - 1], 1)
    again = pool.trainers(kept_at, first.kept)
    again.run()
    again.assert_right(kept_at)
    with pytest.raises(RuntimeError, match="is over"):
        ray.get(stale, timeout=10)
    requests = (STEPS - kept_at) * BATCH // 2
    assert pool.client.figures()["served"] == requests - len(first.kept)
    assert len(first.kept) <= 2 * BATCH // 2
    for position, arrays in first.kept.items():
        assert again.taken[position][1].tobytes() == arrays["history_video"][0].tobytes(), "it is what the checkpoint has"
    pool.assert_nothing_left()


@pytest.mark.slow
def test_one_actor_or_four_and_requests_of_any_size_make_the_same(tmp_path: Path) -> None:
    found = []
    for i, (actors, clips) in enumerate([(1, 0), (4, 0), (4, 1), (3, 2), (2, 8)]):
        (folder := tmp_path / str(i)).mkdir()
        pool = Pool(folder, 0, actors=actors, clips=clips)
        trainers = pool.trainers()
        trainers.run()
        trainers.assert_right()
        found.append({position: (version, made.tobytes()) for position, (version, made) in trainers.taken.items()})
        ray.kill(pool.client._coordinator)
    assert all(other == found[0] for other in found)


@pytest.mark.slow
def test_real_rollouts_are_the_same_bits_from_one_actor_four_and_a_straggler(tmp_path: Path) -> None:
    config = untrained_run(tmp_path)
    loop, steps = loop_config(config, tmp_path), 4
    actor = RolloutActorConfig(loop.data, loop.network, loop.timeline, loop.objective, loop.seed, "mutual", 1)
    torch.manual_seed(0)
    network = AVTransformer(loop.network, loop.timeline)
    weights = [[(1 + 0.01 * version) * p.detach() for p in network.parameters()] for version in range(steps)]
    found, late = [], 0.0
    for actors, slow in ((1, False), (4, False), (4, True)):
        rollouts = RolloutsConfig(actors=actors, max_age=0, deadline_s=60.0, clips=1)
        client = start_pool(SlowPlan(actor, tmp_path / "slow"), rollouts, RANKS, BATCH, steps, kind=SlowOnceActor)
        trainers = Trainers(client, RANKS, BATCH, steps, 0)

        def publish(version: int, trainers: Trainers = trainers, slow: bool = slow) -> None:
            if slow and version == 2:
                (tmp_path / "slow").touch()
            trainers.client.publish(pack_weights(version, weights[version]))

        trainers.publish = publish
        trainers.begin()
        trainers.run()
        assert not trainers.errors
        found.append({position: (version, made.tobytes()) for position, (version, made) in trainers.taken.items()})
        late = client.figures()["late"]
        ray.kill(client._coordinator)
    assert late == 1, "the slow one's request was made twice"
    assert len(found[0]) == steps * BATCH
    assert len({made for _, made in found[0].values()}) == steps * BATCH
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_lost_machine_takes_its_actors_and_their_rollouts_with_it(tmp_path: Path, seed: int) -> None:
    """Four actors with a budget of one failure; rollouts that were finished there are made again elsewhere. Another process: it has a
    cluster of its own.
    """
    script = Path(__file__).parents[1] / "pool_on_machines.py"
    hidden = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    answer = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(seed)], capture_output=True, text=True, timeout=240, env=hidden
    )
    assert answer.returncode == 0, answer.stderr
    said = next(json.loads(line) for line in answer.stdout.splitlines() if line.startswith('{"seconds"'))  # Ray speaks there too
    assert said["made_again"] > 0
    assert said["seconds"] < 60
