"""Skipped steps of a small network: whole ones, to which a test does some damage."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from mutual_forcing.model.lora import LoraAdapter
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import DmdConfig, FakeConfig, ObjectiveConfig, ShortcutConfig
from mutual_forcing.model.sampler import roll_out
from mutual_forcing.model.text import TextConfig, Word, make_controls
from mutual_forcing.model.timeline import Layout, Timeline
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.model.types import AV, AVBatch, Rollout
from mutual_forcing.workers.bad_step import BadStep, Header, Origin, Setup
from mutual_forcing.workers.checkpoint import Weights

CLOCK, CHUNKS, SEED, STAGE = Timeline(audio_hop=2048), 2, 5, "mutual"
TEXT = TextConfig(max_caption_words=2, max_words=3, max_bytes=6)
NETWORK = TransformerConfig(
    video_channels=3, audio_channels=5, video_width=16, audio_width=16, depth=2, heads=2, head_dim=8, ffn_ratio=2, text=TEXT
)
OBJECTIVE = ObjectiveConfig(shortcut=ShortcutConfig(guidance=1.5), dmd=DmdConfig(guidance=1.5), fake=FakeConfig(updates=1))
POSITIONS, IDS = (8, 9), ("c0ffee", "decade")


def network(seed: int) -> AVTransformer:
    """Random weights, the zero-initialised ones too."""
    net, g = AVTransformer(NETWORK, CLOCK), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=g))
    return net


def weights_of(net: torch.nn.Module) -> Weights:
    return {name: x.detach().clone() for name, x in net.state_dict().items()}


def step_noise() -> PositionalNoise:
    """As the training loop draws it."""
    return PositionalNoise([(SEED, STAGE, p) for p in POSITIONS])


def bad_step(
    kind: Literal["flow", "mutual"] = "mutual", objective: ObjectiveConfig = OBJECTIVE, modalities: tuple[str, ...] = ("video", "audio")
) -> BadStep:
    """A step in which everything is finite."""
    noise = PositionalNoise([(SEED, "clips", p) for p in POSITIONS])
    video = noise.normal((CLOCK.video_latents(CHUNKS), 3, 2, 2), "video")
    latents = AV(video=video, audio=noise.normal((CLOCK.audio_latents(CHUNKS), 5), "audio")).only(modalities)
    controls = make_controls(["a clip", "one"], [[Word("hi", 0.1, 0.4)], []], TEXT)
    batch = AVBatch(latents, controls, Layout(CLOCK, CHUNKS), POSITIONS, IDS)
    weights = {"live": weights_of(network(0)), "ema": weights_of(network(1))}
    rollout = None
    if kind == "mutual":
        if objective.needs_rollouts:
            rollout = roll_out(network(1), latents, controls, batch.layout, objective, step_noise(), version=3)
        if objective.w_dmd > 0:
            weights["fake"] = weights_of(network(2) if objective.fake.kind == "full" else LoraAdapter(network(0), objective.fake.rank))
        if objective.teacher == "frozen":
            weights["frozen"] = weights_of(network(3))
    header = Header(Origin(STAGE, kind, SEED, 1, Setup(NETWORK, CLOCK, objective)), 4, ("loss/fm_video",), POSITIONS, IDS, CHUNKS)
    return BadStep(header, batch, rollout, weights)


def with_latent(bad: BadStep, clip: int, value: float = float("nan")) -> BadStep:
    """One number of a clip's real sound replaced."""
    audio = bad.batch.latents.get("audio").clone()
    audio[clip, 1, 2] = value
    return replace(bad, batch=replace(bad.batch, latents=replace(bad.batch.latents, audio=audio)))


def with_exit(bad: BadStep, clip: int) -> BadStep:
    """One number of a clip's exit states replaced by NaN."""
    rollout = bad.rollout
    assert rollout is not None
    assert rollout.exit_state is not None
    video = rollout.exit_state.get("video").clone()
    video[clip, 0, 0, 0, 0] = float("nan")
    return replace(bad, rollout=replace(rollout, exit_state=replace(rollout.exit_state, video=video)))


def with_weight(bad: BadStep, role: str, name: str, value: float) -> BadStep:
    """All numbers of one weight replaced."""
    return replace(bad, weights=bad.weights | {role: bad.weights[role] | {name: torch.full_like(bad.weights[role][name], value)}})


def without_exits(rollout: Rollout) -> Rollout:
    return replace(rollout, exit_state=None, exit_time_BK=None)
