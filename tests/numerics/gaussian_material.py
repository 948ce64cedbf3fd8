"""Gaussian clips on which everything is known: laws with their velocities and flow maps, and draws without Monte-Carlo error.

A velocity here is linear in the features (1, x, h, c) of a chunk: its noisy latent, its past, its control. The objectives are then
quadratic in the coefficients and depend on the draws through second moments alone. `design` makes Gaussian draws whose first and second
sample moments are exactly those of independent standard normals, so a minimiser is exact to rounding with a few dozen clips.

A control is a number: the start time of the one word of the transcript. Where the word is dropped, its feature is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.timeline import Layout, Timeline
from mutual_forcing.model.types import AV, AVBatch, Controls, Rollout

CLOCK = Timeline(fps=2, video_stride=1, sample_rate=2, audio_hop=1, chunk_frames=1)  # one video latent a chunk
F64 = torch.float64


@dataclass(frozen=True)
class Law:
    """x_0 | h, c ~ N(mean . (1, h, c), std^2); c is 0 where the text is dropped.

    With mu the mean, x_t ~ N((1 - t) mu, q_t^2), q_t^2 = (1 - t)^2 std^2 + t^2. (x_0, e, x_t) are jointly Gaussian, so
    E[x_0 | x_t] = mu + (1 - t) std^2 / q_t^2 (x_t - (1 - t) mu) and E[e | x_t] = t / q_t^2 (x_t - (1 - t) mu).
    The flow keeps the standard score: (x_r - (1 - r) mu) / q_r = (x_t - (1 - t) mu) / q_t.
    Coefficients are of the features (1, x, h, c), in the last dimension.
    """

    mean: tuple[float, float, float]
    std: float

    def _coefficients(self, of_x: Tensor, of_mean: Tensor) -> Tensor:
        one, h, c = self.mean
        return torch.stack([one * of_mean, of_x, h * of_mean, c * of_mean], dim=-1)

    def spread(self, t: Tensor) -> Tensor:
        return ((1 - t).square() * self.std**2 + t.square()).sqrt()

    def clean(self, t: Tensor) -> Tensor:
        """E[x_0 | x_t, h, c]."""
        gain = (1 - t) * self.std**2 / self.spread(t).square()
        return self._coefficients(gain, 1 - gain * (1 - t))

    def velocity(self, t: Tensor) -> Tensor:
        """E[e - x_0 | x_t, h, c]."""
        gain = t / self.spread(t).square()
        return self._coefficients(gain, -gain * (1 - t)) - self.clean(t)

    def average(self, t: Tensor, r: Tensor) -> Tensor:
        """(x_t - x_r) / (t - r) along the flow."""
        ratio = self.spread(r) / self.spread(t)
        return self._coefficients((1 - ratio) / (t - r), (ratio * (1 - t) - (1 - r)) / (t - r))


@dataclass(frozen=True)
class Affine:
    """A velocity: the sum of coefficients times features. rule(t, r) gives those of clips with text and without, [B, K, 4] or less."""

    rule: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def __call__(self, noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        x = noisy.get("video")
        z = features(x, context.get("video"), control(controls))
        told, silent = self.rule(t.get("video").to(F64), r.get("video").to(F64))
        coefficients = torch.where(controls.words_mask_BW[:, :1, None], told, silent)
        return AV(video=(coefficients * z).sum(-1).view_as(x))


def features(x: Tensor, context: Tensor, c_B: Tensor) -> Tensor:
    """(1, x, h, c) of each chunk [B, K, 4]: h is the latent before it in the context."""
    x, h = x.flatten(1), context[:, :-1].flatten(1)
    return torch.stack([torch.ones_like(x), x, h, c_B[:, None].expand_as(x)], dim=-1)


def coefficients(told: Tensor, silent: Tensor | None = None) -> Affine:
    """Fixed coefficients, e.g. those that are learnt at the times of the test."""
    return Affine(lambda t, r: (told, told if silent is None else silent))


def exact(told: Law, silent: Law | None = None) -> Affine:
    """The MULTI mode of laws: conditional, and unconditional."""
    return Affine(lambda t, r: (told.velocity(t), (silent or told).velocity(t)))


def with_control(c_B: Tensor) -> Controls:
    count = c_B.shape[0]
    byte, exists = torch.full((count, 1, 1), 65, dtype=torch.uint8), torch.ones(count, 1, dtype=torch.bool)
    return Controls(byte, exists, byte, exists, torch.stack([c_B, c_B + 1], dim=-1)[:, None])


def control(controls: Controls) -> Tensor:
    return controls.words_time_BW2[:, 0, 0] * controls.words_mask_BW[:, 0]


def design(columns: int, count: int, seed: int) -> Tensor:
    """Draws [count, columns] of mean 0, variance 1 and correlation 0, exactly in the sample."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(count, columns + 1, generator=g, dtype=F64)
    z[:, 0] = 1
    q, _ = torch.linalg.qr(z)
    return q[:, 1:] * count**0.5


@dataclass(frozen=True)
class Draws(PositionalNoise):
    """Chosen draws in the place of random ones, by the tag's words joined: normals [B, K], uniforms [B] or [K] or a number."""

    normals: dict[str, Tensor]
    uniforms: dict[str, Tensor]
    count: int

    def normal_like(self, latents: AV, *tag: int | str) -> AV:
        return latents.map(lambda x: self.normals[_name(tag)].reshape(x.shape))

    def uniform(self, shape: object, *tag: int | str) -> Tensor:
        value = self.uniforms[_name(tag)]
        assert isinstance(shape, tuple)
        return value.expand(self.count, *shape)


def _name(tag: tuple[int | str, ...]) -> str:
    return " ".join(str(word) for word in tag)


def video(x: Tensor) -> AV:
    """[B, F] numbers as video latents of one channel and one pixel."""
    return AV(video=x[:, :, None, None, None])


def clips(latents: Tensor, c_B: Tensor) -> AVBatch:
    """Clips from their latents [B, 1 + K], the first frame first."""
    count, frames = latents.shape
    return AVBatch(video(latents), with_control(c_B), Layout(CLOCK, frames - 1), tuple(range(count)), ())


def past(h: Tensor, exit_state: Tensor | None = None, exit_time: float = 1.0) -> Rollout:
    """A rollout whose history before chunk k is h[:, k]; what it holds for the last chunk is nobody's past."""
    times = torch.full(h.shape, exit_time)
    history = video(torch.cat([h, torch.full_like(h[:, :1], 1e3)], dim=1))
    return Rollout(history, None if exit_state is None else video(exit_state), None if exit_state is None else times)


def minimiser(loss: Callable[[Tensor], Tensor], *shape: int) -> Tensor:
    """Where a quadratic loss is least: one Newton step from 0, checked to be the only such place and to leave no gradient."""
    start = torch.zeros(shape, dtype=F64, requires_grad=True)
    gradient = torch.autograd.grad(loss(start), start, create_graph=True)[0].flatten()
    rows = [torch.autograd.grad(g, start, retain_graph=True)[0].flatten() for g in gradient]
    matrix = torch.stack(rows)
    assert torch.linalg.eigvalsh(matrix).min() > 1e-4 * matrix.diagonal().max(), "every coefficient is identified"
    best = -torch.linalg.solve(matrix, gradient.detach()).reshape(shape)
    here = best.clone().requires_grad_(True)
    assert torch.autograd.grad(loss(here), here)[0].abs().max() < 1e-9, "the loss is quadratic"
    return best
