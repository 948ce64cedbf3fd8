"""Rotary positions in seconds (time) and grid cells (height, width), method 2.

The head's features are split over the three axes. Audio tokens and transcript words stand at row = column = 0 and use the time
axis with their true timestamps, so sync needs no integer ratio between the latent rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, pi

import torch
from torch import Tensor

from .types import at_least_fp32, sent


@dataclass(frozen=True)
class RopeConfig:
    """Rotary positions: how the pairs of a head are divided over the axes, and wavelengths per axis.

    time_share: share of the pairs given to time; the rest is halved between height and width. time_wavelengths: shortest and longest in
    seconds, geometric in between. space_wavelengths: the same in grid cells.
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


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of the angles of N tokens, [1 or B, N, 1, D/2]: made once, used by every layer."""

    cos: Tensor
    sin: Tensor

    def cat(self, other: Rotation) -> Rotation:
        """The tokens of self, then those of `other`."""
        return Rotation(torch.cat([self.cos, other.cos], dim=1), torch.cat([self.sin, other.sin], dim=1))


def rotation(time_N: Tensor, row_N: Tensor, column_N: Tensor, head_dim: int, config: RopeConfig, like: Tensor) -> Rotation:
    """The rotation of tokens at (seconds, row, column), each [N] or [B, N], on the device of `like` and in fp32 or its wider type."""
    pairs = head_dim // 2
    space = int(pairs * (1 - config.time_share) + 1e-9) // 2  # shares like 34/100 are no binary fractions
    time = pairs - 2 * space
    axes = ((time_N, time, config.time_wavelengths), (row_N, space, config.space_wavelengths), (column_N, space, config.space_wavelengths))
    turns = torch.cat([x.double()[..., None] * _frequencies(n, w).to(x.device) for x, n, w in axes], dim=-1)
    turns = turns.remainder(2 * pi)  # reduced in fp64: an hour into a stream, fp32 would err by up to 0.007
    turns = (turns if turns.dim() == 3 else turns[None])[:, :, None]
    dtype = torch.promote_types(like.dtype, torch.float32)
    cos, sin = (sent(x.to(dtype), like.device) for x in (turns.cos(), turns.sin()))
    return Rotation(cos, sin)


def rotate(x_BNMD: Tensor, by: Rotation) -> Tensor:
    """Rotate feature pairs (i, i + D/2) of [B, N, M, D], computed in fp32 or wider."""
    first, second = at_least_fp32(x_BNMD).chunk(2, dim=-1)
    turned = torch.cat(
        [torch.addcmul(first * by.cos, second, by.sin, value=-1), torch.addcmul(first * by.sin, second, by.cos)],
        dim=-1,
    )
    return turned.to(x_BNMD.dtype)
