"""Orchestration alone: trainers and actors whose work is a sleep, so that what is missing from the arithmetic is the pool's own cost.

Everything around the sleep is real: the coordinator, the client, references, payloads of the size of the demo's clips, weights of the size
of its network, and a process group that keeps the trainers in step.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
import ray
import torch
import torch.distributed as dist

from ..orchestration.rollout_pool import start_pool
from ..orchestration.rollouts_config import RolloutsConfig
from ..workers.wire import Snapshot, pack_weights
from ._pool_simulator import Costs, Simulation, drawn
from ._pool_times import Timed, noted, seconds_of, times

PARAMETERS = 2_700_000  # of the demo's network
LOAD_S = 0.005  # eight actors that really copied its weights would keep two cores from the trainers
VIDEO, AUDIO = (16, 24, 8, 8), (79, 128)  # latents of one of its clips


@dataclass(frozen=True)
class Sleep:
    """generate_s: of a request."""

    generate_s: float


class SleepingActor:
    """A rollout actor that computes nothing; its rollouts have the size of the demo's."""

    def __init__(self, timed: Timed) -> None:
        assert isinstance(timed.work, Sleep)
        self._seconds, self._notes, self._version = timed.work.generate_s, timed.folder, -1

    def load(self, snapshot: Snapshot) -> int:
        with noted(self._notes, "load"):
            time.sleep(LOAD_S)
            self._version = snapshot.version
        return self._version

    def generate(self, positions: list[int]) -> tuple[tuple[int, int, int], dict[str, np.ndarray]]:
        with noted(self._notes, "generate"):
            time.sleep(self._seconds)
            clips = len(positions)
            arrays = {
                name: np.zeros((clips, *shape), np.float32)
                for name, shape in (
                    ("history_video", VIDEO),
                    ("history_audio", AUDIO),
                    ("exit_video", (VIDEO[0] - 1, *VIDEO[1:])),
                    ("exit_audio", AUDIO),
                    ("exit_time", (5,)),
                )
            }
            arrays["versions"], arrays["samples"] = np.full((clips, 2), self._version), np.array(positions)
        return (self._version, self._version, sum(x.nbytes for x in arrays.values())), arrays


@dataclass(frozen=True)
class Asleep:
    """A pool of sleepers. requests: of a step, of `clips` clips each; generate_s: of a request; warm: steps that do not count."""

    requests: int
    generate_s: float
    steps: int
    trainers: int = 4
    actors: int = 8
    clips: int = 8
    train_s: float = 0.5
    warm: int = 6

    @property
    def ideal_s(self) -> float:
        """Of a step: whoever has more to do does nothing else."""
        return max(self.train_s, self.requests * self.generate_s / self.actors)

    @property
    def messages(self) -> int:
        """Of a step: what is made, and loaded by every actor; what every trainer takes; the weights."""
        return self.requests + self.actors + self.trainers + 1


class SleepingTrainer:
    """One rank of a training that computes nothing."""

    def __init__(self, rank: int, world: int, meet: str) -> None:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
        self._rank, self._weights = rank, [torch.zeros(PARAMETERS)]

    def train(self, client: Any, row: Asleep, notes: Path) -> dict[str, list[float]]:
        """When each step ended, how long taking, training and publishing took, how old its rollouts were."""
        client.join(self._rank, 0, {})
        ends, takes, ages, trained, sent = (list[float]() for _ in range(5))
        snapshot: Snapshot | None = None
        if self._rank == 0:
            client.publish(snapshot := pack_weights(0, self._weights))
        begun = time.perf_counter()
        while len(list(notes.glob("*.times"))) < row.actors:  # the others still import PyTorch, on these cores
            time.sleep(0.1)
        dist.barrier()
        start_s = time.perf_counter() - begun
        for step in range(row.steps):
            start = time.perf_counter()
            rollout = client.take(step, self._rank)
            takes.append(time.perf_counter() - start)
            ages.extend(step - low for low, _ in rollout.versions)
            start = time.perf_counter()
            time.sleep(row.train_s)
            trained.append(time.perf_counter() - start)
            dist.barrier()
            start = time.perf_counter()
            if self._rank == 0:
                client.publish(snapshot := pack_weights(step + 1, self._weights, snapshot))
            sent.append(time.perf_counter() - start)
            ends.append(time.perf_counter())
        return {"ends": ends, "takes": takes, "ages": ages, "trained": trained, "sent": sent, "start_s": [start_s]}


