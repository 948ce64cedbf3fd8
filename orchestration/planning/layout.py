"""Which layout of a run fits so many GPUs, and which is fastest: trainers, rollout GPUs, ZeRO stage, checkpointing, micro-batch.

trainers        divide the batch of every stage, and leave room for at least one rollout actor where there is a mutual stage
for each of them and each ZeRO stage: the largest micro-batch, with the least that is computed again, that fits in all stages
the rest        rollout actors: as many as keep these trainers busy (`failure_policy.wanted_actors`), of those that are left, each with as
                many clips of a request as its GPU has room for
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import gcd

from ..config import RunConfig
from ..failure_policy import wanted_actors
from .actors import actor_parts, clips_that_fit, rolls
from .gpus import Gpu
from .host import Host, host_of
from .loads import Choice, load, step
from .memory import Moment, peak
from .timing import Speeds, rollout, work

EVERY = (0, 2, 1)  # checkpointing policies from the fastest to the leanest
STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Room:
    """What there is: so many GPUs, and the bytes of a machine's own memory (None: nothing was said of it)."""

    gpus: int
    gpu: Gpu
    host: int | None = None


@dataclass(frozen=True)
class Fit:
    """A choice held against what there is. moment: when a trainer needs most, in `stage`; why: what stands against it, empty if it fits;
    node: bytes that a machine needs of its own, where that is too much.
    """

    choice: Choice
    stage: str
    moment: Moment
    why: str = ""
    node: int = 0


@dataclass(frozen=True)
class Timed:
    """A fit with its speed. step_s: of each stage, with the wait for rollouts; request_s: of a rollout request; actors: that make them;
    wanted: that would keep the trainers busy; clips: of a request, of those `asked` for; seconds: of all stages.
    """

    fit: Fit
    step_s: dict[str, float]
    request_s: float
    actors: int
    wanted: int
    clips: int
    asked: int
    seconds: float

    @property
    def gpus(self) -> int:
        return self.fit.choice.trainers + self.actors


def counts_of_trainers(config: RunConfig, gpus: int) -> list[int]:
    """Those that divide every stage's batch, most first."""
    most = gcd(*(stage.batch for stage in config.stages))
    room = gpus - (1 if rolls(config) else 0)
    return [n for n in range(min(most, room), 0, -1) if most % n == 0]


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


def best_of(config: RunConfig, trainers: int, zero: int, room: Room, speeds: Speeds) -> tuple[Fit, Timed | None]:
    """The fastest choice of this ZeRO stage that fits, with its times; where none does, the leanest.

    For each policy of checkpointing, with the optimizer here or on the host, the largest micro-batch that fits is tried.
    """
    memory = room.gpu.memory
    policies = [(every, away) for away in (False, True) if zero or not away for every in _policies(config)]
    leanest = held_against(config, Choice(trainers, zero, 1, *policies[-1]), memory)
    if why := leanest.why or _refused_actor(config, memory):
        return replace(leanest, why=why), None
    fits = [fit for every, away in policies if (fit := _largest(config, trainers, zero, every, away, memory)) is not None]
    each = [timed(config, fit, room.gpus, memory, speeds) for fit in fits]
    hosts = {found.fit.choice: hosted(config, found, room) for found in each}
    held = [found for found in each if not hosts[found.fit.choice].over]
    if not held:
        least = min(each, key=lambda found: hosts[found.fit.choice].node).fit
        host = hosts[least.choice]
        why = f"{host.node / 1e9:,.0f} GB of a machine's own memory, {host.over / 1e9:,.0f} GB more than --host-memory"
        return replace(least, why=why, node=host.node), None
    best = min(held, key=lambda found: found.seconds)
    return best.fit, best


def hosted(config: RunConfig, found: Timed, room: Room) -> Host:
    """The memory of the machines of a layout."""
    return host_of(config, found.fit.choice, found.actors, room.gpu.of_node, room.host)


def _refused_actor(config: RunConfig, memory: int) -> str:
    """Where a rollout actor has no room for a single clip: a part of any request is a request too."""
    least = sum(actor_parts(config, 1).values()) if rolls(config) else 0
    return f"a rollout actor needs {least / 1e9:.1f} GB for a single clip" if least > memory else ""


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


def timed(config: RunConfig, fit: Fit, gpus: int, memory: int, speeds: Speeds, actors: int = 0) -> Timed:
    """How fast a fit is with what is left of so many GPUs of so much memory for rollouts. actors: of these, 0: as many as it takes."""
    seconds = {s.name: work(step(config, s, fit.choice)).seconds(speeds) for s in config.stages}
    request, wanted, clips, asked = 0.0, 0, 0, 0
    mutual = next((s for s in config.stages if s.objective == "mutual"), None)
    if mutual is not None and rolls(config):
        of, (clips, asked) = step(config, mutual, fit.choice), clips_that_fit(config, fit.choice.trainers, memory)
        request, requests = rollout(of.of, of.chunks, clips, config.objective).seconds(speeds), mutual.batch // clips
        wanted = wanted_actors(request, requests, seconds[mutual.name], 1, 10**6)
        actors = actors or min(wanted, gpus - fit.choice.trainers)
        seconds[mutual.name] = max(seconds[mutual.name], requests * request / actors)
    total = sum(seconds[s.name] * s.steps for s in config.stages)
    return Timed(fit, seconds, request, actors, wanted, clips, asked, total)


def search(config: RunConfig, room: Room, speeds: Callable[[int], Speeds]) -> tuple[Timed | None, list[Fit]]:
    """The fastest layout that fits, and for its number of trainers (else the largest) the best of each ZeRO stage.

    speeds: with so many trainers.
    """
    best: Timed | None = None
    trainers = counts_of_trainers(config, room.gpus)
    for count in trainers:
        for _, found in (best_of(config, count, zero, room, speeds(count)) for zero in STAGES):
            if found is not None and (best is None or found.seconds < 0.999 * best.seconds):
                best = found
        if best is not None and best.fit.choice.trainers > 2 * count:
            break  # half as many trainers are not faster
    chosen = best.fit.choice.trainers if best is not None else trainers[0]
    return best, [best_of(config, chosen, zero, room, speeds(chosen))[0] for zero in STAGES]


def too_few(config: RunConfig, room: Room, fits: Sequence[Fit], known: Sequence[tuple[str, Gpu]]) -> str:
    """Where nothing fits: what would, in words."""
    gpus, gpu = room.gpus, room.gpu
    if nodes := [fit for fit in fits if fit.node]:
        least = min(nodes, key=lambda fit: fit.node)
        return f"a machine needs --host-memory={-(-least.node // 10**9)} with ZeRO {least.choice.zero}; take larger machines"
    for more in (2 * gpus, 4 * gpus, 8 * gpus):
        for count in counts_of_trainers(config, more):
            if count > gpus // 2 and any(_fits(config, count, zero, gpu.memory) for zero in STAGES):
                return f"with {count} {'trainer' if count == 1 else 'trainers'} (--gpus={more}) it fits"
    for name, other in sorted(known, key=lambda found: found[1].memory):
        if other.memory > gpu.memory and any(_fits(config, n, z, other.memory) for n in counts_of_trainers(config, gpus) for z in STAGES):
            return f"on --gpu={name} it fits"
    return "no known GPU holds it; choose a smaller model, shorter clips or smaller pictures"


def _fits(config: RunConfig, trainers: int, zero: int, memory: int) -> bool:
    """Whether the leanest choice does."""
    leanest = held_against(config, Choice(trainers, zero, 1, _policies(config)[-1], zero > 0), memory)
    return not leanest.why and not _refused_actor(config, memory)
