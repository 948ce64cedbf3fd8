"""THE training loop, one a Ray Train worker: all stages in one process, each starting from the weights of the one before.

    for each stage from the last checkpoint on
        for each step:  positions -> batch (+ rollout, in a mutual stage) -> train_step -> EMA -> publish weights -> metric spool
                        -> at every n-th, and at the last: checkpoint

Positions alone decide what is trained on and with which noise, so any world size sees the same global batches, and a step is the same
whether the process before it was killed or not.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import torch
import torch.distributed as dist

from ..datasets.loader import LatentDataset
from ..datasets.store import Store
from .checkpoint import Checkpoint, Weights, stage_weights
from .checkpoint_writer import resume_from
from .loop_config import RolloutSource, StageConfig, TrainLoopConfig
from .pretrained import initialise
from .stage_run import Place, StageRun, network_of
from .step_guard import of_all


def train_stages(config: TrainLoopConfig, rollouts: RolloutSource, rank: int, world: int) -> None:
    """Run every stage that is not finished, each from the averaged weights of the one before it, the first from those of `init`. What a
    checkpoint has is not done again.
    """
    torch.set_num_threads(config.threads)
    for stage in config.stages:
        if stage.batch % world:
            raise ValueError(f"stage {stage.name!r}: batch={stage.batch} is not a multiple of the {world} workers; change one of them")
    store, attempt = config.checkpoints, of_all(secrets.token_hex(4))[0]
    warnings: list[str] = []
    at, resumed = _position(config, store, rank, world, warnings.append)
    rollouts.join(rank, resumed.step if resumed is not None and at < len(config.stages) and config.stages[at].objective == "mutual" else 0)
    dataset = LatentDataset(config.data, config.network.text, verify=True)
    weights: Weights | None = None
    for before, stage in list(zip((None, *config.stages), config.stages, strict=False))[at:]:
        if weights is None:
            weights = _start(config, store, before)
        run = StageRun(config, stage, dataset, rollouts, Place(store, attempt, rank, world), weights, resumed, warnings)
        resumed, warnings = None, []
        weights = run.train()
        dist.barrier()


def _position(config: TrainLoopConfig, store: Store, rank: int, world: int, warn: Callable[[str], None]) -> tuple[int, Checkpoint | None]:
    """Which stage to go on with, and the checkpoint that it is resumed from, if it is one of its own."""
    for i in reversed(range(len(config.stages))):
        found = resume_from(store, config.stages[i].name, of_all, rank, world, warn)
        if found is not None:
            found.require(config.architecture())
            return (i + 1, None) if found.finished else (i, found)
    return 0, None


def _start(config: TrainLoopConfig, store: Store, before: StageConfig | None) -> Weights | None:
    """What a stage starts from; None stands for the random weights of the run's seed."""
    if before is not None:
        return stage_weights(store, before.name, config.architecture(), "ema")
    return first_weights(config) if config.init.folders() else None


def first_weights(config: TrainLoopConfig) -> Weights:
    """What the first stage starts from: pretrained weights where `init` names them, else random ones.

    Raises:
        ValueError: pretrained weights are missing, damaged, or of another network.
    """
    network = network_of(config, None)
    initialise(network, config.init)
    return network.state_dict()
