"""Which layout of a run fits so many GPUs, and which is fastest: trainers, rollout GPUs, ZeRO stage, checkpointing, micro-batch.

trainers        divide the batch of every stage, and leave room for at least one rollout actor where there is a mutual stage
for each of them and each ZeRO stage: the largest micro-batch, with the least that is computed again, that fits in all stages
the rest        rollout actors: as many as keep these trainers busy (`failure_policy.wanted_actors`), of those that are left
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd

from ..config import RunConfig
from ..failure_policy import wanted_actors
from .gpus import Gpu
from .loads import Choice, load, step
from .memory import Moment, peak
from .timing import Speeds, rollout, work

EVERY = (0, 2, 1)  # checkpointing policies from the fastest to the leanest
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Fit:
    """A choice held against a GPU. moment: when it needs most, in `stage`; why: what stands against it, empty if it fits."""

    choice: Choice
    stage: str
    moment: Moment
    why: str = ""


@dataclass(frozen=True)
class Timed:
    """A fit with its speed. step_s: of each stage, with the wait for rollouts; request_s: of a rollout request; actors: that make them;
    wanted: that would keep the trainers busy; seconds: of all stages.
    """

    fit: Fit
    step_s: dict[str, float]
    request_s: float
    actors: int
    wanted: int
    seconds: float

    @property
    def gpus(self) -> int:
        return self.fit.choice.trainers + self.actors


def counts_of_trainers(config: RunConfig, gpus: int) -> list[int]:
    """Those that divide every stage's batch, most first."""
    most = gcd(*(stage.batch for stage in config.stages))
    room = gpus - (1 if rolls(config) else 0)
    return [n for n in range(min(most, room), 0, -1) if most % n == 0]


def rolls(config: RunConfig) -> bool:
    """Whether rollout actors have something to do."""
    return any(s.objective == "mutual" for s in config.stages) and config.objective.needs_rollouts


def held_against(config: RunConfig, choice: Choice, memory: int) -> Fit:
    """The stage and the moment in which this choice needs most."""
    worst = max(((s, peak(load(config, s, choice))) for s in config.stages), key=lambda found: found[1].total)
    over = worst[1].total - memory
    why = f"{worst[1].total / 1e9:.1f} GB in stage {worst[0].name} ({worst[1].name}), {over / 1e9:.1f} GB too many" if over > 0 else ""
    return Fit(choice, worst[0].name, worst[1], why or _refused(config, choice))


def _refused(config: RunConfig, choice: Choice) -> str:
    """What `RunConfig` itself would refuse."""
    if choice.zero == 0 and config.engine.precision == "bf16":
        return "bf16 needs ZeRO 1, 2 or 3"
    if choice.zero == 3 and config.objective.fake.kind == "lora":
        return "a lora fake score needs ZeRO 0, 1 or 2"
    return ""


def best_of(config: RunConfig, trainers: int, zero: int, gpus: int, memory: int, speeds: Speeds) -> tuple[Fit, Timed | None]:
    """The fastest choice of this ZeRO stage that fits, with its times; where none does, the leanest.

    For each policy of checkpointing, with the optimizer here or on the host, the largest micro-batch that fits is tried.
    """
    policies = [(every, away) for away in (False, True) if zero or not away for every in _policies(config)]
    leanest = held_against(config, Choice(trainers, zero, 1, *policies[-1]), memory)
    if leanest.why:
        return leanest, None
    fits = [fit for every, away in policies if (fit := _largest(config, trainers, zero, every, away, memory)) is not None]
    found = min((timed(config, fit, gpus, speeds) for fit in fits), key=lambda t: t.seconds)
    return found.fit, found


def _largest(config: RunConfig, trainers: int, zero: int, every: int, away: bool, memory: int) -> Fit | None:
    """With the largest micro-batch that fits; None where not even one clip does."""
    most = gcd(*(stage.batch // trainers for stage in config.stages))
    for micro in (n for n in range(most, 0, -1) if most % n == 0):
        fit = held_against(config, Choice(trainers, zero, micro, every, away), memory)
        if not fit.why:
            return fit
    return None


def _policies(config: RunConfig) -> list[int]:
    return [e for e in EVERY if not e or config.objective.fake.kind != "lora"]


def timed(config: RunConfig, fit: Fit, gpus: int, speeds: Speeds) -> Timed:
    """How fast a fit is with what is left of so many GPUs for rollouts."""
    seconds = {s.name: work(step(config, s, fit.choice)).seconds(speeds) for s in config.stages}
    request, actors, wanted = 0.0, 0, 0
    mutual = next((s for s in config.stages if s.objective == "mutual"), None)
    if mutual is not None and rolls(config):
        of, clips = step(config, mutual, fit.choice), config.rollouts.clips or mutual.batch // fit.choice.trainers
        request, requests = rollout(of.of, of.chunks, clips, config.objective).seconds(speeds), mutual.batch // clips
        wanted = wanted_actors(request, requests, seconds[mutual.name], 1, 10**6)
        actors = min(wanted, gpus - fit.choice.trainers)
        seconds[mutual.name] = max(seconds[mutual.name], requests * request / actors)
    total = sum(seconds[s.name] * s.steps for s in config.stages)
    return Timed(fit, seconds, request, actors, wanted, total)


def search(config: RunConfig, gpus: int, gpu: Gpu, speeds: Callable[[int], Speeds]) -> tuple[Timed | None, list[Fit]]:
    """The fastest layout that fits, and for its number of trainers (else the largest) the best of each ZeRO stage.

    speeds: with so many trainers.
    """
    best: Timed | None = None
    trainers = counts_of_trainers(config, gpus)
    for count in trainers:
        for _, found in (best_of(config, count, zero, gpus, gpu.memory, speeds(count)) for zero in STAGES):
            if found is not None and (best is None or found.seconds < 0.999 * best.seconds):
                best = found
        if best is not None and best.fit.choice.trainers > 2 * count:
            break  # half as many trainers are not faster
    chosen = best.fit.choice.trainers if best is not None else trainers[0]
    return best, [best_of(config, chosen, zero, gpus, gpu.memory, speeds(chosen))[0] for zero in STAGES]


def too_few(config: RunConfig, gpus: int, gpu: Gpu, known: Sequence[tuple[str, Gpu]]) -> str:
    """Where nothing fits: what would, in words."""
    for more in (2 * gpus, 4 * gpus, 8 * gpus):
        for count in counts_of_trainers(config, more):
            if count > gpus // 2 and any(_fits(config, count, zero, gpu.memory) for zero in STAGES):
                return f"with {count} trainers (--gpus={more}) it fits"
    for name, other in sorted(known, key=lambda found: found[1].memory):
        if other.memory > gpu.memory and any(_fits(config, n, z, other.memory) for n in counts_of_trainers(config, gpus) for z in STAGES):
            return f"on --gpu={name} it fits"
    return "no known GPU holds it; choose a smaller model, shorter clips or smaller pictures"


def _fits(config: RunConfig, trainers: int, zero: int, memory: int) -> bool:
    """Whether the leanest choice does."""
    return not held_against(config, Choice(trainers, zero, 1, _policies(config)[-1], zero > 0), memory).why
