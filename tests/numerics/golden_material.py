"""Twenty steps of every recipe on a small network in fp64, and the file that holds what they gave.

    python tests/numerics/golden_material.py

writes that file anew, for a change that is meant to change the mathematics.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from mutual_forcing.model.ema import ema_decay, ema_update
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import DropConfig, FakeConfig, HistoryConfig, ObjectiveConfig, variants
from mutual_forcing.model.path import PathConfig
from mutual_forcing.model.sampler import roll_out
from mutual_forcing.model.text import TextConfig, Word, make_controls
from mutual_forcing.model.timeline import Layout, Timeline
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.model.types import AV, MODALITIES, AVBatch
from mutual_forcing.workers.optimizer import OptimizerConfig
from mutual_forcing.workers.plain_engine import PlainEngine
from mutual_forcing.workers.train_step import Networks, flow_step, mutual_step

FILE = Path(__file__).with_name("golden_losses.json")
STEPS, CLIPS, CHUNKS = 20, 2, 2
CLOCK = Timeline(audio_hop=2048)
TEXT = TextConfig(max_caption_words=2, max_words=3, max_bytes=6)
NETWORK = TransformerConfig(
    video_channels=2, audio_channels=3, video_width=16, audio_width=16, depth=2, heads=2, head_dim=8, ffn_ratio=2, window=1, text=TEXT
)
# Every choice on: shifts, context noise, true histories among the generated ones, both grids, guidance, more fake updates than one.
BASE = ObjectiveConfig(
    path=PathConfig(3.0, 0.7),
    drop=DropConfig(0.3, 0.2, 0.2),
    history=HistoryConfig(strength_low=0.2, strength_high=0.6, real_share=0.5, context_noise=0.3),
    fake=FakeConfig(updates=2),
)
BASE = replace(BASE, shortcut=replace(BASE.shortcut, fine_share=0.3))
RECIPES = {"joint": None} | variants(BASE)
ADAMW = OptimizerConfig(lr=2e-3, warmup=0.1)


def losses_of(recipe: str, steps: int = STEPS) -> list[dict[str, float]]:
    """What each of the first `steps` steps reported: losses and gradient norms."""
    objective = RECIPES[recipe]
    live, fake, ema, frozen = (_network() for _ in range(4))
    o = objective or BASE
    networks = Networks(
        PlainEngine(live, live.parameter_groups(MODALITIES, o.few.lr_ratio if objective else 1.0), ADAMW),
        ema.requires_grad_(False),
        PlainEngine(fake, [(1.0, list(fake.parameters()))], ADAMW),
        frozen.requires_grad_(False),
    )
    made = []
    for step in range(steps):
        batch = _batch(step)
        noise = PositionalNoise([(0, recipe, p) for p in batch.positions])
        rate = ADAMW.rate(step, STEPS)
        if objective is None:
            metrics = flow_step(networks, batch, noise, o, rate)
        else:
            rollout = roll_out(ema, batch.latents, batch.controls, batch.layout, o, noise, step) if o.needs_rollouts else None
            metrics = mutual_step(networks, batch, rollout, noise, o, rate)
        ema_update(ema.parameters(), live.parameters(), ema_decay(0.9, step))
        made.append({name: float(value) for name, value in metrics.items()})
    return made


def _network() -> AVTransformer:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = AVTransformer(NETWORK, CLOCK).double()
        for p in net.parameters():
            p += 0.1 * torch.randn(p.shape, dtype=p.dtype)  # nothing is zero, or whole branches would not count
    return net


def _batch(step: int) -> AVBatch:
    positions = tuple(range(step * CLIPS, (step + 1) * CLIPS))
    noise = PositionalNoise([("clip", p) for p in positions])
    latents = AV(
        noise.normal((CLOCK.video_latents(CHUNKS), 2, 2, 2), "video").double(),
        noise.normal((CLOCK.audio_latents(CHUNKS), 3), "audio").double(),
    )
    words = [[Word("hi", 0.1, 0.4), Word("you", 0.6, 0.9)]] * CLIPS
    controls = make_controls([f"clip {p}" for p in positions], words, TEXT)
    return AVBatch(latents, controls, Layout(CLOCK, CHUNKS), positions, tuple(f"clip-{p}" for p in positions))


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text(json.dumps({recipe: losses_of(recipe) for recipe in RECIPES}, indent=1) + "\n")
