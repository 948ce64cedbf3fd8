"""A network that is built shard by shard: no process ever holds it whole, and it trains as one that was."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil
import pytest
import torch
from torch.multiprocessing.spawn import spawn
from zero_material import BATCH, CLOCK, NETWORK, OBJECTIVE, OPTIMIZER, WORLD, clips, plain, sharded, together

from mutual_forcing.datasets.reading.order import rank_positions
from mutual_forcing.model.branch import Placement, stay
from mutual_forcing.model.execution import ExecutionConfig
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.workers import engine
from mutual_forcing.workers.engine import EngineConfig, shard
from mutual_forcing.workers.train_step import Networks, Trained, flow_step

pytestmark = pytest.mark.timeout(600)

STEPS = 3
SHARDS = EngineConfig(zero_stage=3)
RECOMPUTED = ExecutionConfig(checkpoint_every=1)
LARGE = TransformerConfig(video_width=1024, audio_width=1024, depth=8, heads=8, head_dim=128)


def built(place: Placement, execution: ExecutionConfig) -> AVTransformer:
    torch.manual_seed(3)
    return AVTransformer(NETWORK, CLOCK, execution, place)


def losses(trained: Trained, ema: AVTransformer, rank: int, world: int) -> list[float]:
    nets, found = Networks(trained, ema), []
    for step in range(STEPS):
        batch, _, noise = clips(rank_positions(step, BATCH, rank, world))
        found.append(float(flow_step(nets, batch, noise, OBJECTIVE, OPTIMIZER.lr)["loss"]))
    return found


def train(rank: int, folder: str) -> None:
    engine.PERSISTENT = 0  # this network is so small that all of it would stay whole
    with together(rank, folder):
        net = built(shard(SHARDS), RECOMPUTED)
        assert all(p.numel() == 0 for p in net.parameters()), "every weight is in shards"
        torch.save(losses(sharded(net, SHARDS), built(stay, RECOMPUTED), rank, WORLD), f"{folder}/losses-{rank}")


@pytest.mark.slow
def test_it_trains_as_a_whole_one_with_layers_recomputed(tmp_path: Path) -> None:
    """The same weights from the same seed, stage 3 in two processes with every layer recomputed, against one plain process."""
    spawn(train, (str(tmp_path),), nprocs=WORLD)
    want = losses(plain(built(stay, ExecutionConfig())), built(stay, ExecutionConfig()), 0, 1)
    ranks = [torch.load(tmp_path / f"losses-{rank}", weights_only=True) for rank in range(WORLD)]
    assert [sum(x) / WORLD for x in zip(*ranks, strict=True)] == pytest.approx(want, rel=1e-5)
    assert len({round(x, 6) for x in want}) == STEPS, "it must have learnt something between the steps"


def weigh(rank: int, folder: str) -> None:
    with together(rank, folder):
        before = psutil.Process().memory_info().rss
        torch.manual_seed(0)
        net = AVTransformer(LARGE, CLOCK, place=shard(SHARDS))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
        whole = 4 * sum(int(getattr(p, "ds_numel", 0)) for p in net.parameters())
        torch.save({"peak": peak, "whole": whole}, f"{folder}/memory-{rank}")


@pytest.mark.slow
def test_no_process_holds_it_whole(tmp_path: Path) -> None:
    """1.2 GB in two processes: the peak of either, with what the allocator keeps and two process groups, stays below the whole."""
    spawn(weigh, (str(tmp_path),), nprocs=WORLD)
    for rank in range(WORLD):
        found = torch.load(tmp_path / f"memory-{rank}", weights_only=True)
        assert found["whole"] > 1e9
        assert found["peak"] < 0.9 * found["whole"], found
