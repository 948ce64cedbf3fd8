"""How many workers may train: equal shares, and what may be kept for them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.reading.order import rank_positions
from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.elastic.sizes import Batch, admissible, increments, reached
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.rollout_buffer import consumers_of, requests_of

BATCHES = st.lists(st.builds(Batch, st.integers(1, 96), st.integers(0, 8), st.integers(0, 12)), min_size=1, max_size=4)
SIZES = st.sets(st.integers(1, 64), min_size=1).map(sorted)


@given(BATCHES, st.integers(1, 24), st.integers(0, 24))
def test_each_size_trains_on_the_same_batch_in_equal_whole_parts_and_no_other_does(batches: list[Batch], least: int, more: int) -> None:
    """Held against what the loader and the rollout buffer do."""
    sizes, most = admissible(batches, least, least + more), least + more
    assert list(sizes) == sorted(set(sizes))
    for workers in range(least, most + 1):
        assert (workers in sizes) == all(trains(batch, workers) for batch in batches)


def trains(batch: Batch, workers: int) -> bool:
    try:
        parts = [rank_positions(0, batch.clips, rank, workers) for rank in range(workers)]
        assert [p for part in parts for p in part] == list(range(batch.clips))
        if batch.request:
            takers = consumers_of(len(parts[0]), batch.request)
            if batch.clips % batch.request == 0:
                wanted = [i for part in parts for i in requests_of(part, batch.request)]
                assert all(wanted.count(i) == takers for i in wanted)
    except ValueError:
        return False
    return not batch.micro or len(parts[0]) % batch.micro == 0


@given(SIZES, st.data())
def test_increments_lead_from_size_to_size(sizes: list[int], data: st.DataObject) -> None:
    have = data.draw(st.sampled_from([0, *sizes]))
    added = increments(sizes, have)
    assert all(n > 0 for n in added)
    assert [have + sum(added[: i + 1]) for i in range(len(added))] == [n for n in sizes if n > have]
    placed = data.draw(st.lists(st.booleans(), min_size=len(added), max_size=len(added)))
    size = reached(added, placed, have)
    assert size in (have, *sizes)
    assert size == have or all(placed[: [n for n in sizes if n > have].index(size) + 1])
    better = [now or bool(data.draw(st.booleans())) for now in placed]
    assert reached(added, better, have) >= size, "more places never mean fewer workers"


def test_what_lies_beyond_a_gap_does_not_count() -> None:
    assert reached([2, 2, 4], [True, False, True]) == 2
    assert reached([2, 2, 4], [False, True, True]) == 0
    assert reached([4], [True], have=4) == 8


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        (["workers.count=4"], (4,)),
        (["workers.count=4", "workers.min_count=4"], (4,)),
        (["workers.count=4", "workers.min_count=1"], (1, 2, 4)),
        (["workers.count=4", "workers.min_count=2"], (2, 4)),
        (["workers.count=4", "workers.min_count=1", "stages.joint.batch=12"], (1, 2, 4)),
        (["workers.count=2", "workers.min_count=1", "engine.micro_batch=2"], (1, 2)),
        (["workers.count=4", "workers.min_count=1", "rollouts.clips=2"], (1, 2, 4)),
    ],
)
def test_a_run_has_those_that_all_its_stages_share(settings: list[str], sizes: tuple[int, ...]) -> None:
    made = with_settings(recipe("tiny"), settings)
    assert made.sizes == sizes
    assert all(after > before for before, after in pairwise(made.sizes))


def test_how_many_train_changes_no_weight() -> None:
    """The hash of settings decides whether a run may go on."""
    tiny = recipe("tiny")
    assert with_settings(tiny, ["workers.count=4", "workers.min_count=1", "workers.resize_every_s=1"]).settings() == tiny.settings()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("workers.min_count=3", "workers.min_count=3: must be at most workers.count=2, or 0 for just as many"),
        ("workers.min_count=-1", "workers.min_count=-1: must be at least 0"),
        ("workers.resize_every_s=-1", r"workers.resize_every_s=-1.0: must be seconds, 0 or more"),
        ("workers.resize_every_s=.inf", r"workers.resize_every_s=inf"),
    ],
)
def test_bad_numbers_are_refused(setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}"):
        with_settings(recipe("tiny"), [setting])


def test_a_minimum_that_no_batch_allows_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"workers\.min_count=3: no number from there to 3 shares .*; lower it, change stages"):
        with_settings(recipe("tiny"), ["workers.count=4", "workers.min_count=3"])
