"""One rollout worker: `load(snapshot)`, `generate(request)`. It has no policy; what it makes depends on the request alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray
import torch

from ..datasets.reading.loader import LatentDataset
from ..datasets.transfer import DataSource, dataset_here
from ..model.execution import ExecutionConfig
from ..model.noise import PositionalNoise
from ..model.objective import ObjectiveConfig
from ..model.sampler import roll_out
from ..model.timeline import Timeline
from ..model.transformer import AVTransformer
from ..model.trunk import TransformerConfig
from .wire import Snapshot, rollout_to_arrays, sample_number, unpack_weights


@dataclass(frozen=True)
class RolloutActorConfig:
    """What every actor of a pool shares. stage, batch: whose order the positions refer to, and clips of its global batches; source: as the
    trainers have it.
    """

    data: Path
    network: TransformerConfig
    timeline: Timeline
    objective: ObjectiveConfig
    seed: int
    stage: str
    threads: int
    execution: ExecutionConfig = ExecutionConfig()
    source: DataSource = DataSource()
    device: str = "cpu"
    batch: int = 1


def arrived(snapshot: Snapshot | list[ray.ObjectRef]) -> Snapshot:
    """A snapshot that came through the object store, or that is read now from the memory it was made in: its reference in a list."""
    return ray.get(snapshot[0]) if isinstance(snapshot, list) else snapshot


class RolloutActor:
    """Holds one weight version; generates few-step histories under it."""

    def __init__(self, config: RolloutActorConfig) -> None:
        torch.set_num_threads(config.threads)
        self._config = config
        dataset = LatentDataset(dataset_here(config.data, config.source), config.network.text)
        self._clips = dataset.stage(config.seed, config.stage, config.batch)
        self._network = AVTransformer(config.network, config.timeline, config.execution).to(config.device).eval().requires_grad_(False)
        self._version = -1

    def load(self, snapshot: Snapshot | list[ray.ObjectRef]) -> int:
        """Take over a snapshot's weights; returns the version now held. A torn snapshot raises TornSnapshotError."""
        snapshot = arrived(snapshot)
        unpack_weights(snapshot, self._network.parameters())
        self._version = snapshot.version
        return self._version

    def generate(self, positions: list[int]) -> tuple[tuple[int, int, int], dict[str, np.ndarray]]:
        """Rollouts of the clips at `positions`, together: ((lowest version, highest, bytes), arrays as `rollout_to_arrays` makes them)."""
        c = self._config
        batch = self._clips.batch(positions).to(c.device)
        visits = [self._clips.at(p)[1] for p in positions]
        noise = PositionalNoise([(c.seed, sample, visit) for sample, visit in zip(batch.sample_ids, visits, strict=True)], c.device)
        made = roll_out(self._network, batch.latents, batch.controls, batch.layout, c.objective, noise, self._version)
        made = replace(made, samples=tuple(map(sample_number, batch.sample_ids, positions)))
        states = [made.history] if made.exit_state is None else [made.history, made.exit_state]
        if not all(bool(torch.isfinite(x).all()) for state in states for _, x in state.items()):
            raise ValueError(f"rollout of positions {positions[0]}-{positions[-1]} under version {self._version} is not finite")
        arrays = rollout_to_arrays(made)
        return (made.version_low, made.version_high, sum(x.nbytes for x in arrays.values())), arrays
