"""The rectified-flow path (method 1): x_t = (1 - t) x_0 + t e, velocity v = e - x_0, t from 1 (noise) to 0 (data).

Raw time is shared by all tokens of a chunk; each modality sees it through its own monotone shift. Times are `AV` records of
[B, K] tensors (one value a chunk); `per_latent` spreads them over the latents of a modality.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .timeline import Layout
from .types import AV, at_least_fp32


@dataclass(frozen=True)
class PathConfig:
    """Time shift a modality: t = s * tau / (s * tau + 1 - tau). shift_video, shift_audio: s; 1 leaves time as it is, above 1 spends more
    steps in the noise.
    """

    shift_video: float = 1.0
    shift_audio: float = 1.0

    def __post_init__(self) -> None:
        for name in ("shift_video", "shift_audio"):
            if getattr(self, name) <= 0:
                raise ValueError(f"path.{name}={getattr(self, name)}: must be above 0 (1 = no shift)")


def shifted(raw_BK: Tensor, config: PathConfig, like: AV) -> AV:
    """Raw times -> the times of each modality that `like` has."""

    def shift(s: float) -> Tensor:
        return s * raw_BK / (s * raw_BK + (1 - raw_BK))  # this form is exact at 0 and 1

    return AV(
        video=None if like.video is None else shift(config.shift_video),
        audio=None if like.audio is None else shift(config.shift_audio),
    )


def per_latent(values: AV, latents: AV, layout: Layout) -> AV:
    """[B, K] values of each modality -> broadcastable to that modality's predicted latents (no first frame)."""

    def spread(modality: str) -> Tensor | None:
        if getattr(latents, modality) is None:
            return None
        x = values.get(modality)
        if x.shape[1] > 1:  # one chunk needs no index, and a stream must not wait for one to reach its device
            index, _ = layout.video(with_first_frame=False) if modality == "video" else layout.audio()
            x = x[:, (index - layout.first).to(latents.get(modality).device)]
        return x[:, :, None, None, None] if modality == "video" else x[:, :, None]

    return AV(video=spread("video"), audio=spread("audio"))


def interpolate(clean: AV, noise: AV, t: AV) -> AV:
    """x_t = (1 - t) x_0 + t e; `t` already spread over the latents."""
    return clean.map(lambda x, e, s: (1 - s) * x + s * e, noise, t)


def velocity(clean: AV, noise: AV) -> AV:
    """v = e - x_0."""
    return clean.map(lambda x, e: e - x, noise)


def move(x_t: AV, u: AV, t: AV, r: AV) -> AV:
    """One move along an average velocity: x_r = x_t - (t - r) u."""
    return x_t.map(lambda x, v, a, b: x - (a - b) * v, u, t, r)


def clean_prediction(x_t: AV, v: AV, t: AV) -> AV:
    """x_0 = x_t - t v, for an instantaneous velocity or the average one over [0, t]."""
    return x_t.map(lambda x, u, s: x - s * u, v, t)


def guided(conditional: AV, unconditional: AV, scale: float) -> AV:
    """Classifier-free guidance, `uncond + scale * (cond - uncond)`: scale 1 is the conditional prediction alone."""
    return unconditional.map(lambda u, c: u + scale * (c - u), conditional)


def few_grid(moves: int) -> Tensor:
    """Raw times of the few-step mode, [moves + 1], from 1 to 0: uniform in shifted time, since the shift comes after."""
    if moves < 1:
        raise ValueError(f"moves={moves}: the few-step mode needs at least one move")
    return torch.linspace(1.0, 0.0, moves + 1)


def preconditioned(output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """Network output F -> velocity u = ((2t - 1) x_t) / n - F / sqrt(n), n = (1 - t)^2 + t^2; F = 0 is the best linear guess.

    With unit-variance data F's target has unit variance at every t: the clean latent at t = 1, the noise at t = 0 (the
    preconditioning of Karras et al. 2022, written for the rectified-flow path). Computed in fp32 or wider.
    """
    t = at_least_fp32(t)
    n = (1 - t).square() + t.square()
    return ((2 * t - 1) / n * at_least_fp32(x_t) - at_least_fp32(output) / n.sqrt()).to(x_t.dtype)
