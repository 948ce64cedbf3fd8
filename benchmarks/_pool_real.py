"""One trainer and one rollout actor, a thread each, against the same work inline: a step's rollout, then the step, as in Self-Forcing.

Both ways do the same maths on the same clips with the same trainer, and take turns. The pool stays up between its turns: it fills its
buffer and stops at the bound on age. Each of its turns begins with steps that only take, until the buffer is empty: a throughput that
lives on stock would be too good.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch.distributed as dist

from ..model.objective import ObjectiveConfig
from ..model.types import Rollout
from ..orchestration.rollout_pool import start_pool
from ..orchestration.rollouts_config import RolloutsConfig
from ..workers.rollout_actor import RolloutActor, RolloutActorConfig
from ..workers.wire import Snapshot, pack_weights
from ._pool_simulator import Costs, Simulation, drawn
from ._pool_times import Timed, noted, seconds_of, times
from ._pool_world import STAGE, Trainer, demo, make_clips

BATCH = 8  # clips a step, as in the demo, and of a request


@dataclass(frozen=True)
class Amount:
    """rounds: turns of each way; steps: of a turn that count; warm: that do not."""

    rounds: int
    steps: int
    warm: int


def mixes(base: ObjectiveConfig) -> dict[str, ObjectiveConfig]:
    """What a step consists of decides who waits. The demo's own step takes several rollouts' time. Flow matching alone is shorter, and
    more moves make the rollout longer.
    """
    flow = replace(base, w_distil=0.0)

    def moves(count: int) -> ObjectiveConfig:
        return replace(flow, few=replace(flow.few, moves=count))

    return {"rollout-bound": moves(32), "balanced": moves(14), "train-bound": base}


class TimedActor(RolloutActor):
    """The rollout actor itself, with a clock beside."""

    def __init__(self, timed: Timed) -> None:
        assert isinstance(timed.work, RolloutActorConfig)
        super().__init__(timed.work)
        self._notes = timed.folder

    def load(self, snapshot: Snapshot) -> int:
        with noted(self._notes, "load"):
            return super().load(snapshot)

    def generate(self, positions: list[int]) -> Any:
        with noted(self._notes, "generate"):
            return super().generate(positions)


@dataclass(frozen=True)
class Turn:
    """Seconds of the steps that count: of a step by the clock on the wall; of each, to get its rollout, to train, and to publish; of what
    the actor generated meanwhile. ages: of the clips' rollouts, in steps.
    """

    step_s: float
    got_s: list[float]
    train_s: list[float]
    publish_s: list[float]
    generate_s: list[float]
    ages: list[int] = field(default_factory=list)


class Mix:
    """One mix: its trainer, its pool, and how far they are. ages: of all rollouts that were taken."""

    def __init__(self, objective: ObjectiveConfig, folder: Path, amount: Amount) -> None:
        run, self.config, self.ages, self.notes, self._at = demo(), RolloutsConfig(actors=1), list[int](), folder / "times", 0
        make_clips(run, folder / "data")
        self.notes.mkdir()
        self._amount, self._ahead = amount, self.config.max_age + 1
        self._trainer = Trainer(run, objective, folder / "data", BATCH)
        work = RolloutActorConfig(folder / "data", run.model, run.data.timeline, objective, run.seed, STAGE, self.config.threads)
        steps = amount.rounds * (self._ahead + amount.warm + amount.steps) + self._ahead + 1
        self._client = start_pool(Timed(work, self.notes), self.config, 1, BATCH, steps, kind=TimedActor)
        self._sent: Snapshot | None = None
        with one_process(folder / "meet"):
            self._client.join(0, 0, {})
        self._publish()

    def inline(self) -> Turn:
        """Steps that make their own rollouts, while the pool stands still."""
        while self._client.figures()["ready"] < self._ahead:
            time.sleep(0.1)
        return self._turn(self._trainer.roll_out, lambda: None)

    def pooled(self) -> Turn:
        """Steps that take them from the pool, whose stock is taken first."""
        for _ in range(self._ahead):
            self._take(self._at)
            self._at += 1
            self._publish()
        before = len(self.ages)
        turn = self._turn(self._take, self._publish)
        return replace(turn, ages=self.ages[before + self._amount.warm * BATCH :])

    def close(self) -> None:
        """End the pool: the next mix has the cores for itself."""
        self._client.close()

    def call_s(self) -> float:
        """A message to the coordinator and its answer."""
        return median(seconds_of(self._client.figures) for _ in range(20))

    def _take(self, step: int) -> Rollout:
        made = self._client.take(step, 0)
        self.ages.extend(step - low for low, _ in made.versions)
        return made

    def _publish(self) -> None:
        self._sent = pack_weights(self._at, self._trainer.ema.parameters(), self._sent)
        self._client.publish(self._sent)

    def _turn(self, get: Callable[[int], Rollout], publish: Callable[[], None]) -> Turn:
        got, train, sent = list[float](), list[float](), list[float]()
        start, first, made = 0.0, self._at, 0
        for n in range(self._amount.warm + self._amount.steps):
            marks = [time.perf_counter()]
            if n == self._amount.warm:
                start, made = marks[0], len(times(self.notes, "generate"))
            rollout = get(first + n)
            marks.append(time.perf_counter())
            self._trainer.step(first + n, rollout)
            marks.append(time.perf_counter())
            self._at = first + n + 1
            publish()
            marks.append(time.perf_counter())
            for seconds, (before, after) in zip((got, train, sent), pairwise(marks), strict=True):
                seconds.append(after - before)
        spent, warm = time.perf_counter() - start, self._amount.warm
        if get == self._trainer.roll_out:
            self._at = first  # these steps were not the pool's
        return Turn(spent / self._amount.steps, got[warm:], train[warm:], sent[warm:], times(self.notes, "generate")[made:])


@contextmanager
def one_process(meet: Path) -> Iterator[None]:
    """A process group of this process alone, as a trainer has one."""
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def measure_mix(name: str, objective: ObjectiveConfig, folder: Path, amount: Amount, say: Callable[[str], None]) -> dict[str, Any]:
    """Throughput of the pool over that of the inline loop, against the ideal of the same round; and whether the simulator, which is told
    every other round, says the same of those between them.

    Raises:
        ValueError: a rollout was older than the bound allows.
    """
    folder.mkdir()
    mix, rounds = Mix(objective, folder, amount), list[tuple[Turn, Turn]]()
    for n in range(amount.rounds):
        pooled, inline = mix.pooled(), mix.inline()
        rounds.append((inline, pooled))
        say(f"{name}, round {n}: inline {inline.step_s:.3f} s a step, pooled {pooled.step_s:.3f} s")
    if max(mix.ages) > mix.config.max_age:
        raise ValueError(f"a rollout was {max(mix.ages)} steps old, rollouts.max_age={mix.config.max_age}")
    ratios = [inline.step_s / pooled.step_s for inline, pooled in rounds]
    ideals = [ideal(inline) for inline, _ in rounds]
    of_ideal = [ratio / best for ratio, best in zip(ratios, ideals, strict=True)]
    call, pools = mix.call_s(), [pooled for _, pooled in rounds]
    mix.close()
    told, others = pools[::2], pools[1::2]  # a machine that grows slower or faster does so to both
    costs = Costs(
        train=drawn([x for turn in told for x in turn.train_s]),
        generate=drawn([x for turn in told for x in turn.generate_s]),
        load=median(times(mix.notes, "load")),
        publish=median(x for turn in told for x in turn.publish_s),
        call=call / 2,
    )
    made = Simulation(1, 1, 40 * amount.steps, mix.config, costs).run()
    measured, ages = mean(turn.step_s for turn in others), [age for turn in others for age in turn.ages]
    return {
        "train_s": median(x for turn, _ in rounds for x in turn.train_s),
        "rollout_s": median(x for turn, _ in rounds for x in turn.got_s),
        "train_beside_the_actor_s": median(x for turn in pools for x in turn.train_s),
        "rollout_beside_the_trainer_s": median(times(mix.notes, "generate")),
        "publish_s": median(x for turn in pools for x in turn.publish_s),
        "load_s": costs.load,
        "call_s": call,
        "inline_step_s": median(turn.step_s for turn, _ in rounds),
        "pooled_step_s": median(turn.step_s for turn in pools),
        "ratio": median(ratios),
        "ratio_rounds": ratios,
        "ideal": median(ideals),
        "of_ideal": median(of_ideal),
        "of_ideal_rounds": of_ideal,
        "ages": {str(age): count for age, count in sorted(Counter(mix.ages).items())},
        "max_age_seen": max(mix.ages),
        "mean_age": mean(ages),
        "other_rounds_step_s": measured,
        "predicted_step_s": made.step_s(10),
        "predicted_mean_age": made.mean_age,
        "simulator_error": abs(made.step_s(10) / measured - 1),
        "generate_times": times(mix.notes, "generate"),
    }


def ideal(inline: Turn) -> float:
    """What overlap can give: all work one after the other, over the longer part alone."""
    train, rollout = sum(inline.train_s), sum(inline.got_s)
    return (train + rollout) / max(train, rollout)
