"""What the latents of a dataset look like, channel by channel: their number, mean and spread, exact in any order of clips and parts.

A float16 is a whole number of steps of 2^-24, and a bfloat16 counts as the nearest one. So sums and sums of squares are whole numbers too,
kept as Python's integers, which have no last digit: merging is exact, and a dataset that other parts, other machines or another order made
has the same statistics to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from typing import Any

import numpy as np

from .sixteen_bits import VALUES, fits, numbers

STEPS = 2**24  # of 1.0: the smallest float16 is one of them, the largest 65504 * 2^24 < 2^40
LOW = 2**20  # a value is high * LOW + low, so that sums of the products of 2^20 values fit into int64
BLOCK = 2**20
REMEDY = "use the unchanged manifest, or prepare the data again"


@dataclass(frozen=True)
class LatentStatistics:
    """Of `count` values in each channel: their sum, and the sum of their squares, in steps of 2^-24 and 2^-48.

    lowest, highest: over all values of all channels; 0 of none.
    """

    count: int
    sums: tuple[int, ...]
    squares: tuple[int, ...]
    lowest: float = 0.0
    highest: float = 0.0

    @classmethod
    def none(cls, channels: int) -> LatentStatistics:
        """Of nothing so far."""
        return cls(0, (0,) * channels, (0,) * channels)

    @classmethod
    def of(cls, latents: np.ndarray, axis: int) -> LatentStatistics:
        """Of latents of any shape, as `sixteen_bits` has them, whose channels lie along `axis`.

        Raises:
            ValueError: they are held otherwise, or not finite.
        """
        if latents.dtype not in VALUES:
            raise ValueError(f"latents: {latents.dtype}, statistics are of 16-bit floats, as shards hold them")
        if not fits(latents).all():
            raise ValueError("latents: not all values are finite; a clip with such latents is refused before it is counted")
        rows_CN = np.moveaxis(latents, axis, 0).reshape(latents.shape[axis], -1)
        if not rows_CN.size:
            return cls.none(len(rows_CN))
        values = numbers(rows_CN)
        sums, squares = zip(*(_exact_sums(row_N) for row_N in values), strict=True)
        return cls(rows_CN.shape[1], sums, squares, float(values.min()), float(values.max()))

    def __add__(self, other: LatentStatistics) -> LatentStatistics:
        """Of both together; ValueError where they have not as many channels."""
        if len(self.sums) != len(other.sums):
            raise ValueError(f"statistics of {len(self.sums)} and {len(other.sums)} channels do not merge; they are of two codecs")
        if not self.count or not other.count:
            return self if self.count else other
        return LatentStatistics(
            self.count + other.count,
            tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
        )

    @property
    def mean(self) -> list[float]:
        """Of each channel; 0 of none."""
        return [float(Fraction(x, self.count * STEPS)) if self.count else 0.0 for x in self.sums]

    @property
    def std(self) -> list[float]:
        """Of each channel: the root of the mean square distance from the mean; 0 of none."""
        if not self.count:
            return [0.0] * len(self.sums)
        return [sqrt(Fraction(q * self.count - s * s, (self.count * STEPS) ** 2)) for s, q in zip(self.sums, self.squares, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Plain data, exact; with mean and std, for whoever reads the file."""
        exact = {"count": self.count, "sums": list(self.sums), "squares": list(self.squares)}
        return exact | {"lowest": self.lowest, "highest": self.highest, "mean": self.mean, "std": self.std}

    @classmethod
    def from_json(cls, data: Any) -> LatentStatistics:
        """Inverse of `to_json`; ValueError names what no statistics wrote. Mean and std are not read."""
        if not isinstance(data, Mapping):
            raise ValueError(f"statistics: {type(data).__name__} is no JSON object; {REMEDY}")
        count, sums, squares = data.get("count"), data.get("sums"), data.get("squares")
        if not isinstance(sums, list) or not isinstance(squares, list) or len(sums) != len(squares):
            raise ValueError(f"statistics: sums and squares must be two lists, of one number a channel each; {REMEDY}")
        if not isinstance(count, int) or count < 0 or any(type(x) is not int for x in (*sums, *squares)):
            raise ValueError(f"statistics: count, sums and squares must be integers; {REMEDY}")
        low, high = data.get("lowest"), data.get("highest")
        if not isinstance(low, int | float) or not isinstance(high, int | float) or not -65504 <= low <= high <= 65504:
            raise ValueError(f"statistics: lowest={str(low)[:40]}, highest={str(high)[:40]} are no 16-bit floats; {REMEDY}")
        return cls(count, tuple(sums), tuple(squares), float(low), float(high))


def _exact_sums(row_N: np.ndarray) -> tuple[int, int]:
    """Sum and sum of squares of values within 65504, in steps of 2^-24 and 2^-48."""
    total = square = 0
    for start in range(0, len(row_N), BLOCK):
        steps_N = np.rint(row_N[start : start + BLOCK].astype(np.float64) * STEPS).astype(np.int64)  # at most 40 bits
        high_N, low_N = np.divmod(steps_N, LOW)
        total += int(steps_N.sum())
        square += (int((high_N * high_N).sum()) * LOW + 2 * int((high_N * low_N).sum())) * LOW + int((low_N * low_N).sum())
    return total, square


Statistics = dict[str, LatentStatistics]
"""By modality."""


def statistics_of(video_FCHW: np.ndarray | None, audio_TC: np.ndarray | None) -> Statistics:
    """Of a clip's latents."""
    given = {"video": video_FCHW, "audio": audio_TC}
    return {name: LatentStatistics.of(x, axis=1) for name, x in given.items() if x is not None}


def merged(one: Statistics, other: Statistics) -> Statistics:
    """Of both together."""
    return {name: one[name] + other[name] if name in one and name in other else (one | other)[name] for name in sorted(one | other)}
