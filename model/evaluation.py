"""What generated latents are measured by, against real ones: distance of chunk features, seams between chunks, use of history.

Everything here is a function of latents, so it needs no pretrained judge. Fréchet distances are biased by the number of samples: compare
only equal counts, and subtract the distance of real to real at that count (`excess`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .losses import Models, flow_matching
from .noise import PositionalNoise
from .objective import DropConfig, HistoryConfig, ObjectiveConfig
from .timeline import Layout
from .types import AV, AVBatch, Rollout, Velocity


def chunk_features(latents: AV, layout: Layout) -> AV:
    """Latents (first frame included) -> one vector a chunk and modality, [B, K, D] in fp64.

    Chunks hold unequal counts of audio latents: each gives the smallest count, so that all vectors have one length.
    """
    t = layout.timeline
    video = audio = None
    if latents.video is not None:
        video = torch.stack([latents.video[:, t.video_slice(k)].flatten(1) for k in layout.chunk_range], dim=1).double()
    if latents.audio is not None:
        spans = [t.audio_slice(k) for k in layout.chunk_range]
        least = min(s.stop - s.start for s in spans)
        audio = torch.stack([latents.audio[:, s.start : s.start + least].flatten(1) for s in spans], dim=1).double()
    return AV(video, audio)


def joined(features: AV) -> Tensor:
    """Features of both modalities side by side, [B, K, D]."""
    return torch.cat([x for _, x in features.items()], dim=-1)


@dataclass(frozen=True)
class Principal:
    """The leading principal components of real features, whitened by nothing: distances keep their units."""

    mean_D: Tensor
    basis_DP: Tensor

    def __call__(self, features_ND: Tensor) -> Tensor:
        return (features_ND - self.mean_D) @ self.basis_DP


def principal(features_ND: Tensor, components: int = 32) -> Principal:
    """Fit on real features [N, D]; at most `components` of them."""
    mean = features_ND.mean(0)
    _, _, v = torch.linalg.svd(features_ND - mean, full_matrices=False)
    return Principal(mean, v[:components].T)


def frechet(a_ND: Tensor, b_ND: Tensor) -> float:
    """Fréchet distance of two Gaussians fitted to samples: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982)."""
    m1, m2 = a_ND.mean(0), b_ND.mean(0)
    s1, s2 = torch.cov(a_ND.T), torch.cov(b_ND.T)
    root = _root(s1)
    cross = torch.linalg.eigvalsh(root @ s2 @ root).clamp(min=0).sqrt().sum()
    return float((m1 - m2).square().sum() + s1.trace() + s2.trace() - 2 * cross)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T


@dataclass(frozen=True)
class Seams:
    """Borders between chunks. correlation: of the latents before and after a border, around each clip's mean; jump: mean square step over
    borders, over the mean square step inside chunks. Both mean something only next to the same figure of real clips.
    """

    correlation: float
    jump: float


def seams(x_BTD: Tensor, chunk_T: Tensor) -> Seams:
    """Seams of latents [B, T, D] whose latent i belongs to chunk `chunk_T[i]`."""
    x = (x_BTD - x_BTD.mean(dim=1, keepdim=True)).double()
    border = chunk_T[1:] != chunk_T[:-1]
    step = (x[:, 1:] - x[:, :-1]).square().mean(dim=(0, 2))
    before, after = x[:, :-1][:, border], x[:, 1:][:, border]
    correlation = (before * after).sum() / (before.square().sum() * after.square().sum()).sqrt()
    inside = step[~border].mean() if bool((~border).any()) else step[border].mean()
    return Seams(float(correlation), float(step[border].mean() / inside))


def history_use(model: Velocity, batch: AVBatch, noise: PositionalNoise, objective: ObjectiveConfig) -> dict[str, float]:
    """L_fm with another clip's history minus L_fm with the own one, by modality: 0 for a model that ignores its past (method 5.1).

    The first frame, the controls, noise and times stay the clip's own.
    """
    if batch.latents.batch < 2:
        raise ValueError(f"history_use: needs at least 2 clips, the batch has {batch.latents.batch}: one alone has no other's history")
    objective = replace(objective, w_fm=1.0, drop=DropConfig(0, 0, 0), history=HistoryConfig(real_share=0.0))
    other = batch.latents.map(lambda x: x.roll(1, dims=0))
    if batch.latents.video is not None and other.video is not None:
        other = AV(torch.cat([batch.latents.video[:, :1], other.video[:, 1:]], dim=1), other.audio)
    losses = []
    with torch.no_grad():
        for past in (other, batch.latents):
            rollout = Rollout(past, None, None)
            losses.append(flow_matching(Models(model, model), batch, rollout, noise, objective).parts)
    return {name.removeprefix("fm_"): float(losses[0][name] - losses[1][name]) for name in losses[0]}
