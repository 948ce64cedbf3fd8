"""Statistics of latents: exact, whatever the order, up to the largest 16-bit float."""

from __future__ import annotations

import json
from fractions import Fraction
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mutual_forcing.datasets.format import statistics
from mutual_forcing.datasets.format.statistics import LatentStatistics

FINITE = 0x7C00  # bit patterns of a sign
CLIPS = st.lists(hnp.arrays(np.int64, (3, 4, 2), elements=st.integers(0, 2 * FINITE - 1)), min_size=1, max_size=5).map(
    lambda clips: [((bits // FINITE << 15) + bits % FINITE).astype(np.uint16).view(np.float16) for bits in clips]
)


def fractions_of(values: np.ndarray) -> list[Fraction]:
    return [Fraction(float(x)) for x in values.ravel()]


@given(CLIPS, st.randoms())
def test_any_order_and_grouping_gives_the_true_sums(clips: list[np.ndarray], random_) -> None:
    parts = [LatentStatistics.of(clip, axis=1) for clip in clips]
    random_.shuffle(parts)
    while len(parts) > 1:  # merge two that happen to stand beside each other
        i = random_.randrange(len(parts) - 1)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    found, whole = parts[0], np.concatenate(clips)
    assert found == LatentStatistics.of(whole, axis=1)
    for c in range(4):
        values = fractions_of(whole[:, c])
        mean = sum(values) / len(values)
        assert found.mean[c] == float(mean)
        assert found.std[c] == sqrt(sum((x - mean) ** 2 for x in values) / len(values))
    assert (found.lowest, found.highest) == (float(whole.min()), float(whole.max()))


def test_sums_are_exact_where_a_float_would_lose_the_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "BLOCK", 1000)
    values = np.full((2, 5001), 65504, np.float16)
    values[1] = 2.0**-24  # the smallest one there is
    values[0, 0] = -(2.0**-24)
    found = LatentStatistics.of(values, axis=0)
    assert found.sums == (5000 * 65504 * 2**24 - 1, 5001)
    assert found.squares == (5000 * (65504 * 2**24) ** 2 + 1, 5001)


def test_a_full_block_of_the_largest_value_does_not_overflow() -> None:
    found = LatentStatistics.of(np.full((1, statistics.BLOCK), -65504, np.float16), axis=0)
    assert found.squares == (statistics.BLOCK * (65504 * 2**24) ** 2,)


def test_nothing_is_neutral() -> None:
    some = LatentStatistics.of(np.array([[1, 2], [3, 5]], np.float16), axis=1)
    assert LatentStatistics.none(2) + some == some + LatentStatistics.none(2) == some
    assert LatentStatistics.none(2).mean == LatentStatistics.none(2).std == [0.0, 0.0]
    assert LatentStatistics.of(np.zeros((0, 2), np.float16), axis=1) == LatentStatistics.none(2)


@given(CLIPS)
def test_json_brings_them_back(clips: list[np.ndarray]) -> None:
    found = LatentStatistics.of(np.concatenate(clips), axis=1)
    assert LatentStatistics.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 1.0}, "must be integers"),
        ({"count": -1}, "must be integers"),
        ({"sums": [1.0, 2]}, "must be integers"),
        ({"sums": [1]}, "must be two lists"),
        ({"squares": None}, "must be two lists"),
        ({"lowest": float("nan")}, "are no 16-bit floats"),
        ({"highest": "1"}, "are no 16-bit floats"),
    ],
)
def test_what_no_statistics_wrote_is_refused(change: dict, message: str) -> None:
    data = LatentStatistics.of(np.array([[1, 2]], np.float16), axis=1).to_json()
    with pytest.raises(ValueError, match=message):
        LatentStatistics.from_json(data | change)
    with pytest.raises(ValueError, match="no JSON object"):
        LatentStatistics.from_json([data])


def test_what_a_shard_does_not_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="float32, statistics are of 16-bit floats"):
        LatentStatistics.of(np.zeros((2, 2), np.float32), axis=1)
    with pytest.raises(ValueError, match="not all values are finite"):
        LatentStatistics.of(np.array([[np.inf]], np.float16), axis=1)
    with pytest.raises(ValueError, match="two codecs"):
        _ = LatentStatistics.none(2) + LatentStatistics.none(3)
