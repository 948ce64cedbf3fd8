"""Pools that no machine here can hold: 8 to 1,024 trainers, twice as many actors, in the simulator, with what this run has measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import median
from typing import Any

from ..orchestration.rollouts_config import RolloutsConfig
from ._pool_simulator import Costs, Faults, Outcome, Simulation, drawn

TRAINERS = (8, 32, 128, 1024)
ACTORS_EACH = 2  # of a trainer
BUSY = 0.8  # of the actors' time, where nothing goes wrong: the pool has a fifth more than the trainers need
WARM = 8  # steps that do not count
LOSSES = 50  # of actors, that a row with such faults waits for
SEEDS = 3  # of a row with faults
NETWORK_MB_S, WEIGHTS_MB, REQUEST_MB = 1250.0, 2000.0, 64.0  # assumed: 10 Gbit/s a machine, 1 B weights in bf16, some clips of latents


@dataclass(frozen=True)
class Measured:
    """What the other rows found. spread: generating times over their median; load_s, start_s: of an actor; publish_s, take_s: of a
    trainer; call_s, message_s: see `Costs`.
    """

    spread: Sequence[float]
    load_s: float
    start_s: float
    publish_s: float
    take_s: float
    call_s: float
    message_s: float

    def costs(self, train_s: float, requests: int) -> Costs:
        """A trainer's `requests` of a step keep its actors busy for `BUSY` of the step; weights and rollouts cross a network besides."""
        generate_s = BUSY * ACTORS_EACH * train_s / requests
        return Costs(
            train=drawn([train_s]),
            generate=drawn([generate_s * x for x in self.spread]),
            load=self.load_s + WEIGHTS_MB / NETWORK_MB_S,
            start=self.start_s,
            publish=self.publish_s,
            read=drawn([requests * REQUEST_MB / NETWORK_MB_S]),
            take=drawn([self.take_s]),
            call=self.call_s / 2,
            message=self.message_s,
        )


@dataclass(frozen=True)
class Weather:
    """train_s: of a step; requests: that a trainer's share of a step is cut into; faults: assumed, nothing here can measure them."""

    train_s: float
    requests: int
    faults: Faults

    def steps(self, least: int, actors: int) -> int:
        """So many that `LOSSES` actors are lost, where they are."""
        return max(least, ceil(LOSSES * self.faults.lost_every / (actors * self.train_s)))


SLOW, SPOT = Faults(slow_share=0.05, slow_by=5.0), Faults(lost_every=3600.0)
WEATHERS = {
    "calm, steps of 10 s": Weather(10.0, 4, Faults()),
    "stragglers (5 % take 5 x)": Weather(10.0, 4, SLOW),
    "stragglers, one request a trainer": Weather(10.0, 1, SLOW),
    "spot machines (1 h each)": Weather(10.0, 4, SPOT),
    "stragglers and spot machines": Weather(10.0, 4, replace(SPOT, slow_share=SLOW.slow_share, slow_by=SLOW.slow_by)),
    "calm, steps of 3 s": Weather(3.0, 4, Faults()),
}


def at_scale(measured: Measured, steps: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each size in each weather: medians over the seeds, and the range of the efficiency."""
    rows = []
    for name, weather in WEATHERS.items():
        for trainers in sizes:
            config = RolloutsConfig(actors=ACTORS_EACH * trainers)
            costs, faults = measured.costs(weather.train_s, weather.requests), weather.faults
            seeds = range(SEEDS if faults != Faults() else 1)
            length = weather.steps(steps, config.size)
            made = [Simulation(trainers, weather.requests, length, config, costs, faults, seed).run() for seed in seeds]
            about = {"weather": name, "trainers": trainers, "actors": config.size, "train_s": weather.train_s, "steps": length}
            rows.append(about | _row(made))
    return rows


def _row(made: Sequence[Outcome]) -> dict[str, Any]:
    """ages: share of the requests by age."""
    ages = sum((one.ages for one in made), Counter[int]())
    total, efficiencies = sum(ages.values()), [one.efficiency(WARM) for one in made]
    counts = {name: median(getattr(one, name) for one in made) for name in ("replaced", "late", "dropped", "remade", "wanted")}
    return {
        "step_s": median(one.step_s(WARM) for one in made),
        "efficiency": median(efficiencies),
        "efficiency_range": [min(efficiencies), max(efficiencies)],
        "ages": {str(age): count / total for age, count in sorted(ages.items())},
        "mean_age": sum(age * count for age, count in ages.items()) / total,
        "max_age_seen": max(ages),
        "lost_share": median(one.lost_s / (one.lost_s + one.made_s) for one in made),
        "coordinator_core": median(one.coordinator_s / one.ends[-1] for one in made),
        **counts,
    }
