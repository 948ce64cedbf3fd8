"""A velocity that a loop can follow latent by latent, and the loop's own clock, time shift and means."""

from __future__ import annotations

from itertools import product

import torch
from model_material import CLOCK, assert_near, latents
from torch import Tensor, nn

from mutual_forcing.model.losses import Loss
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import DmdConfig, DropConfig, HistoryConfig, ObjectiveConfig, ShortcutConfig
from mutual_forcing.model.path import PathConfig
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.types import AV, AVBatch, Controls, Rollout, future

CHUNKS = 3
CONFIG = ObjectiveConfig(
    path=PathConfig(shift_video=3.0, shift_audio=0.7),
    video_weight=1.3,
    audio_weight=0.6,
    drop=DropConfig(0.4, 0.2, 0.2),
    history=HistoryConfig(real_share=0.5),
    shortcut=ShortcutConfig(sub_steps=3, guidance=2.5),
    dmd=DmdConfig(guidance=3.5),
)


class Field(nn.Module):
    """A velocity that depends on everything that a network sees, and by a rule for one latent that a loop can follow."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))

    def forward(self, noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        made = {}
        for name, x in noisy.items():
            rows = [
                torch.stack([self._at(b, i, name, x, context, t, r, controls, layout) for i in range(x.shape[1])])
                for b in range(x.shape[0])
            ]
            made[name] = torch.stack(rows)
        return AV(**made)

    def _at(self, b: int, i: int, name: str, x: Tensor, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> Tensor:
        k = chunk_of(name, i, layout.chunks)
        return self.rule(x[b, i], context.get(name)[b, i], t.get(name)[b, k].item(), r.get(name)[b, k].item(), text_of(controls, b))

    def rule(self, x: Tensor, past: Tensor, t: float, r: float, text: float) -> Tensor:
        a, b, c, d, e = self.weight
        return torch.tanh(a * x + b * past) + c * t * x + d * (t - r) + e * text * past


def text_of(controls: Controls, b: int) -> float:
    return (controls.caption_mask_BW[b].sum() + 2 * controls.words_mask_BW[b].sum()).item() / 10


def chunk_of(name: str, i: int, chunks: int) -> int:
    """The chunk of predicted latent `i` of a modality."""
    for k in range(chunks):
        if name == "video" and i < (k + 1) * CLOCK.chunk_video:
            return k
        if name == "audio" and i < CLOCK.audio_latents(k + 1):
            return k
    raise AssertionError(f"{name} latent {i} is beyond {chunks} chunks")


def shift(raw: float, name: str) -> float:
    s = CONFIG.path.shift_video if name == "video" else CONFIG.path.shift_audio
    return s * raw / (1 + (s - 1) * raw)


def every_latent(like: AV) -> list[tuple[str, int, int, int]]:
    """(modality, clip, latent, chunk) of all predicted latents."""
    return [(m, b, i, chunk_of(m, i, CHUNKS)) for m, x in like.items() for b, i in product(range(x.shape[0]), range(x.shape[1]))]


def assert_loss(loss: Loss, squares: dict[str, list[Tensor]], name: str) -> None:
    """Means over a modality's latents, then the weighted sum."""
    means = {m: torch.stack(s).mean() for m, s in squares.items()}
    assert set(loss.parts) == {f"{name}_{m}" for m in means}
    for m, mean in means.items():
        assert_near(loss.parts[f"{name}_{m}"], mean.detach(), rtol=2e-6, atol=1e-9)
        assert not loss.parts[f"{name}_{m}"].requires_grad
    assert_near(loss.value, CONFIG.video_weight * means["video"] + CONFIG.audio_weight * means["audio"], rtol=2e-6, atol=1e-9)


def no_grad_reached(*modules: nn.Module) -> bool:
    return all(p.grad is None for module in modules for p in module.parameters())


def past_of(batch: AVBatch, rollout: Rollout, noise: PositionalNoise, config: ObjectiveConfig = CONFIG) -> AV:
    """K of each clip: its rollout, or its own past in the configured share."""
    real = [u < config.history.real_share for u in noise.uniform((), "real-history").tolist()]
    own, made = batch.latents, rollout.history
    return AV(**{m: torch.stack([(own if real[b] else made).get(m)[b] for b in range(len(real))]) for m, _ in own.items()})


def exits_of(rollout: Rollout) -> tuple[AV, Tensor]:
    """The exit states of a rollout that has some, and their raw times."""
    assert rollout.exit_state is not None
    assert rollout.exit_time_BK is not None
    return rollout.exit_state, rollout.exit_time_BK


def rollout_of(batch: AVBatch, raw: tuple[float, ...] = (1.0, 0.5, 0.25)) -> Rollout:
    made = latents(CHUNKS, batch.latents.batch, seed=21)
    state = future(latents(CHUNKS, batch.latents.batch, seed=22))
    return Rollout(made, state, torch.tensor([raw] * batch.latents.batch))
