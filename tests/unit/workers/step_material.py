"""Networks of three numbers and an engine that only watches: what a step computes, in which order, with which gradient."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mutual_forcing.model.losses import Loss
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import DmdConfig, DropConfig, FakeConfig, HistoryConfig, ObjectiveConfig, ShortcutConfig
from mutual_forcing.model.path import PathConfig, few_grid
from mutual_forcing.model.text import TextConfig, Word, make_controls
from mutual_forcing.model.timeline import Layout, Timeline
from mutual_forcing.model.types import AV, AVBatch, Controls, Rollout, future
from mutual_forcing.workers.train_step import Update

CLOCK = Timeline(audio_hop=2048)
CHUNKS, CLIPS = 2, 3
BASE = ObjectiveConfig(
    path=PathConfig(3.0, 0.7),
    video_weight=1.3,
    audio_weight=0.6,
    w_fm=0.7,
    w_distil=0.9,
    drop=DropConfig(0.5, 0.2, 0.1),
    history=HistoryConfig(real_share=0.5),
    shortcut=ShortcutConfig(weight=0.4, sub_steps=3, guidance=2.0),
    dmd=DmdConfig(weight=0.2, guidance=3.0),
    fake=FakeConfig(updates=2, lr_ratio=0.5),
)


class Slope(nn.Module):
    """A velocity linear in the noisy latents, the past and the presence of text; counts its forwards."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
        self.forwards = 0

    def forward(self, noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        self.forwards += 1
        a, b, c = self.weight
        text_B = controls.caption_mask_BW.any(1).double()
        return noisy.map(lambda x, past: a * x + b * past + c * text_B.view(-1, *[1] * (x.dim() - 1)), future(context))


@dataclass
class Watched:
    """A network under training whose weights stay: every step's gradient and rate are kept instead."""

    network: Slope
    events: list[str] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def __call__(self, *args: Any, **kwargs: Any) -> AV:
        self.events.append("forward")
        return self.network(*args, **kwargs)

    def backward(self, loss: Loss, last: bool) -> None:
        self.events.append("last backward" if last else "backward")
        loss.value.backward()

    def step(self, rate: float) -> Update:
        grad = self.network.weight.grad
        assert grad is not None
        self.events.append("step")
        self.gradients.append(grad.clone())
        self.rates.append(rate)
        self.network.weight.grad = None
        return Update(float(grad.norm()), bool(grad.isfinite().all()))


def material(exits: bool = True) -> tuple[AVBatch, Rollout, PositionalNoise]:
    """Some clips, rollouts of their own, and noise under which one clip takes its rollout as its past and the others do not."""
    noise = PositionalNoise([(5, "step", p) for p in range(CLIPS)])

    def draw(first_frames: int, tag: str) -> AV:
        frames = CLOCK.video_latents(CHUNKS) - 1 + first_frames
        video, audio = (frames, 2, 2, 2), (CLOCK.audio_latents(CHUNKS), 4)
        return AV(noise.normal(video, tag, "video").double(), noise.normal(audio, tag, "audio").double())

    text = TextConfig(max_caption_words=2, max_words=3, max_bytes=6)
    controls = make_controls([f"clip {p}" for p in range(CLIPS)], [[Word("hi", 0.1, 0.4)]] * CLIPS, text)
    batch = AVBatch(draw(1, "real"), controls, Layout(CLOCK, CHUNKS), tuple(range(CLIPS)), tuple("abc"))
    times = few_grid(4)[(noise.uniform((CHUNKS,), "exit") * 4).long()]
    return (
        batch,
        Rollout(
            draw(1, "history"),
            draw(0, "exit") if exits else None,
            times if exits else None,
            ((3, 4),) * batch.latents.batch,
            tuple(range(batch.latents.batch)),
        ),
        noise,
    )
