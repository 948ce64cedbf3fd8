"""Two small processes that train together: their network, their clips, and how they find each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import DmdConfig, FakeConfig, HistoryConfig, ObjectiveConfig, ShortcutConfig
from mutual_forcing.model.path import few_grid
from mutual_forcing.model.text import TextConfig, Word, make_controls
from mutual_forcing.model.timeline import Layout, Timeline
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.model.types import AV, MODALITIES, AVBatch, Rollout
from mutual_forcing.workers import engine
from mutual_forcing.workers.engine import Engine, EngineConfig
from mutual_forcing.workers.optimizer import OptimizerConfig, ParameterGroups
from mutual_forcing.workers.plain_engine import PlainEngine
from mutual_forcing.workers.train_step import Trained

WORLD, BATCH, CHUNKS = 2, 4, 2
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


@contextmanager
def together(rank: int, folder: str) -> Iterator[None]:
    """This process as one of `WORLD`."""
    torch.set_num_threads(1)
    engine.GATHER = 4 * 1000  # so that even these networks are averaged in several groups
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    yield
    dist.barrier()
    dist.destroy_process_group()


def network(config: TransformerConfig = NETWORK) -> AVTransformer:
    """The same random weights every time, the zero-initialised ones too."""
    torch.manual_seed(0)
    net, g = AVTransformer(config, CLOCK), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g)
    return net


def sharded(net: nn.Module, config: EngineConfig) -> Engine:
    return Engine(net, groups(net), OPTIMIZER, config, BATCH // WORLD)


def plain(net: nn.Module) -> PlainEngine:
    return PlainEngine(net, groups(net), OPTIMIZER)


def groups(net: nn.Module) -> ParameterGroups:
    """What tells the modes apart learns faster, as in a mutual stage."""
    return net.parameter_groups(MODALITIES, 20.0) if isinstance(net, AVTransformer) else [(1.0, list(net.parameters()))]


def whole(engine: Trained) -> AbstractContextManager[list[Tensor]]:
    """All weights of either kind of engine."""
    return engine.gathered() if isinstance(engine, Engine) else nullcontext([p.data for p in engine.network.parameters()])


def each(engine: Trained) -> Iterator[Tensor]:
    """All weights of either kind of engine, one after the other."""
    return engine.each() if isinstance(engine, Engine) else (p.data for p in engine.network.parameters())


def clips(positions: range) -> tuple[AVBatch, Rollout, PositionalNoise]:
    """Random clips, rollouts and noise, all a function of the positions."""
    noise, layout = PositionalNoise([(11, "zero", p) for p in positions]), Layout(CLOCK, CHUNKS)

    def draw(first_frames: int, tag: str) -> AV:
        frames = CLOCK.video_latents(CHUNKS) - 1 + first_frames
        return AV(video=noise.normal((frames, 3, 2, 2), tag, "video"), audio=noise.normal((CLOCK.audio_latents(CHUNKS), 5), tag, "audio"))

    controls = make_controls([f"clip {p}" for p in positions], [[Word("hi", 0.1, 0.4 + 0.01 * (p % 9))] for p in positions], TEXT)
    batch = AVBatch(draw(1, "real"), controls, layout, tuple(positions), tuple(str(p) for p in positions))
    times = few_grid(OBJECTIVE.few.moves)[(noise.uniform((CHUNKS,), "exit") * OBJECTIVE.few.moves).long()]
    return batch, Rollout(draw(1, "history"), draw(0, "exit"), times), noise
