"""AdamW and its learning rate: the choices of one stage, shared by every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import nn

ParameterGroups = Sequence[tuple[float, list[nn.Parameter]]]
"""Parameters under training in groups, each with the ratio of its learning rate to the stage's."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW of one stage (the paper: lr 5e-5, betas 0.9/0.95, weight decay 0.02, clip 0.5).

    lr: peak of the learning rate. beta1, beta2: of the moments. weight_decay: decoupled, over the learning rate (0 = off). clip: largest
    norm of the gradient (0 = off). warmup: share of the stage in which the rate rises linearly from 0. decay: share of it in which
    the rate falls linearly. final_lr_share: of the peak, where it ends.
    """

    lr: float = 5e-5
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.02
    clip: float = 0.5
    warmup: float = 0.02
    decay: float = 0.0
    final_lr_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.lr < inf:
            raise ValueError(f"optimizer.lr={self.lr}: must be positive")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be at least 0 and below 1")
        for name in ("warmup", "decay", "final_lr_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be a share from 0 to 1")
        for name in ("weight_decay", "clip"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be 0 (off) or more")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of optimizer step `step` of `steps`."""
        up = min(1.0, (step + 1) / max(1.0, self.warmup * steps))
        left = (steps - step) / max(1.0, self.decay * steps)
        down = self.final_lr_share + (1 - self.final_lr_share) * min(1.0, left) if self.decay else 1.0
        return self.lr * min(up, down)

    def adamw(self, trained: ParameterGroups) -> torch.optim.AdamW:
        """The optimizer of these parameters, at its peak rate; a group's `ratio` goes with it."""
        groups = [{"params": parameters, "ratio": ratio} for ratio, parameters in trained if parameters]
        return torch.optim.AdamW(groups, lr=self.lr, betas=(self.beta1, self.beta2), weight_decay=self.weight_decay)


def set_rate(groups: list[dict[str, Any]], rate: float) -> None:
    """Give each group of an optimizer its share of the learning rate."""
    for group in groups:
        group["lr"] = rate * group["ratio"]