@dataclass(frozen=True)
class Known:
    """What one row has shown of the machine, in seconds. over: that generating took beyond its sleep; see `Costs` for the others."""

    train: Sequence[float]
    over: Sequence[float]
    load: float
    publish: float
    take: Sequence[float]
    call: float
    message: float

    def predicts(self, row: Asleep, figures: dict[str, Any]) -> dict[str, Any]:
        """What the simulator says of a row that it has not seen, beside what was measured."""
        costs = Costs(
            train=drawn(self.train),
            generate=drawn([row.generate_s + x for x in self.over]),
            load=self.load,
            publish=self.publish,
            take=drawn(self.take),
            call=self.call / 2,
            message=self.message,
        )
        config = RolloutsConfig(actors=row.actors, clips=row.clips)
        made = Simulation(row.trainers, row.requests // row.trainers, row.steps, config, costs).run()
        step_s = made.step_s(row.warm)
        error = abs(step_s / figures["step_s"] - 1)
        return {"predicted_step_s": step_s, "predicted_mean_age": made.mean_age, "simulator_error": error}


def measure_sleep(name: str, row: Asleep, folder: Path, say: Callable[[str], None]) -> tuple[dict[str, Any], Known]:
    """Steps of a sleeping pool: their time against the arithmetic's, `take`, the coordinator's core; and what that tells of other rows.

    Raises:
        ValueError: a rollout was older than the bound allows.
    """
    folder.mkdir()
    notes = folder / "times"
    notes.mkdir()
    config = RolloutsConfig(actors=row.actors, clips=row.clips)
    stage = row.steps + config.max_age + 1  # longer than what is measured: at its end the coordinator is busy with ending its actors
    work = Timed(Sleep(row.generate_s), notes)
    client = start_pool(work, config, row.trainers, row.requests * row.clips, stage, kind=SleepingActor)
    kind: Any = ray.remote(SleepingTrainer).options(num_cpus=0)
    trainers = [kind.remote(rank, row.trainers, str(folder / "meet")) for rank in range(row.trainers)]
    running = [trainer.train.remote(client, row, notes) for trainer in trainers]
    while client.figures()["version"] < row.warm:
        time.sleep(0.2)
    core = _Core()
    served = client.figures()["served"]
    time.sleep(0.8 * (row.steps - row.warm - 4) * row.ideal_s)
    share, seconds, requests = *core.share(), client.figures()["served"] - served
    call = median(seconds_of(client.figures) for _ in range(10))
    told = ray.get(running)
    for trainer in trainers:
        ray.kill(trainer)
    client.close()
    age = int(max(max(one["ages"]) for one in told))
    if age > config.max_age:
        raise ValueError(f"a rollout was {age} steps old, rollouts.max_age={config.max_age}")
    ends = [max(each) for each in zip(*(one["ends"] for one in told), strict=True)]
    step_s = (ends[-1] - ends[row.warm - 1]) / (row.steps - row.warm)
    takes = sorted(x for one in told for x in one["takes"][row.warm :])
    ages = Counter(x for one in told for x in one["ages"])
    generate = times(notes, "generate")
    known = Known(
        train=[x for one in told for x in one["trained"][row.warm :]],
        over=[x - row.generate_s for x in generate],
        load=median(times(notes, "load")),
        publish=median(told[0]["sent"][row.warm :]),
        take=takes,
        call=call,
        message=share * seconds * row.requests / (requests * row.messages),
    )
    rate = requests * row.clips / seconds
    say(f"{name}: {step_s:.4f} s a step, ideal {row.ideal_s:.4f}; coordinator {share:.1%} of a core at {rate:.0f} clips/s")
    return {
        "step_s": step_s,
        "ideal_s": row.ideal_s,
        "efficiency": row.ideal_s / step_s,
        "coordinator_core": share,
        "clips_per_s": rate,
        "coordinator_message_s": known.message,
        "take_p50_ms": 1e3 * median(takes),
        "take_p99_ms": 1e3 * takes[min(len(takes) - 1, int(0.99 * len(takes)))],
        "takes": len(takes),
        "take_mb": row.requests * row.clips // row.trainers * _clip_bytes() / 1e6,
        "generate_s": median(generate),
        "publish_s": known.publish,
        "load_s": known.load,
        "call_s": call,
        "start_s": told[0]["start_s"][0],
        "trainers": row.trainers,
        "actors": row.actors,
        "ages": {str(int(old)): count for old, count in sorted(ages.items())},
        "mean_age": sum(old * count for old, count in ages.items()) / sum(ages.values()),
        "max_age_seen": age,
    }, known


def _clip_bytes() -> int:
    return 4 * int(2 * np.prod(AUDIO) + np.prod(VIDEO) + np.prod((VIDEO[0] - 1, *VIDEO[1:])))


class _Core:
    """CPU time of the coordinator's process since it was looked at first."""

    def __init__(self) -> None:
        found = [p for p in psutil.Process().children(recursive=True) if " ".join(p.cmdline()).startswith("ray::Coordinator")]
        self._process = max(found, key=lambda p: p.create_time())
        self._at, self._used = time.perf_counter(), self._cpu()

    def share(self) -> tuple[float, float]:
        """Of one core, and the seconds meanwhile."""
        seconds = time.perf_counter() - self._at
        return (self._cpu() - self._used) / seconds, seconds

    def _cpu(self) -> float:
        spent = self._process.cpu_times()
        return spent.user + spent.system
