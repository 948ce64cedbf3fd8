"""How sure a figure is: intervals by bootstrap over clips (Efron & Tibshirani 1993), and the paired ones of a difference.

Clips are drawn again with the same numbers for every run, window and metric, so that draws of one are those of another and their
differences have intervals of their own: which prompts are easy cancels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
SET_DRAWS = 200  # of figures that are computed anew for each draw
LEVEL = 0.95
LEAST = 5  # clips, below which draws say nothing: with two, half of them hold one clip alone


@dataclass(frozen=True)
class Estimate:
    """A value with its interval at 95 %; the interval is NaN where fewer than 5 clips leave none."""

    value: float
    low: float
    high: float


def redraws(clips: int, draws: int = DRAWS) -> np.ndarray:
    """Numbers of clips [draws, clips], the same for the same counts; of fewer draws, the first ones."""
    return np.random.default_rng(0).integers(clips, size=(draws, clips))


def mean_estimate(values: np.ndarray) -> Estimate:
    """Mean over clips [n] of those that are numbers, with its percentile interval.

    Raises:
        ValueError: none is a number.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        raise ValueError("no clip has a value")
    if len(known) < LEAST:
        return Estimate(float(known.mean()), math.nan, math.nan)
    means = known[redraws(len(known))].mean(axis=1)
    low, high = np.quantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(float(known.mean()), float(low), float(high))


def centred_estimate(value: float, draws: np.ndarray) -> Estimate:
    """A value with the spread of its draws around their own mean.

    For distances between sets: a draw holds some clips twice, which makes every distance larger, so percentiles of the draws themselves
    would lie above the value.
    """
    known = draws[np.isfinite(draws)]
    if len(known) < 2:
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(known - known.mean(), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Estimate(value, value + float(low), value + float(high))
