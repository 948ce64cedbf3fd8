"""The order of training: position -> sample. One global sequence, whatever the world size, from `(seed, stage, position)` alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..model.noise import position_seed


@lru_cache(maxsize=8)
def _permutation(seed: int, stage: str, epoch: int, samples: int) -> np.ndarray:
    return np.random.default_rng(position_seed(seed, "order", stage, epoch)).permutation(samples)


def sample_at(seed: int, stage: str, position: int, samples: int) -> tuple[int, int]:
    """(index of the sample, visit): position p stands in epoch p // samples, and an epoch is a permutation of all samples.

    Raises:
        ValueError: there are no samples.
    """
    if samples < 1:
        raise ValueError("order: the training split has no clips; prepare more data or lower data.held_out_share")
    epoch, place = divmod(position, samples)
    return int(_permutation(seed, stage, epoch, samples)[place]), epoch


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
