"""Which coefficients of an orthonormal transform a codec keeps, and at which scale: measured, mergeable, exact.

Media are rows `x_K` of an orthonormal basis; coefficients are `x @ basis.T`. A codec keeps C of the K:

    latent = (coefficient - mean) / scale,    dropped coefficients are decoded as their mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .serial import REMEDY, read_numbers

# Sums are kept in integer steps of 2^-20, so a merge is exact and the codec does not depend on the order of the workers.
STEPS = 2**20
SUM_LIMIT = 2**62
# A channel quieter than this share of the loudest is scaled as if it had this share: it is noise, not to be blown up.
QUIET = 1e-3


def dct_matrix(size: int) -> np.ndarray:
    """Orthonormal DCT-II `[size,size]` float64, one basis function a row (Ahmed, Natarajan, Rao 1974)."""
    k, n = np.arange(size)[:, None], np.arange(size)[None]
    rows = np.sqrt(2 / size) * np.cos(np.pi / size * (n + 0.5) * k)
    rows[0] /= np.sqrt(2)
    return rows


class Moments(ABC):
    """Count, sum and sum of squares of each of K coefficients. `geometry` fixes the transform; only equals merge."""

    def __init__(self, *geometry: int) -> None:
        self.geometry = geometry
        self.count, self.total, self.square = (np.zeros(self.size, dtype=np.int64) for _ in range(3))

    @property
    @abstractmethod
    def size(self) -> int:
        """Coefficients of one block, K."""

    def add(self, coefficients_NK: Tensor, measured_K: np.ndarray) -> None:
        """Count N rows. Where `measured_K` is False the coefficient is zero by construction and is not counted."""
        total = coefficients_NK.sum(0, dtype=torch.float64).cpu().numpy() * measured_K
        square = coefficients_NK.square().sum(0, dtype=torch.float64).cpu().numpy() * measured_K
        self._increase(len(coefficients_NK) * measured_K.astype(np.int64), _steps(total), _steps(square))

    def merge(self, other: Self) -> Self:
        """Add the sums of `other`, exactly, so the order of merges does not matter; returns self."""
        if type(other) is not type(self) or other.geometry != self.geometry:
            raise ValueError(f"moments of {other.geometry} do not merge into those of {self.geometry}; measure all with one configuration")
        self._increase(other.count, other.total, other.square)
        return self

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Four flat int64 arrays (a row for a table); `from_arrays` of the same class reads them back."""
        return {"geometry": np.array(self.geometry), "count": self.count.copy(), "total": self.total.copy(), "square": self.square.copy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Inverse of `to_arrays`; ValueError where an array is missing or has another length."""
        missing = {"geometry", "count", "total", "square"} - set(arrays)
        if missing:
            raise ValueError(f"moments: no array {', '.join(sorted(missing))}; give what to_arrays() returned")
        moments = cls(*(int(value) for value in arrays["geometry"]))
        sums = [np.asarray(arrays[name], dtype=np.int64) for name in ("count", "total", "square")]
        if any(array.shape != moments.count.shape for array in sums):
            shapes = [array.shape for array in sums]
            raise ValueError(f"moments: shapes {shapes} instead of {moments.count.shape}; give what to_arrays() returned")
        moments._increase(*sums)
        return moments

    def _increase(self, count: np.ndarray, total: np.ndarray, square: np.ndarray) -> None:
        # Both terms are below 2^62, so the sums themselves cannot wrap before they are refused.
        sums = (self.count + count, self.total + total, self.square + square)
        if any(np.abs(array).max() >= SUM_LIMIT for array in sums):
            raise ValueError("moments: sums exceed 2^62; fit the codec on a sample of the data (a few hours are plenty)")
        self.count, self.total, self.square = sums


@dataclass(frozen=True, eq=False)
class Selection:
    """`index_C` of the kept coefficients, loudest first, their `scale_C`, and the `mean_K` of all (float64)."""

    index_C: np.ndarray
    scale_C: np.ndarray
    mean_K: np.ndarray

    def to_json(self) -> dict[str, list[Any]]:
        return {"index": self.index_C.tolist(), "scale": self.scale_C.tolist(), "mean": self.mean_K.tolist()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], channels: int, size: int) -> Selection:
        """The fields `index`, `scale` and `mean`; ValueError unless they select `channels` different ones of `size`."""
        index, scale = read_numbers(data, "index", channels), np.array(read_numbers(data, "scale", channels))
        if any(not value.is_integer() or not 0 <= value < size for value in index) or len(set(index)) < channels:
            raise ValueError(f"codec.index: not {channels} different coefficients of {size}; {REMEDY}")
        if scale.min() < 1e-12:
            raise ValueError(f"codec.scale: {scale.min():g} is not positive; {REMEDY}")
        return cls(np.array(index, dtype=np.int64), scale, np.array(read_numbers(data, "mean", size)))

    def analysis(self, kept_CK: np.ndarray) -> tuple[Tensor, Tensor]:
        """`(matrix_KC, offset_C)` with `latent = x @ matrix - offset`; `kept_CK` are the kept basis rows."""
        return torch.from_numpy((kept_CK / self.scale_C[:, None]).T.copy()), torch.from_numpy(self.mean_K[self.index_C] / self.scale_C)

    def synthesis(self, kept_CK: np.ndarray) -> Tensor:
        """`matrix_CK` with `x = latent @ matrix + (mean_K as a signal)`, for the codec to add its own inverse of the mean."""
        return torch.from_numpy(kept_CK * self.scale_C[:, None])


def select(moments: Moments, channels: int, whitening: float, zero_mean_K: np.ndarray) -> Selection:
    """Keep the `channels` coefficients of largest variance, at `scale_c` proportional to `std_c ** whitening`.

    The mean variance of the latents over channels is 1 (whitening 1: that of each). Where `zero_mean_K`, the mean is held at 0.
    """
    if not moments.count.any():
        raise ValueError("moments: nothing was measured; update them with at least one clip before fitting")
    count = np.maximum(moments.count, 1)
    mean_K = np.where(zero_mean_K, 0.0, moments.total / STEPS / count)
    power_K = np.maximum(moments.square / STEPS / count - mean_K**2, 0)
    index_C = np.argsort(-power_K, kind="stable")[:channels]
    std_C = np.sqrt(power_K[index_C])
    if std_C[0] == 0:
        return Selection(index_C, np.ones(channels), mean_K)
    weight_C = np.maximum(std_C, QUIET * std_C[0]) ** whitening
    return Selection(index_C, weight_C * np.sqrt(np.mean((std_C / weight_C) ** 2)), mean_K)


def check_whitening(whitening: float) -> None:
    if not 0 <= whitening <= 1:
        raise ValueError(f"whitening: {whitening} is outside 0..1; 0 keeps the spectrum, 1 gives each channel unit variance")


def check_channels(channels: int, size: int) -> None:
    if not 1 <= channels <= size:
        raise ValueError(f"channels: {channels} is outside 1..{size}, the coefficients of a block; choose fewer or larger blocks")


def check_latents(latents: Tensor, dimensions: int, channel_axis: int, channels: int) -> None:
    """ValueError unless finite floating-point latents of the codec's rank and channel count, at least one in time (axis 1)."""
    check_latent_shape(latents, dimensions, channel_axis, channels)
    if not latents.is_floating_point() or not bool(torch.isfinite(latents).all()):
        raise ValueError(f"latents: {latents.dtype} with values that are not finite numbers; the model that made them diverged")


def check_latent_shape(latents: Tensor, dimensions: int, channel_axis: int, channels: int) -> None:
    """As `check_latents`, without a look at the values, which would make a GPU's queue run dry."""
    if latents.ndim != dimensions or latents.shape[channel_axis] != channels or latents.numel() == 0:
        raise ValueError(f"latents: shape {tuple(latents.shape)}; expected {dimensions} non-empty axes, {channels} on axis {channel_axis}")


def _steps(sums: np.ndarray) -> np.ndarray:
    if not np.all(np.abs(sums) < SUM_LIMIT / STEPS):
        raise ValueError("moments: not finite or far too large; give frames as uint8 and samples within [-1, 1]")
    return np.rint(sums * STEPS).astype(np.int64)
