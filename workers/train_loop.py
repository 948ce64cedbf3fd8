"""THE training loop, one a Ray Train worker: all stages in one process, each starting from the weights of the one before.

    for each stage from the last checkpoint on
        for each step:  positions -> batch (+ rollout, in a mutual stage) -> train_step -> EMA -> publish weights -> metric spool
                        -> at every n-th, and at the last: checkpoint

Positions alone decide what is trained on and with which noise, so any world size sees the same global batches, and a step is the same
whether the process before it was killed or not.
"""

from __future__ import annotations

import logging
import secrets

import torch
import torch.distributed as dist

from ..datasets.places.store import Store
from ..datasets.reading.loader import LatentDataset
from ..datasets.transfer import dataset_here
from .checkpoint import Checkpoint, Weights, found_in, stage_weights
from .logs import RankLog
from .loop_config import Process, RolloutSource, StageConfig, TrainLoopConfig
from .pretrained import initialise
from .resume import resume_from
from .retention import take_turn
from .stage_run import Place, StageRun, network_of
from .step_guard import of_all

log = logging.getLogger(__name__)


def train_stages(config: TrainLoopConfig, rollouts: RolloutSource, process: Process) -> None:
    """Run every stage that is not finished, each from the averaged weights of the one before it, the first from those of `init`. What a
    checkpoint has is not done again.

    Raises:
        MadeReady: a machine goes away, or more workers have room, as a rank has heard; all steps are in a committed checkpoint.
    """
    torch.set_num_threads(config.threads)
    with RankLog((process.folder or config.run_dir) / "logs", process.rank) as told:
        _train_stages(config, rollouts, process, told)


def _train_stages(config: TrainLoopConfig, rollouts: RolloutSource, process: Process, told: RankLog) -> None:
    rank, world = process.rank, process.world
    for stage in config.stages:
        if stage.batch % world:
            raise ValueError(f"stage {stage.name!r}: batch={stage.batch} is not a multiple of the {world} workers; change one of them")
    store, attempt = config.checkpoints, of_all(secrets.token_hex(4))[0]
    log.info("attempt %s begins, rank %d of %d", attempt, rank, world)
    place = Place(store, attempt, process, told)
    if rank == 0:
        take_turn(store, [stage.name for stage in config.stages], attempt)
    dataset = LatentDataset(dataset_here(config.data, config.source), config.network.text, verify=True)
    weights: Weights | None = None
    for i in range(_first(config, store, rank), len(config.stages)):
        stage, warnings = config.stages[i], list[str]()
        told.stage, told.step = stage.name, None
        resumed = resume_from(store, stage.name, of_all, rank, world, warnings.append)
        if resumed is not None:
            resumed.require(config.architecture())
            _same_run(config, resumed, stage)
            if resumed.finished:
                weights = None
                continue
        log.info("%s", "starts at step 0" if resumed is None else f"goes on from checkpoint {resumed.uri}")
        if weights is None:
            weights = _start(config, store, config.stages[i - 1] if i else None)
        if stage.objective == "mutual":
            kept = resumed.rollouts() if resumed is not None and rank == 0 else {}
            rollouts.join(rank, 0 if resumed is None else resumed.step, kept)
        weights = StageRun(config, stage, dataset, rollouts, place, weights, resumed, warnings).train()
        dist.barrier()


def _first(config: TrainLoopConfig, store: Store, rank: int) -> int:
    """The stage to look at first: the one before the last that has a checkpoint, whose weights that one began with. Rank 0 looks."""
    begun = [i for i, s in enumerate(config.stages) if rank == 0 and any(f.complete for f in found_in(store, s.name))]
    return int(of_all(str(max(0, begun[-1] - 1) if begun else 0))[0])


def _same_run(config: TrainLoopConfig, found: Checkpoint, stage: StageConfig) -> None:
    """Refuse the checkpoint of a run with other settings: the folder of checkpoints may be shared by mistake."""
    mine, theirs = config.about.get("settings"), found.manifest.get("about", {}).get("settings")
    if found.manifest["steps"] != stage.steps or (mine and theirs and mine != theirs):
        raise ValueError(f"checkpoint {found.uri}: of a run with other settings; choose another checkpoint.uri, or another run folder")


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
