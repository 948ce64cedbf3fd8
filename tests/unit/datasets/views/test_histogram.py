"""Bins of round numbers that hold every value once."""

from __future__ import annotations

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.views.histogram import histogram


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_every_value_lies_in_one_bin_and_the_bins_reach_no_further_than_needed(values: list[float]) -> None:
    found = histogram(values)
    assert found is not None
    assert found.values == len(values)
    slack = found.step * 1e-6
    assert found.low - slack <= min(values) <= max(values) <= found.high + slack
    assert found.counts[0]
    assert 1 <= len(found.counts) <= 26
    assert (found.smallest, found.largest) == (min(values), max(values))


def test_bins_are_round_numbers() -> None:
    found = histogram([0.0, 3.0, 9.9, 10.0], bins=5)
    assert found is not None
    assert (found.low, found.step, found.counts) == (0.0, 2.0, (1, 1, 0, 0, 2))
    same = histogram([2.5, 2.5])
    assert same is not None
    assert (same.low, same.step, same.counts) == (2.0, 1.0, (2,))


@pytest.mark.parametrize("values", [[], [nan], [inf, -inf]])
def test_nothing_has_no_histogram(values: list[float]) -> None:
    assert histogram(values) is None
