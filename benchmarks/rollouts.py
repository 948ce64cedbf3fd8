"""What the rollout pool is worth, what it costs, and what it would come to at sizes that no machine here holds.

    real           one trainer and one rollout actor, a thread each, against the same work inline, in three mixes    ratio to the ideal
    orchestration  four trainers and eight actors whose work is a sleep                        efficiency, `take`, the coordinator's core
    broadcast      weights to four actors on one machine, against four copies of as many bytes                       MB/s
    scale          the pool's own rules in virtual time, with what the other rows measured, up to 1,024 trainers     efficiency, age, loss

Ways that are compared take turns, because machines are noisy; figures are medians over the rounds. The simulator is held against what it
has not seen: it learns a real mix from every other round and predicts those between them, and the sleeping rows from one of them.
Nothing is trained to any purpose: clips are noise.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from ..orchestration.rollouts_config import RolloutsConfig
from ..orchestration.session import ray_session
from ._pool_broadcast import measure_broadcast
from ._pool_page import lines, plot
from ._pool_real import Amount, measure_mix, mixes
from ._pool_scale import TRAINERS, Measured, at_scale
from ._pool_sleep import Asleep, Known, measure_sleep
from ._pool_world import demo
from .model import one_thread


@dataclass(frozen=True)
class Size:
    """How much of everything. asleep: steps of the sleeping rows; megabytes, casts: of weights, and how often they are sent."""

    real: Amount
    asleep: int
    megabytes: int
    casts: int
    scale_steps: int
    trainers: tuple[int, ...]


FULL = Size(Amount(rounds=4, steps=6, warm=1), asleep=60, megabytes=1000, casts=7, scale_steps=40, trainers=TRAINERS)
LONGER = 3  # times as many steps: what a pool has in stock at its start must not hide what it lacks
QUICK = Size(Amount(rounds=2, steps=2, warm=1), asleep=16, megabytes=128, casts=2, scale_steps=16, trainers=TRAINERS[:2])


def sleepers(steps: int) -> dict[str, Asleep]:
    """stocked, alone: rollouts are always ready, alone for one trainer only; matched: actors have exactly as much to do as trainers; busy:
    512 clips a second. The first tells the simulator what the machine is like.
    """
    return {
        "stocked": Asleep(requests=8, generate_s=0.2, steps=steps),
        "alone": Asleep(requests=2, generate_s=0.2, steps=steps, trainers=1, actors=2),
        "matched": Asleep(requests=8, generate_s=0.5, steps=LONGER * steps, warm=LONGER * 6),
        "busy": Asleep(requests=32, generate_s=0.1, steps=steps),
    }


def measured(size: Size, folder: Path) -> dict[str, Any]:
    """All rows.

    Raises:
        ValueError: a rollout was older than the bound allows.
    """
    load = os.getloadavg()
    broadcast = measure_broadcast(size.megabytes, size.casts, _say)
    asleep, rows_of = dict[str, dict[str, Any]](), sleepers(size.asleep)
    known: Known | None = None
    for name, row in rows_of.items():
        asleep[name], told = measure_sleep(name, row, folder / name, _say)
        if known is None:
            known = told
        else:
            asleep[name] |= known.predicts(row, asleep[name])
    assert known is not None
    real = {name: measure_mix(name, objective, folder / name, size.real, _say) for name, objective in mixes(demo().objective).items()}
    stocked, busy = asleep["stocked"], asleep["busy"]
    generated = [row.pop("generate_times") for row in real.values()]
    spread = [x / median(row) for row in generated for x in row]
    measure = Measured(
        spread=spread,
        load_s=median(row["load_s"] for row in real.values()),
        start_s=stocked["start_s"],
        publish_s=known.publish,
        take_s=median(known.take),
        call_s=known.call,
        message_s=busy["coordinator_message_s"],
    )
    rows = [*real.values(), *asleep.values()]
    return {
        "name": "rollouts",
        "async_vs_ideal": min(row["of_ideal"] for row in real.values()),
        "orchestration_efficiency": asleep["matched"]["efficiency"],
        "coordinator_core": busy["coordinator_core"],
        "take_p99_ms": stocked["take_p99_ms"],
        "broadcast_mb_s": broadcast["mb_s"],
        "max_age_seen": max(row["max_age_seen"] for row in rows),
        "simulator_error": max(row["simulator_error"] for row in rows if "simulator_error" in row),
        "simulator_age_error": max(abs(row["predicted_mean_age"] - row["mean_age"]) for row in rows if "predicted_mean_age" in row),
        "max_age": RolloutsConfig().max_age,
        "load_before": [round(x, 1) for x in load],
        "load_after": [round(x, 1) for x in os.getloadavg()],
        "real": real,
        "orchestration": asleep,
        "broadcast": broadcast,
        "generate_spread": {"least": min(spread), "most": max(spread), "calls": len(spread)},
        "scale": at_scale(measure, size.scale_steps, size.trainers),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench rollouts", description="What the rollout pool is worth, and what it costs.")
    parser.add_argument("--quick", action="store_true", help="a few steps once, 128 MB, small pools: no figure to quote")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", help="write efficiency and age against the number of trainers to this file")
    options = parser.parse_args(arguments)
    if options.plot and find_spec("matplotlib") is None:
        raise ValueError(f"--plot={options.plot!r}: needs matplotlib; install it, or leave the plot out")
    os.environ.setdefault("RAY_worker_niceness", "0")  # the trainer works in this process: its actors must not come after it
    with tempfile.TemporaryDirectory(prefix="mf-bench-") as folder, ray_session(2), one_thread():
        figures = measured(QUICK if options.quick else FULL, Path(folder))
    _say("\n".join(lines(figures)))
    if options.plot:
        plot(figures, Path(options.plot))
    if options.json:
        print(json.dumps(figures))
    return 0
