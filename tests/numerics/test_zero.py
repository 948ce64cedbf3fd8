"""DeepSpeed against plain torch: two processes at every ZeRO stage train exactly as one process does on the same global batch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from mutual_forcing.datasets.order import rank_positions
from mutual_forcing.model.ema import ema_decay, ema_update
from mutual_forcing.model.losses import Loss, Models, flow_matching
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import DmdConfig, FakeConfig, HistoryConfig, ObjectiveConfig, ShortcutConfig
from mutual_forcing.model.path import few_grid
from mutual_forcing.model.text import TextConfig, Word, make_controls
from mutual_forcing.model.timeline import Layout, Timeline
from mutual_forcing.model.transformer import AVTransformer, TransformerConfig
from mutual_forcing.model.types import AV, AVBatch, Rollout
from mutual_forcing.workers.engine import Engine, EngineConfig
from mutual_forcing.workers.optimizer import OptimizerConfig
from mutual_forcing.workers.plain_engine import PlainEngine
from mutual_forcing.workers.train_step import Networks, Trained, flow_step, mutual_step

pytestmark = pytest.mark.timeout(600)

Stage = Literal[0, 1, 2, 3]
Kind = Literal["flow", "mutual", "apart", "summed"]
Trace = dict[str, list[float]]

WORLD, BATCH, STEPS, CHUNKS = 2, 4, 3, 2
TOLERANCE = 1e-5
CLOCK = Timeline(audio_hop=2048)
TEXT = TextConfig(max_caption_words=2, max_words=3, max_bytes=6)
NETWORK = TransformerConfig(
    video_channels=3, audio_channels=5, video_width=16, audio_width=16, depth=2, heads=2, head_dim=8, ffn_ratio=2, text=TEXT
)
OBJECTIVE = ObjectiveConfig(
    history=HistoryConfig(real_share=0.5),
    shortcut=ShortcutConfig(guidance=1.5),
    dmd=DmdConfig(guidance=1.5),
    fake=FakeConfig(updates=2, lr_ratio=2.0),
)
OPTIMIZER = OptimizerConfig(lr=1e-3, clip=0.5)


def network() -> AVTransformer:
    """The same random weights every time, the zero-initialised ones too."""
    torch.manual_seed(0)
    net, g = AVTransformer(NETWORK, CLOCK), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g)
    return net


def clips(positions: range) -> tuple[AVBatch, Rollout, PositionalNoise]:
    """Random clips, rollouts and noise, all a function of the positions."""
    noise, layout = PositionalNoise([(11, "zero", p) for p in positions]), Layout(CLOCK, CHUNKS)

    def draw(first_frames: int, tag: str) -> AV:
        frames = CLOCK.video_latents(CHUNKS) - 1 + first_frames
        return AV(video=noise.normal((frames, 3, 2, 2), tag, "video"), audio=noise.normal((CLOCK.audio_latents(CHUNKS), 5), tag, "audio"))

    controls = make_controls([f"clip {p}" for p in positions], [[Word("hi", 0.1, 0.4 + 0.01 * (p % 9))] for p in positions], TEXT)
    batch = AVBatch(draw(1, "real"), controls, layout, tuple(positions), tuple(str(p) for p in positions))
    times = few_grid(OBJECTIVE.few.moves)[(noise.uniform((CHUNKS,), "exit") * OBJECTIVE.few.moves).long()]
    return batch, Rollout(draw(1, "history"), draw(0, "exit"), times, 0, 0), noise


def two_parts(engine: Trained, batch: AVBatch, noise: PositionalNoise, rate: float, apart: bool) -> dict[str, Tensor | float]:
    """A step on two losses: with a `backward` each, or with one for their sum."""
    other = PositionalNoise([(12, "zero", p) for p in batch.positions])
    models = Models(engine, engine)
    first = flow_matching(models, batch, None, noise, OBJECTIVE)
    if apart:
        engine.backward(first, last=False)
    second = flow_matching(models, batch, None, other, OBJECTIVE)
    engine.backward(second if apart else Loss(first.value + second.value, {}), last=True)
    return {"loss": (first.value + second.value).detach(), "grad_norm": engine.step(rate).grad_norm}


def train(kind: Kind, engine: Callable[[nn.Module], Trained], rank: int, world: int) -> Trace:
    """Some steps of a kind; every metric of every step, averaged over the ranks, and a probe of the trained weights."""
    ema = network().requires_grad_(False)
    nets = Networks(engine(network()), ema, engine(network()) if kind == "mutual" else None)
    trace: Trace = {}
    for step in range(STEPS):
        batch, rollout, noise = clips(rank_positions(step, BATCH, rank, world))
        rate = OPTIMIZER.rate(step, STEPS)
        if kind == "flow":
            metrics = flow_step(nets, batch, noise, OBJECTIVE, rate)
        elif kind == "mutual":
            metrics = mutual_step(nets, batch, rollout, noise, OBJECTIVE, rate)
        else:
            metrics = two_parts(nets.live, batch, noise, rate, kind == "apart")
        with whole(nets.live) as weights:
            ema_update(ema.parameters(), weights, ema_decay(0.9, step))
        for name, value in metrics.items():
            trace.setdefault(name, []).append(mean_over_ranks(float(value)))
    trace["ema"] = [float(p.double().norm()) for p in ema.parameters()]
    return trace


def whole(engine: Trained) -> AbstractContextManager[list[Tensor]]:
    """All weights of either kind of engine."""
    return engine.gathered() if isinstance(engine, Engine) else nullcontext([p.data for p in engine.network.parameters()])


def mean_over_ranks(value: float) -> float:
    if not dist.is_initialized():
        return value
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def worker(rank: int, folder: str) -> None:
    """One of the processes: every ZeRO stage, every kind of step."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    traces = {}
    for stage in get_args(Stage):
        config = EngineConfig(zero_stage=stage)

        def engine(net: nn.Module, config: EngineConfig = config) -> Engine:
            return Engine(net, list(net.parameters()), OPTIMIZER, config, BATCH // WORLD)

        for kind in ("flow", "mutual", "apart"):
            traces[stage, kind] = train(kind, engine, rank, WORLD)
    if rank == 0:
        torch.save(traces, f"{folder}/traces.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, str], Trace]:
    folder = tmp_path_factory.mktemp("zero")
    spawn(worker, (str(folder),), nprocs=WORLD)
    return torch.load(Path(folder) / "traces.pt", weights_only=True)


def plain(net: nn.Module) -> PlainEngine:
    return PlainEngine(net, list(net.parameters()), OPTIMIZER)


@pytest.fixture(scope="module")
def alone() -> dict[str, Trace]:
    return {kind: train(kind, plain, 0, 1) for kind in get_args(Kind)}


def assert_same(together: Trace, single: Trace, stage: Stage) -> None:
    assert together.keys() == single.keys()
    for name, values in single.items():
        if name == "grad_norm" and stage == 0:
            assert all(math.isnan(x) for x in together[name])  # DeepSpeed has none there, and we do not invent one
        else:
            assert together[name] == pytest.approx(values, rel=TOLERANCE, abs=TOLERANCE), name


@pytest.mark.parametrize("kind", ["flow", "mutual"])
@pytest.mark.parametrize("stage", get_args(Stage))
def test_two_processes_train_as_one(traces: dict, alone: dict[str, Trace], stage: Stage, kind: Kind) -> None:
    assert_same(traces[stage, kind], alone[kind], stage)


@pytest.mark.parametrize("stage", get_args(Stage))
def test_parts_apart_are_parts_summed(traces: dict, alone: dict[str, Trace], stage: Stage) -> None:
    assert_same(traces[stage, "apart"], alone["summed"], stage)


def test_training_moves_the_losses(alone: dict[str, Trace]) -> None:
    """The comparisons above would hold for an optimizer that does nothing."""
    still = [float(p.double().norm()) for p in network().requires_grad_(False).parameters()]
    for kind in get_args(Kind):
        assert max(abs(a - b) for a, b in zip(alone[kind]["ema"], still, strict=True)) > 100 * TOLERANCE
