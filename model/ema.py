"""Exponential moving average of the weights: the teacher of the distillation and the weights that are served (method 4, 5.3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def ema_decay(decay: float, step: int) -> float:
    """Decay of update `step` (0, 1, ...): ramped up, so that a short stage is not dominated by its start."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def ema_update(average: Iterable[Tensor], live: Iterable[Tensor], decay: float) -> None:
    """average <- decay * average + (1 - decay) * live, in place."""
    for a, x in zip(average, live, strict=True):
        a.lerp_(x.to(a.dtype), 1 - decay)
