"""The simulated pool: without noise it is the arithmetic, and what goes wrong delays and loses nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mutual_forcing.benchmarks import _pool_scale
from mutual_forcing.benchmarks._pool_scale import Measured, at_scale
from mutual_forcing.benchmarks._pool_simulator import Costs, Faults, Outcome, Simulation, drawn
from mutual_forcing.orchestration.rollouts_config import RolloutsConfig

STEPS, WARM = 60, 10
CALM = Faults()


def costs(train: float, generate: float, **rest: Any) -> Costs:
    return Costs(train=lambda _: train, generate=lambda _: generate, **rest)


def run(costs: Costs, trainers: int = 4, requests: int = 1, faults: Faults = CALM, seed: int = 0, **settings: Any) -> Outcome:
    chosen: dict[str, Any] = {"actors": 2 * trainers, "max_age": 2} | settings
    config = RolloutsConfig(**chosen)
    made = Simulation(trainers, requests, STEPS, config, costs, faults, seed).run()
    assert len(made.ends) == STEPS
    assert sum(made.ages.values()) == trainers * requests * STEPS, "every request of every step was trained on, and once"
    assert max(made.ages) <= config.max_age
    return made


@pytest.mark.parametrize(("train", "generate"), [(1.0, 0.5), (1.0, 2.0), (1.0, 3.0), (0.25, 4.0)])
@pytest.mark.parametrize("max_age", [1, 2, 5])
def test_without_noise_it_is_the_arithmetic(train: float, generate: float, max_age: int) -> None:
    """4 trainers with a request each, 8 actors: a step takes the longer of training and generating, unless the bound on age keeps actors
    from working ahead: a request can be `max_age` steps on its way and no more.
    """
    made = run(costs(train, generate), max_age=max_age)
    within = (generate + train) / (max_age + 1)  # of a request: admitted with a version, used `max_age` steps later
    assert made.step_s(WARM) == pytest.approx(max(train, 4 * generate / 8, within), rel=0.02)


def test_a_bound_of_no_age_is_synchronous() -> None:
    made = run(costs(1.0, 0.5), max_age=0)
    assert set(made.ages) == {0}
    assert made.step_s(WARM) == pytest.approx(1.5)
    assert made.efficiency(WARM) == pytest.approx(1 / 1.5)


def test_latencies_and_the_coordinators_time_are_paid() -> None:
    plain, slow = costs(1.0, 0.5), costs(1.0, 0.5, publish=0.1, take=drawn([0.2]), read=drawn([0.4]), call=0.05)
    assert run(slow).step_s(WARM) == pytest.approx(run(plain).step_s(WARM) + 0.1 + 0.2), "what a trainer reads ahead costs no time"
    synchronous = run(slow, max_age=0).step_s(WARM) - run(plain, max_age=0).step_s(WARM)
    assert synchronous == pytest.approx(0.1 + 0.2 + 0.4 + 6 * 0.05), "unless nothing is ahead: weights, load, request, and answers to them"
    busy = run(replace(plain, message=0.2), requests=2)  # 8 answers and 4 takes a step, one after the other
    assert busy.step_s(WARM) >= 12 * 0.2


def test_a_lost_actor_delays_and_loses_nothing() -> None:
    calm, spot = run(costs(1.0, 1.9)), run(costs(1.0, 1.9, start=3.0), faults=Faults(lost_every=60.0))
    assert spot.replaced > 5
    assert spot.remade > 0, "some took finished rollouts with them"
    assert spot.ends[-1] > calm.ends[-1]
    assert spot.lost_s > 0 == calm.lost_s


def test_a_slow_actors_requests_go_to_others_when_they_are_late() -> None:
    slow = Faults(slow_share=0.2, slow_by=20.0)
    late = run(costs(1.0, 0.5), requests=2, faults=slow, seed=1, straggler=1.5)
    patient = run(costs(1.0, 0.5), requests=2, faults=slow, seed=1, straggler=1000.0)
    assert late.late > 0
    assert late.dropped + late.replaced > 0
    assert late.ends[-1] < patient.ends[-1]


def test_it_says_how_many_actors_keep_trainers_busy() -> None:
    assert run(costs(1.0, 1.5)).wanted == 6
    assert run(costs(1.0, 0.1)).wanted == 1


def test_the_same_seed_gives_the_same_run_and_another_one_another() -> None:
    noisy = replace(costs(1.0, 1.0), generate=drawn([0.5, 1.0, 2.0]))
    assert run(noisy).ends == run(noisy).ends
    assert run(noisy).ends != run(noisy, seed=1).ends


def test_a_pool_that_only_fails_gives_up_in_words() -> None:
    with pytest.raises(RuntimeError, match="gave up after 4 failures"):
        run(costs(1.0, 1000.0), faults=Faults(lost_every=1.0), max_failures=3)


def test_every_size_meets_every_weather(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pool_scale, "LOSSES", 5)
    known = Measured([0.9, 1.0, 1.1], load_s=0.01, start_s=5.0, publish_s=0.01, take_s=0.005, call_s=0.002, message_s=0.001)
    rows = at_scale(known, 20, (2, 4))
    assert [row["trainers"] for row in rows] == [2, 4] * (len(rows) // 2)
    assert all(0 < row["efficiency"] <= 1 and row["max_age_seen"] <= 2 for row in rows)
