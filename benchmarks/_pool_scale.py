"""Pools that no machine here can hold: 8 to 1,024 trainers, twice as many actors, in the simulator, with what this run has measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..orchestration.rollouts_config import RolloutsConfig
from ._pool_simulator import Costs, Faults, Outcome, Simulation, drawn

TRAINERS = (8, 32, 128, 1024)
ACTORS_EACH = 2  # of a trainer
BUSY = 0.8  # of the actors' time, where nothing goes wrong: the pool has a fifth more than the trainers need
WARM = 8  # steps that do not count


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
        """A trainer's `requests` of a step keep its actors busy for `BUSY` of the step."""
        generate_s = BUSY * ACTORS_EACH * train_s / requests
        return Costs(
            train=drawn([train_s]),
            generate=drawn([generate_s * x for x in self.spread]),
            load=self.load_s,
            start=self.start_s,
            publish=self.publish_s,
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


SLOW, SPOT = Faults(slow_share=0.05, slow_by=5.0), Faults(lost_every=6 * 3600.0)
WEATHERS = {
    "calm, steps of 10 s": Weather(10.0, 4, Faults()),
    "stragglers (5 % take 5 x)": Weather(10.0, 4, SLOW),
    "stragglers, one request a trainer": Weather(10.0, 1, SLOW),
    "spot machines (6 h each)": Weather(10.0, 4, SPOT),
    "stragglers and spot machines": Weather(10.0, 4, replace(SPOT, slow_share=SLOW.slow_share, slow_by=SLOW.slow_by)),
    "calm, steps of 0.5 s": Weather(0.5, 4, Faults()),
}


def at_scale(measured: Measured, steps: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each size in each weather."""
    rows = []
    for name, weather in WEATHERS.items():
        for trainers in sizes:
            config = RolloutsConfig(actors=ACTORS_EACH * trainers)
            made = Simulation(
                trainers, weather.requests, steps, config, measured.costs(weather.train_s, weather.requests), weather.faults
            ).run()
            rows.append({"weather": name, "trainers": trainers, "actors": config.size, "train_s": weather.train_s} | _row(made))
    return rows


def _row(made: Outcome) -> dict[str, Any]:
    """ages: share of the requests by age."""
    total = sum(made.ages.values())
    return {
        "step_s": made.step_s(WARM),
        "efficiency": made.efficiency(WARM),
        "ages": {str(age): count / total for age, count in sorted(made.ages.items())},
        "mean_age": sum(age * count for age, count in made.ages.items()) / total,
        "max_age_seen": max(made.ages),
        "lost_share": made.lost_s / (made.lost_s + made.made_s),
        "replaced": made.replaced,
        "late": made.late,
        "dropped": made.dropped,
        "remade": made.remade,
        "wanted": made.wanted,
        "coordinator_core": made.coordinator_s / made.ends[-1],
    }
