"""Signals that tell a healthy dual-mode training from a sick one, before the losses do (they are means over everything)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .noise import PositionalNoise
from .objective import ObjectiveConfig
from .sampler import SamplerConfig, few_mode, generate
from .transformer import AVTransformer
from .types import AV, AVBatch, at_least_fp32, future

SATURATED = 4.0  # latents have unit variance: beyond this many deviations real ones are rare


def history_health(history: AV, batch: AVBatch) -> dict[str, Tensor]:
    """Generated clips against the real ones: `loudness` and `motion` (ratios of root mean squares, 1 is healthy, towards 0 is a
    collapse to silence or a still), `saturation_*` (share of latents beyond 4 deviations, minus the real clips' share).
    """
    made, true = future(history), future(batch.latents)
    signals: dict[str, Tensor] = {}
    if made.audio is not None:
        signals["loudness"] = _ratio(AV(audio=made.audio), AV(audio=true.get("audio")), batch)
    if made.video is not None and made.video.shape[1] > 1:
        signals["motion"] = _ratio(AV(_steps(made.video)), AV(_steps(true.get("video"))), batch)
    beyond = [batch.means(x.map(lambda y: (y.abs() > SATURATED).float())) for x in (made, true)]
    return signals | {f"saturation_{name}": x - beyond[1].get(name) for name, x in beyond[0].items()}


@torch.no_grad()
def few_health(net: AVTransformer, batch: AVBatch, objective: ObjectiveConfig, steps: int, noise: PositionalNoise) -> dict[str, Tensor]:
    """`history_health` of what FEW generates under the batch's controls on its own outputs, as at inference: the histories of training may
    start close to real clips. And `mode_disagreement`: root mean square of FEW - guided MULTI (`steps` steps) of chunk 0 from the same
    noise. Latents have unit variance: 0 is full agreement, and near 1.4 the modes are as far apart as two unrelated clips.
    """
    first = None if batch.latents.video is None else batch.latents.video[:, :1]
    audio = None if batch.latents.audio is None else (batch.latents.audio.shape[0], batch.latents.audio.shape[2])
    chunks = list(generate(net, batch.controls, first, audio, batch.layout.chunks, few_mode(objective), noise))
    multi = SamplerConfig("multi", steps, guidance=objective.shortcut.guidance, path=objective.path)
    slow = next(generate(net, batch.controls, first, audio, 1, multi, noise))
    apart = chunks[0].map(lambda a, b: (at_least_fp32(a) - at_least_fp32(b)).square().mean(), slow)
    made = chunks[0].map(lambda *x: torch.cat(x, dim=1), *chunks[1:])
    whole = made if first is None or made.video is None else AV(torch.cat([first, made.video], dim=1), made.audio)
    return history_health(whole, batch) | {"mode_disagreement": torch.stack([x for _, x in apart.items()]).mean().sqrt()}


class GradientMeter:
    """Norms of the gradient that one backward adds, by group of parameters; this rank's share of the batch, before any reduction.

    It hooks the parameters themselves, so it sees whole gradients under every ZeRO stage.
    """

    def __init__(self, groups: dict[str, Iterable[nn.Parameter]]) -> None:
        self._squares: dict[str, Tensor] = {}
        self._hooks = [
            p.register_hook(lambda gradient, name=name: self._add(name, gradient))
            for name, parameters in groups.items()
            for p in parameters
            if p.requires_grad
        ]

    def _add(self, name: str, gradient: Tensor) -> None:
        square = at_least_fp32(gradient.detach()).square().sum()
        self._squares[name] = self._squares.get(name, torch.zeros_like(square)) + square

    def take(self) -> dict[str, Tensor]:
        """Norms since the last call."""
        squares, self._squares = self._squares, {}
        return {name: x.sqrt() for name, x in squares.items()}

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()


def _ratio(made: AV, true: AV, batch: AVBatch) -> Tensor:
    """Root mean square of one modality over another clip's."""
    squares = [batch.means(x.map(lambda y: at_least_fp32(y).square())) for x in (made, true)]
    [(_, over), (_, under)] = [x.items()[0] for x in squares]
    return over.sqrt() / under.sqrt().clamp(min=1e-12)


def _steps(x: Tensor) -> Tensor:
    """From each latent to the next, 0 before the first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x.diff(dim=1)], dim=1)
