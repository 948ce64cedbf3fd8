"""What a machine's own memory has to hold: its training processes, its rollout actors, and Ray's object store.

process   libraries + first weights + a network that is made whole (twice where a checkpoint is read)           at its start
          libraries + first weights + an optimizer that is the host's + a checkpoint's copy, or what a stage leaves   in training
actor     libraries + a network that is made whole
store     two versions of the weights; at rank 0 the rollouts that wait, too
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..config import RunConfig
from .loads import Choice, load
from .memory import FP32, Load, trained
from .traffic import Store, saved, store

LIBRARIES = 7 * 2**30 // 10  # of a process with PyTorch, DeepSpeed and Ray before it holds a network (docs/operations.md)


@dataclass(frozen=True)
class Process:
    """Bytes of one training process on its host, in the stage that needs most. first: weights that the stage began with; made: a network
    before its GPU has it; optimizer: what is offloaded; copied: of a checkpoint, or the average that a stage leaves, whichever is more.
    """

    stage: str
    first: int
    made: int
    optimizer: int
    copied: int

    @property
    def start(self) -> int:
        return LIBRARIES + self.first + self.made

    @property
    def training(self) -> int:
        return LIBRARIES + self.first + self.optimizer + self.copied

    @property
    def most(self) -> int:
        return max(self.start, self.training)


@dataclass(frozen=True)
class Host:
    """The machine that needs most. processes, actors: that it has; actor: bytes of one; store: of Ray's; limit: bytes of a machine, None if
    nothing was said of it.
    """

    process: Process
    processes: int
    actor: int
    actors: int
    store: int
    limit: int | None

    @property
    def node(self) -> int:
        return self.processes * self.process.most + self.actors * self.actor + self.store

    @property
    def over(self) -> int:
        """Bytes too many."""
        return 0 if self.limit is None else max(0, self.node - self.limit)


def process_of(name: str, x: Load) -> Process:
    """One training process in a stage. At its start it may read a checkpoint, whose weights it has whole beside the network."""
    away = 0
    if x.offload:
        networks = ((x.weights, x.trained), (x.fake, x.fake))
        away = sum(trained(replace(x, offload=False), weights, of_it).optimizer for weights, of_it in networks if weights)
    whole = FP32 * x.weights
    share = -(-saved(x.weights, x.trained, x.fake, 1, 0).size // x.ranks)
    return Process(name, whole if x.start else 0, 2 * whole, away, max(share, whole))


def host_of(config: RunConfig, choice: Choice, actors: int, of_node: int, limit: int | None) -> Host:
    """Trainers fill machines first, then actors; of a machine with rank 0 and one with actors alone, the one that needs more."""
    process = max((process_of(s.name, load(config, s, choice)) for s in config.stages), key=lambda one: one.most)
    actor = LIBRARIES + FP32 * load(config, config.stages[0], choice).weights if actors else 0
    held = store_of(config, choice) if actors else None
    mine = min(of_node, choice.trainers)
    beside = min(of_node - mine, actors)
    first = Host(process, mine, actor, beside, held.trainer if held else 0, limit)
    if actors == beside:
        return first
    alone = Host(process, 0, actor, min(of_node, actors - beside), held.actor if held else 0, limit)
    return max(first, alone, key=lambda host: host.node)


def store_of(config: RunConfig, choice: Choice, step_s: Mapping[str, float] | None = None) -> Store | None:
    """None where there is no mutual stage. step_s: of each stage, for what is sent in a second."""
    mutual = next((s for s in config.stages if s.objective == "mutual"), None)
    if mutual is None:
        return None
    clip = 2 * config.data.clip_bytes * (2 if config.objective.w_dmd > 0 else 1)  # fp32; clip_bytes counts fp16
    weights, seconds = load(config, mutual, choice).weights, (step_s or {}).get(mutual.name, 1.0)
    return store(weights, clip, mutual.batch, config.rollouts.max_age, seconds, config.rollouts.publish_every)
