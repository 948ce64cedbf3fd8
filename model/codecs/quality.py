"""How close a decoded medium is to its source, in decibels (infinite where they are equal)."""

from __future__ import annotations

import math

from torch import Tensor


def psnr(reference: Tensor, decoded: Tensor, peak: float = 255.0) -> float:
    """Peak signal-to-noise ratio in dB: `10 log10(peak^2 / mean squared error)`, over all elements."""
    return _decibels(peak**2, _mean_square(reference, decoded))


def snr(reference: Tensor, decoded: Tensor) -> float:
    """Signal-to-noise ratio in dB: energy of the reference over energy of the error, over all elements."""
    return _decibels(float(reference.double().square().mean()), _mean_square(reference, decoded))


def _mean_square(reference: Tensor, decoded: Tensor) -> float:
    if reference.shape != decoded.shape or reference.numel() == 0:
        raise ValueError(f"shapes {tuple(reference.shape)} and {tuple(decoded.shape)}: compare two non-empty media of one shape")
    return float((reference.double() - decoded.double()).square().mean())


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
