"""What the training loop is given: its stages, everything about the run that a worker needs, and where rollouts come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..datasets.places.store import Store, store_of
from ..datasets.streamed.streamed_clips import Passes
from ..datasets.transfer import DataSource
from ..model.execution import ExecutionConfig
from ..model.objective import ObjectiveConfig
from ..model.timeline import Timeline
from ..model.trunk import TransformerConfig
from ..model.types import MODALITIES, Rollout
from .engine import EngineConfig
from .notice import Notice, no_notice
from .optimizer import OptimizerConfig
from .pretrained import InitConfig
from .profiler import ProfileConfig
from .retention import CheckpointConfig
from .wire import Snapshot

Objective = Literal["flow", "mutual"]


@dataclass(frozen=True)
class StageConfig:
    """One stage.

    name: what it is called in `--set stages.NAME`, in files and in the report. steps: updates of the optimizer. batch: clips an update, of
    all workers together. objective: flow matching on real clips, or the mutual objective on rollouts. modalities: what is trained; the
    other branch stays out. ema: of the averaged weights, the share that they keep at each step. health_every: steps between two metered
    ones (0 = never): seconds within collectives, and in a mutual stage gradient norms by part, the parts' shares of the time, and the
    health signals.
    """

    name: str
    steps: int
    batch: int
    objective: Objective = "flow"
    modalities: tuple[str, ...] = MODALITIES
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: float = 0.999
    health_every: int = 20

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1:
            raise ValueError(f"stage {self.name!r}: steps={self.steps} and batch={self.batch} must be at least 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"stage {self.name!r}: ema={self.ema}: must be at least 0 and below 1, for example 0.999")
        if self.health_every < 0:
            raise ValueError(f"stage {self.name!r}: health_every={self.health_every}: must be 0 (never) or more steps")
        if not self.modalities or not set(self.modalities) <= set(MODALITIES):
            raise ValueError(f"stage {self.name!r}: modalities={self.modalities}: name one or both of {', '.join(MODALITIES)}")
        if self.objective == "mutual" and set(self.modalities) != set(MODALITIES):
            raise ValueError(f"stage {self.name!r}: the mutual objective trains both modalities, not {self.modalities}")


@dataclass(frozen=True)
class TrainLoopConfig:
    """Everything a worker needs, besides the source of rollouts. about: what a checkpoint says of its run, as JSON has it; source: where
    the data are for machines without `data`; publish_every, published: steps between two offers of weights to those who make rollouts, and
    which weights; direct: they are read where they are, instead of going through the object store.
    """

    data: Path
    run_dir: Path
    network: TransformerConfig
    timeline: Timeline
    engine: EngineConfig
    objective: ObjectiveConfig
    stages: tuple[StageConfig, ...]
    max_bad_steps: int
    seed: int
    threads: int
    init: InitConfig = InitConfig()
    execution: ExecutionConfig = ExecutionConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    step_deadline_s: float = 0.0
    publish_every: int = 1
    published: Literal["ema", "live"] = "ema"
    direct: bool = False
    profile: ProfileConfig = ProfileConfig()
    about: dict[str, Any] = field(default_factory=dict)
    source: DataSource = DataSource()

    @property
    def checkpoints(self) -> Store:
        return store_of(self.checkpoint.uri or self.run_dir / "checkpoints")

    def architecture(self) -> dict:
        """What a checkpoint must agree with."""
        return {f"model.{k}": _plain(v) for k, v in asdict(self.network).items()} | {
            f"timeline.{k}": v for k, v in asdict(self.timeline).items()
        }


Observer = Callable[[str, int, dict[str, float]], None]
"""Is told every step's metrics on rank 0: (stage, step, metrics)."""


def unobserved(stage: str, step: int, metrics: dict[str, float]) -> None:
    """For loops that nobody looks at."""


@dataclass(frozen=True)
class Process:
    """One of the processes that train together. device: its own; observer: who hears of every step, on rank 0; notice: whether the
    training is about to end; room: whether more processes could train; passes: where stages without rollouts get their clips from,
    instead of the dataset; folder: where it writes what people read (metrics, logs, stacks, traces, bad steps), None for the run folder.
    """

    rank: int
    world: int
    device: str = "cpu"
    observer: Observer = unobserved
    notice: Notice = no_notice
    room: Notice = no_notice
    passes: Passes | None = None
    folder: Path | None = None


class RolloutSource(Protocol):
    """Where a mutual stage gets its rollouts from."""

    def join(self, rank: int, first: int, saved: Mapping[int, Mapping[str, np.ndarray]]) -> None:
        """Begin an attempt of the mutual stage at its step `first`: all ranks call it together, before they publish or take. saved:
        rollouts that a checkpoint kept, by the position of their first clip.
        """
        ...

    def publish(self, snapshot: Snapshot) -> None:
        """Offer a new weight version to the actors (rank 0 calls it)."""
        ...

    def take(self, step: int, rank: int) -> Rollout:
        """The rollout of this rank's share of optimizer step `step`; blocks until it is there."""
        ...

    def held(self, first: int, rank: int) -> Mapping[int, Mapping[str, np.ndarray]]:
        """This rank's share of finished rollouts of steps from `first` on: what a checkpoint keeps, as `join` takes it."""
        ...

    def figures(self) -> Mapping[str, float]:
        """What the pool does, as metrics (rank 0 asks)."""
        ...


def _plain(value):
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
