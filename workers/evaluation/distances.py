"""Distances between two sets of vectors, in units of the spread of the real ones: 0 of equal distributions.

Both are computed on vectors minus the real mean, over the root of the real total variance. A model that makes one average clip has a
Fréchet distance of 1, whatever the features.
"""

from __future__ import annotations

import numpy as np
import torch

from ...model.evaluation import frechet
from .clip import About, Need, NotApplicable

LEAST = 8  # vectors of a set, below which a distance says nothing
MOST = 2000  # vectors that the kernel distance compares with each other


def scaled(real_ND: np.ndarray, generated_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sets around the real mean, so that the real ones have a total variance of 1, in fp64.

    Raises:
        NotApplicable: too few vectors, or real ones that do not differ.
    """
    if min(len(real_ND), len(generated_ND)) < LEAST:
        raise NotApplicable(f"{len(real_ND)} real and {len(generated_ND)} generated vectors; needs {LEAST} of each")
    if not (np.isfinite(real_ND).all() and np.isfinite(generated_ND).all()):
        raise NotApplicable("features are not finite")
    mean = real_ND.mean(0, dtype=np.float64)
    spread = float(np.sqrt(real_ND.var(0, ddof=1, dtype=np.float64).sum()))
    if spread <= 0:
        raise NotApplicable("the real clips do not differ")
    return (real_ND - mean) / spread, (generated_ND - mean) / spread


def frechet_distance(real_ND: np.ndarray, generated_ND: np.ndarray) -> float:
    """Fréchet distance of Gaussians fitted to two sets (Dowson & Landau 1982), over the real total variance.

    It grows with the number of dimensions over the number of vectors: compare equal counts only, and with that of other real clips.

    Raises:
        NotApplicable: see `scaled`.
    """
    real, generated = scaled(real_ND, generated_ND)
    return frechet(torch.from_numpy(real), torch.from_numpy(generated))


def kernel_distance(real_ND: np.ndarray, generated_ND: np.ndarray) -> float:
    """Squared maximum mean discrepancy, unbiased, under (x.y + 1)^3 of the scaled vectors (KID, Bińkowski et al. 2018).

    Its expectation does not depend on the counts while vectors are independent, which those of one clip are not; it may fall below 0. Of
    more than 2000 vectors, as many that lie evenly among them.

    Raises:
        NotApplicable: see `scaled`.
    """
    x, y = (_thinned(v) for v in scaled(real_ND, generated_ND))
    xx, yy, xy = ((a @ b.T + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def both(names: tuple[str, str], protocol: str, needs: tuple[Need, ...]) -> tuple[About, About]:
    """What a metric with both distances says of them."""
    return (
        About(names[0], "of real variance", False, f"{protocol}; Fréchet over the real total variance", needs),
        About(names[1], "", False, f"{protocol}; unbiased MMD^2, cubic kernel", needs),
    )


def between(about: tuple[About, About], real_ND: np.ndarray, generated_ND: np.ndarray) -> dict[str, float]:
    """Both distances under their names. Raises: NotApplicable."""
    return {about[0].name: frechet_distance(real_ND, generated_ND), about[1].name: kernel_distance(real_ND, generated_ND)}


def _thinned(vectors: np.ndarray) -> np.ndarray:
    return vectors if len(vectors) <= MOST else vectors[np.linspace(0, len(vectors) - 1, MOST).round().astype(int)]
