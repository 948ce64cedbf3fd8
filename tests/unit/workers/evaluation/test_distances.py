"""Distances whose values are known: closed forms of Gaussians, equal sets, and means that are apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.workers.evaluation.clip import NotApplicable
from mutual_forcing.workers.evaluation.distances import frechet_distance, kernel_distance


def drawn(count: int, mean: np.ndarray, scales: np.ndarray, seed: int) -> np.ndarray:
    """Vectors of exactly this sample mean and of exactly these sample deviations, uncorrelated."""
    raw = np.random.default_rng(seed).standard_normal((count, len(mean)))
    raw -= raw.mean(0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return white * scales + mean


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_frechet_of_gaussians_is_the_closed_form(seed: int) -> None:
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2, over the real total variance."""
    rng = np.random.default_rng(seed)
    m1, m2, s1, s2 = rng.normal(size=4), rng.normal(size=4), rng.uniform(0.5, 2, 4), rng.uniform(0.5, 2, 4)
    expected = (np.square(m1 - m2).sum() + np.square(s1 - s2).sum()) / np.square(s1).sum()
    assert frechet_distance(drawn(50, m1, s1, seed), drawn(80, m2, s2, seed + 1)) == pytest.approx(expected, rel=1e-6)


def test_equal_sets_are_at_zero_and_one_average_clip_at_one() -> None:
    real = drawn(64, np.arange(6.0), np.arange(1.0, 7.0), 3)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(real, np.repeat(real.mean(0, keepdims=True), 64, axis=0)) == pytest.approx(1)


@given(st.floats(0.01, 100), st.integers(0, 100))
def test_units_of_the_features_do_not_matter(scale: float, seed: int) -> None:
    a, b = (np.random.default_rng([seed, i]).standard_normal((20, 3)) for i in range(2))
    for distance in (frechet_distance, kernel_distance):
        assert distance(scale * a + 7, scale * b + 7) == pytest.approx(distance(a, b), rel=1e-6, abs=1e-9)


def test_kernel_distance_is_unbiased_and_grows_with_the_distance() -> None:
    """Over many pairs of sets of one distribution its mean is 0, at 16 vectors as at 64; Fréchet's is not."""
    for count in (16, 64):
        pairs = [np.random.default_rng([count, i]).standard_normal((2, count, 4)) for i in range(300)]
        kernel = np.array([kernel_distance(a, b) for a, b in pairs])
        assert abs(kernel.mean()) < 4 * kernel.std() / np.sqrt(len(kernel))
        assert np.mean([frechet_distance(a, b) for a, b in pairs[:50]]) > 0.02
    a, b = np.random.default_rng(5).standard_normal((2, 200, 4))
    assert kernel_distance(a, b) < kernel_distance(a, b + 0.5) < kernel_distance(a, b + 1)


def test_of_many_vectors_some_are_compared() -> None:
    a, b = np.random.default_rng(6).standard_normal((2, 5000, 2))
    assert abs(kernel_distance(a, b)) < 0.01


@pytest.mark.parametrize(
    ("real", "made", "why"),
    [
        (np.zeros((7, 2)), np.zeros((9, 2)), "7 real and 9 generated vectors; needs 8"),
        (np.ones((9, 2)), np.zeros((9, 2)), "do not differ"),
        (np.eye(9), np.full((9, 9), np.nan), "not finite"),
    ],
)
def test_too_little_is_no_number(real: np.ndarray, made: np.ndarray, why: str) -> None:
    with pytest.raises(NotApplicable, match=why):
        frechet_distance(real, made)
