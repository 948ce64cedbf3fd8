"""What is broken when: by the seed alone, within the time, apart from each other, every kind in turn."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.orchestration.chaos.schedule import ENDS_ATTEMPT, FREEZE, FROZEN, KILLS, KINDS, SECONDS, schedule

SOME = st.lists(st.sampled_from(KINDS), min_size=1, unique=True)


@given(st.integers(0, 2**32), st.floats(1, 120), SOME, st.floats(5, 30), st.integers(0, 20))
def test_events_are_in_time_and_apart_and_the_same_for_the_same_seed(seed: int, minutes: float, kinds: list, gap: float, ends: int) -> None:
    events = schedule(seed, minutes, kinds, gap, ends)
    assert events == schedule(seed, minutes, kinds[::-1], gap, ends)
    assert all(gap - 0.05 <= e.at_s <= minutes * 60 - gap + 0.05 for e in events)
    assert all(gap - 0.11 <= b.at_s - a.at_s <= 2 * gap + 0.11 for a, b in pairwise(events))
    assert {e.kind for e in events} <= set(kinds)
    assert sum(e.kind in ENDS_ATTEMPT for e in events) <= ends
    for e in events:
        low, high = SECONDS.get(e.kind, (0, 0))
        assert low <= e.seconds <= high
        assert (e.of in FROZEN) == (e.kind == FREEZE)
    if set(kinds) - set(ENDS_ATTEMPT):
        assert events, "there is always time for the first"
        last = events[-1].at_s
        assert minutes * 60 - gap < last + 2 * gap + 0.1, "and no time is left without one"


@given(st.integers(0, 2**32), SOME)
def test_every_kind_comes_once_before_any_comes_again(seed: int, kinds: list) -> None:
    events = schedule(seed, 60, kinds, 20, ends=1000)
    counts = Counter(e.kind for e in events)
    assert set(counts) == set(kinds)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_another_seed_is_another_schedule() -> None:
    assert len({schedule(seed, 30, KINDS, 20, 3) for seed in range(20)}) == 20


def test_an_event_says_what_it_does() -> None:
    said = {str(e).split(" for ")[0] for e in schedule(0, 120, KINDS, 10, 1000)}
    assert said == {*(f"kill {kind}" for kind in KILLS), *(f"freeze {whom}" for whom in FROZEN), "s3", "tracker", "media"}


@pytest.mark.parametrize(
    ("minutes", "kinds", "gap", "words"),
    [
        (10, ["fire"], 20, "--kinds='fire': unknown"),
        (10, [], 20, "names none"),
        (1, KINDS, 60, "at least 2 minutes"),
        (1, KINDS, 0, "--gap=0"),
        (1, KINDS, 1e-9, "--gap=1e-09: must be seconds, from 1 to"),
        (math.inf, KINDS, 20, "--minutes=inf: must be more than 0, and at most 10080"),
        (math.nan, KINDS, 20, "--minutes=nan"),
        (1e6, KINDS, 20, "--minutes=1e\\+06"),
        (10, KINDS, math.inf, "--gap=inf"),
    ],
)
def test_wrong_words_are_refused(minutes: float, kinds: list, gap: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        schedule(0, minutes, kinds, gap, 3)
