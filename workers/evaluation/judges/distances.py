"""Distances between what networks say of two sets of clips: Fréchet's of vectors, Kullback's and Leibler's of shares."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ....model.evaluation import frechet
from ..clip import NotApplicable


def divergence(p_C: Tensor, q_C: Tensor) -> float:
    """KL(p || q) = sum of p log(p / q) of two distributions [C], in nats; classes without a share in p count nothing."""
    tiny = torch.finfo(torch.float64).tiny
    return float(torch.where(p_C > 0, p_C * (p_C.clamp(min=tiny).log() - q_C.clamp(min=tiny).log()), 0.0).sum())


def frechet_of(real_ND: np.ndarray, generated_ND: np.ndarray) -> float:
    """The Fréchet distance of two sets of vectors, in float64. With fewer vectors than dimensions it is above that of the distributions.

    Raises:
        NotApplicable: fewer than two vectors, or vectors that are not finite.
    """
    if min(len(real_ND), len(generated_ND)) < 2:
        raise NotApplicable(f"there are {len(real_ND)} real and {len(generated_ND)} generated vectors, at least 2 of each are needed")
    if not (np.isfinite(real_ND).all() and np.isfinite(generated_ND).all()):
        raise NotApplicable("the network's features are not all finite")
    found = frechet(torch.from_numpy(real_ND).double(), torch.from_numpy(generated_ND).double())
    return max(0.0, found)  # rounding of equal sets
