"""The order of training: position -> clip. One global sequence, whatever the world size, from `(seed, stage, position)` alone.

    position --> dataset, by weight --> its epoch and the place in it --> row      (visit: how often the row came before)

Shuffling is as good as it can be: an epoch is a random permutation of all rows of a dataset, drawn anew for each, not of the rows that a
buffer happens to hold. Where clips are of several lengths or shapes, batches are alike and their order is random (see `buckets`). Nothing
is kept between two positions besides the permutations of the last few epochs, so any position is found at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import gcd, lcm
from typing import Protocol

import numpy as np

from ...model.noise import position_seed
from .buckets import EPOCHS, Bucketed, Draw, alike, ranks

BLOCKS = 64  # of the mix that are kept
LONGEST = 100_000  # positions of a block of the mix


@dataclass(frozen=True)
class Rows:
    """A dataset as the order sees it. shapes: a number for each clip, the same for clips whose latents differ in length alone; lengths: of
    each clip, in chunks; weight: its share of the mix, relative to the others'.
    """

    shapes: np.ndarray
    lengths: np.ndarray
    weight: Fraction = Fraction(1)

    def __len__(self) -> int:
        return len(self.shapes)


def plain(count: int) -> Rows:
    """So many clips that are alike."""
    return Rows(np.zeros(count, np.int64), np.zeros(count, np.int64))


class _Sequence(Protocol):
    def at(self, position: int) -> tuple[int, int]: ...


class _Plain:
    """Clips that are alike: an epoch is a permutation."""

    def __init__(self, count: int, draw: Draw) -> None:
        self._count = count
        self._epoch = lru_cache(EPOCHS)(lambda epoch: draw(epoch).permutation(count))

    def at(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self._count)
        return int(self._epoch(epoch)[place]), epoch


class Order:
    """The order of a stage. batch: clips of a global batch. Datasets that hold clips of one length and shape, all the same, are mixed clip
    by clip; others batch by batch, so that each batch is alike. In a block of positions (of batches) every dataset has exactly its share,
    in a random order that is drawn anew for each block; each goes through epochs of its own.

    epochs: whether the positions of an epoch follow each other, as in one dataset of one shape; uniform: whether all clips are alike.

    Raises:
        ValueError: a dataset has no clips, or a weight cannot be had in blocks of `LONGEST`.
    """

    def __init__(self, seed: int, stage: str, sets: Sequence[Rows], batch: int = 1) -> None:
        if not sets or not all(map(len, sets)):
            raise ValueError("order: the training split has no clips; prepare more data or lower data.held_out_share")
        self._seed, self._stage, self._batch = seed, stage, batch
        shapes, lengths = (np.concatenate(each) for each in zip(*((s.shapes, s.lengths) for s in sets), strict=True))
        self.uniform = alike(shapes) and alike(lengths)
        self._unit = 1 if self.uniform else batch
        self.epochs = len(sets) == 1 and alike(shapes)
        self._first = np.cumsum([0, *map(len, sets)])
        self._sets = [self._sequence(rows, number) for number, rows in enumerate(sets)]
        self._counts = _counts([rows.weight for rows in sets])
        self._block = lru_cache(BLOCKS)(self._drawn)

    def at(self, position: int) -> tuple[int, int]:
        """(row, visit). row: the clip's number, datasets one after the other; visit: how often it came before."""
        if len(self._sets) == 1:
            return self._sets[0].at(position)
        unit, inside = divmod(position, self._unit)
        block, place = divmod(unit, sum(self._counts))
        which, earlier = self._block(block)
        chosen = int(which[place])
        number = block * self._counts[chosen] + int(earlier[place])
        row, visit = self._sets[chosen].at(number * self._unit + inside)
        return int(self._first[chosen]) + row, visit

    def batch_of(self, position: int) -> range:
        """The positions of the global batch in which this one stands."""
        start = position // self._batch * self._batch
        return range(start, start + self._batch)

    def _sequence(self, rows: Rows, number: int) -> _Sequence:
        key = ("order", self._stage) if number == 0 else ("order", self._stage, "set", number)

        def draw(*of: int | str) -> np.random.Generator:
            return np.random.default_rng(position_seed(self._seed, *key, *of))

        if alike(rows.shapes) and alike(rows.lengths):
            return _Plain(len(rows), draw)
        return Bucketed(rows.shapes, rows.lengths, self._batch, draw)

    def _drawn(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each unit of a block: its dataset, and how many units of this dataset precede it in the block."""
        rng = np.random.default_rng(position_seed(self._seed, "order", self._stage, "mix", block))
        which = rng.permutation(np.repeat(np.arange(len(self._counts)), self._counts))
        return which, ranks(which, len(self._counts))


def _counts(weights: Sequence[Fraction]) -> list[int]:
    """How often each dataset comes in a block: the smallest whole numbers that are as the weights are."""
    if min(weights) <= 0:
        raise ValueError(f"order: weight {float(min(weights)):g} of a dataset: must be above 0")
    scale = lcm(*(w.denominator for w in weights))
    whole = [int(w * scale) for w in weights]
    counts = [n // gcd(*whole) for n in whole]
    if sum(counts) > LONGEST:
        told = ", ".join(f"{float(w):g}" for w in weights)
        raise ValueError(f"order: weights {told} repeat after {sum(counts)} clips or batches, at most {LONGEST}; give fewer digits")
    return counts


def rank_positions(step: int, global_batch: int, rank: int, world: int) -> range:
    """Positions of a rank's share of the global batch of optimizer step `step`.

    Raises:
        ValueError: the ranks cannot share the batch equally; some positions would never be trained on.
    """
    local, rest = divmod(global_batch, world)
    if rest or not local:
        raise ValueError(f"order: a batch of {global_batch} clips cannot be shared by {world} ranks; make it a multiple")
    start = step * global_batch + rank * local
    return range(start, start + local)
