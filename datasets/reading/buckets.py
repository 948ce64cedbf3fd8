"""Epochs of a dataset whose clips are not alike, in batches that are: what a batch holds has one shape, and as far as possible one length.

    clips of a shape, an epoch after the other          (a group: a sequence of its own, cut into batches without regard to epochs)
        begun batch of the epoch before: filled up with clips of any length
        batches of one length, in random order          (clips of a length in the order of a random permutation of all clips)
        clips left over by the lengths, shorter ones first: batches of several lengths; the last one ends in the next epoch
    groups, in random order within each epoch of the dataset

Every clip of a group comes exactly once in each epoch of its group. A group's epoch ends with a batch that may reach into the next one, so
epochs of groups end apart, by less than a batch, and in the long run each has the share of batches that it has of clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

EPOCHS = 4  # that are kept: those around the position, and the one that others ask for
Draw = Callable[..., np.random.Generator]
"""Random numbers of an epoch: all arguments are part of the seed."""


class Group:
    """Clips of one shape as an endless sequence. rows: their numbers; lengths: of each, in chunks; draw: of the epoch that is its key."""

    def __init__(self, rows: np.ndarray, lengths: np.ndarray, batch: int, draw: Draw) -> None:
        self._rows, self._lengths, self._batch, self._draw = rows, lengths, batch, draw
        self._epoch = lru_cache(EPOCHS)(self._made)

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, position: int) -> tuple[int, int]:
        """(row, epoch of the group)."""
        epoch, place = divmod(position, len(self))
        return int(self._epoch(epoch)[place]), epoch

    def _made(self, epoch: int) -> np.ndarray:
        rng, batch = self._draw(epoch), self._batch
        order = rng.permutation(len(self))
        by_length = [order[self._lengths[order] == length] for length in np.unique(self._lengths)]
        whole = [part[i : i + batch] for part in by_length for i in range(0, len(part) - batch + 1, batch)]
        left = [part[len(part) // batch * batch :] for part in by_length]
        whole = [whole[i] for i in rng.permutation(len(whole))]
        begun = -epoch * len(self) % batch  # clips that the batch lacks which the epoch before began
        if sum(map(len, left)) < min(begun, len(self)):
            left.append(whole.pop())
        mixed = np.concatenate(left)
        cut = max(0, len(mixed) - begun)  # the longest go to the batch that was begun with the longest
        return self._rows[np.concatenate([mixed[cut:], *whole, mixed[:cut]])]


class Bucketed:
    """A dataset's groups as one endless sequence of batches."""

    def __init__(self, shapes: np.ndarray, lengths: np.ndarray, batch: int, draw: Draw) -> None:
        kinds = np.unique(shapes)
        members = [np.flatnonzero(shapes == kind) for kind in kinds]
        self._groups = [Group(rows, lengths[rows], batch, _within(draw, i)) for i, rows in enumerate(members)]
        self._batch, self._draw, self._clips = batch, draw, len(shapes)
        self._epoch = lru_cache(EPOCHS)(self._made)

    def at(self, position: int) -> tuple[int, int]:
        """(row, epoch of its group)."""
        number, inside = divmod(position, self._batch)
        epoch = self._epoch_of(number)
        groups, places = self._epoch(epoch)
        place = number - self._batches(epoch)
        group = self._groups[groups[place]]
        first = epoch * len(group) // self._batch + places[place]
        return group.at(int(first) * self._batch + inside)

    def _batches(self, epochs: int) -> int:
        """That so many epochs complete."""
        return sum(epochs * len(group) // self._batch for group in self._groups)

    def _epoch_of(self, number: int) -> int:
        """The epoch in which a batch stands: the last that begins at it or before."""
        low, high = number * self._batch // self._clips, (number + len(self._groups)) * self._batch // self._clips + 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._batches(middle) <= number else (low, middle - 1)
        return low

    def _made(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each batch of the epoch: its group, and which of the group's batches in this epoch it is."""
        sizes = [(epoch + 1) * len(g) // self._batch - epoch * len(g) // self._batch for g in self._groups]
        groups = self._draw("groups", epoch).permutation(np.repeat(np.arange(len(sizes)), sizes))
        return groups, ranks(groups, len(sizes))


def ranks(kinds: np.ndarray, count: int) -> np.ndarray:
    """Of each place, how many before it are of the same kind, of `count` kinds."""
    found = np.empty(len(kinds), np.int64)
    for kind in range(count):
        where = np.flatnonzero(kinds == kind)
        found[where] = np.arange(len(where))
    return found


def alike(values: Sequence[int] | np.ndarray) -> bool:
    """Whether there is no other than the first."""
    return bool(np.all(np.asarray(values) == values[0]))


def _within(draw: Draw, group: int) -> Draw:
    return lambda *key: draw("group", group, *key)
