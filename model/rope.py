"""Rotary positions in seconds (time) and grid cells (height, width), method 2.

The head's features are split over the three axes. Audio tokens and transcript words stand at row = column = 0 and use the time
axis with their true timestamps, so sync needs no integer ratio between the latent rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, pi

import torch
from torch import Tensor

from .types import at_least_fp32


@dataclass(frozen=True)
class RopeConfig:
    """Share of the rotary pairs given to time (the rest is halved between height and width) and wavelengths per axis.

    time_wavelengths in seconds, space_wavelengths in grid cells: shortest and longest, geometric in between.
    """

    time_share: float = 0.5
    time_wavelengths: tuple[float, float] = (0.25, 20.0)
    space_wavelengths: tuple[float, float] = (2.5, 30.0)

    def __post_init__(self) -> None:
        if not 0 <= self.time_share <= 1:
            raise ValueError(f"model.rope.time_share={self.time_share}: must be a share from 0 to 1")
        for name in ("time_wavelengths", "space_wavelengths"):
            low, high = getattr(self, name)
            if not 0 < low <= high < inf:
                raise ValueError(f"model.rope.{name}={[low, high]}: need 0 < shortest <= longest")


def _frequencies(count: int, wavelengths: tuple[float, float]) -> Tensor:
    low, high = wavelengths
    return 2 * pi / torch.logspace(0, 1, count, base=high / low, dtype=torch.float64) / low


def angles(time_N: Tensor, row_N: Tensor, column_N: Tensor, head_dim: int, config: RopeConfig) -> Tensor:
    """Rotation angles [N, head_dim / 2] in fp64, reduced to one turn, of tokens at (seconds, row, column)."""
    pairs = head_dim // 2
    space = int(pairs * (1 - config.time_share)) // 2
    time = pairs - 2 * space
    device = time_N.device
    axes = ((time_N, time, config.time_wavelengths), (row_N, space, config.space_wavelengths), (column_N, space, config.space_wavelengths))
    turns = torch.cat([x.double()[..., None] * _frequencies(n, w).to(device) for x, n, w in axes], dim=-1)
    return turns.remainder(2 * pi)  # reduced in fp64: an hour into a stream, fp32 would err by up to 0.007


def rotate(x_BNMD: Tensor, angles_ND: Tensor) -> Tensor:
    """Rotate feature pairs (i, i + D/2) of [B, N, M, D] by the angles [N, D/2] or [B, N, D/2], computed in fp32 or wider."""
    x = at_least_fp32(x_BNMD)
    a = (angles_ND if angles_ND.dim() == 3 else angles_ND[None]).to(x.dtype)
    cos, sin = a.cos()[:, :, None], a.sin()[:, :, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1).to(x_BNMD.dtype)
