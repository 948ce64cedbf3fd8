"""Figures of many clips as counts in bins of round numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

import numpy as np

BINS = 24  # about so many


@dataclass(frozen=True)
class Histogram:
    """counts[i] values lie from low + i * step to low + (i + 1) * step; the last bin holds its end too. values: how many there are."""

    low: float
    step: float
    counts: tuple[int, ...]
    smallest: float
    median: float
    largest: float

    @property
    def values(self) -> int:
        return sum(self.counts)

    @property
    def high(self) -> float:
        return self.low + self.step * len(self.counts)


def histogram(values: Sequence[float], bins: int = BINS) -> Histogram | None:
    """The histogram of the finite values; None of none."""
    finite = np.array([x for x in values if isfinite(x)])
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    step = _round((high - low) / bins) if high > low else 1.0
    first, last = floor(low / step + 1e-9), max(ceil(high / step - 1e-9), floor(low / step + 1e-9) + 1)
    index = np.clip(np.floor(finite / step - first + 1e-9).astype(int), 0, last - first - 1)
    counts = np.bincount(index, minlength=last - first)
    return Histogram(first * step, step, tuple(int(n) for n in counts), low, float(np.median(finite)), high)


def _round(step: float) -> float:
    """The next of 1, 2, 5, 10, ... that is not smaller."""
    power = 10.0 ** floor(log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))
