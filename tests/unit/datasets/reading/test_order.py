"""The order of training: one global sequence for any number of ranks, each epoch all clips once, whatever the clips are like."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.datasets.reading.order import Order, Rows, plain, rank_positions

SEED, STAGE = st.integers(0, 2**31), st.sampled_from(["joint", "mutual", "dmd"])
GOLDEN = [(4, 0), (3, 0), (1, 0), (2, 0), (0, 0), (4, 1), (1, 1)]
BATCHES = st.integers(1, 7)


@st.composite
def clips(draw: st.DrawFn, shapes: int = 3, lengths: int = 4, most: int = 50) -> Rows:
    """A dataset of clips of several shapes and lengths."""
    count = draw(st.integers(1, most))
    one, two = (np.array(draw(st.lists(st.integers(1, n), min_size=count, max_size=count))) for n in (shapes, lengths))
    return Rows(one, two)


def drawn(order: Order, first: int, count: int) -> list[tuple[int, int]]:
    return [order.at(p) for p in range(first, first + count)]


@given(world=st.integers(1, 12), local=st.integers(1, 9), first=st.integers(0, 10**9), steps=st.integers(1, 5))
def test_ranks_together_walk_through_all_positions_in_order(world, local, first, steps):
    batch = world * local
    walked = [p for step in range(first, first + steps) for rank in range(world) for p in rank_positions(step, batch, rank, world)]
    assert walked == list(range(first * batch, (first + steps) * batch))


@given(seed=SEED, stage=STAGE, rows=clips(), other=clips(), two=st.booleans(), first=st.integers(0, 999), batch=st.sampled_from([12, 24]))
@settings(max_examples=50)
def test_any_number_of_ranks_from_any_step_on_sees_the_same_clips(seed, stage, rows, other, two, first, batch):
    """Each rank begins anew, as after a kill, with what its positions give."""
    sets = [rows, other] if two else [rows]

    def sequence(world: int) -> list[tuple[int, int]]:
        found = []
        for step in range(first, first + 2):
            for rank in range(world):
                order = Order(seed, stage, sets, batch)
                found += [order.at(p) for p in rank_positions(step, batch, rank, world)]
        return found

    whole = drawn(Order(seed, stage, sets, batch), 0, (first + 2) * batch)[first * batch :] if first < 20 else sequence(1)
    assert all(sequence(world) == whole for world in (1, 2, 3, 4, 6, 12))


@given(seed=SEED, stage=STAGE, samples=st.integers(1, 60), epoch=st.integers(0, 10**6), batch=BATCHES)
def test_an_epoch_of_clips_that_are_alike_is_a_permutation(seed, stage, samples, epoch, batch):
    order = Order(seed, stage, [plain(samples)], batch)
    found = drawn(order, epoch * samples, samples)
    assert sorted(index for index, _ in found) == list(range(samples))
    assert {visit for _, visit in found} == {epoch}
    assert order.epochs
    assert order.uniform


@given(seed=SEED, rows=clips(shapes=1), batch=BATCHES, epoch=st.integers(0, 10**6))
def test_an_epoch_of_clips_of_several_lengths_is_a_permutation_too(seed, rows, batch, epoch):
    found = drawn(Order(seed, "joint", [rows], batch), epoch * len(rows), len(rows))
    assert sorted(index for index, _ in found) == list(range(len(rows)))
    assert {visit for _, visit in found} == {epoch}


@given(seed=SEED, rows=clips(), batch=BATCHES)
def test_nothing_is_lost_or_doubled_where_shapes_differ(seed, rows, batch):
    """Visits of a clip are 0, 1, 2 ... in order, and clips of a shape are never more than a visit apart."""
    order, seen, epochs = Order(seed, "joint", [rows], batch), [list[int]() for _ in range(len(rows))], 5
    steps = epochs * len(rows) // batch
    for row, visit in drawn(order, 0, steps * batch):
        seen[row].append(visit)
    for kind in set(rows.shapes.tolist()):
        visits = [seen[i] for i in np.flatnonzero(rows.shapes == kind)]
        assert all(v == list(range(len(v))) for v in visits)
        counts = {len(v) for v in visits}
        assert max(counts) - min(counts) <= 1
        share = sum(map(len, visits)) / (steps * batch or 1) - len(visits) / len(rows)
        assert abs(share) * steps <= 2 + len(set(rows.shapes.tolist()))  # batches more or less than its share of clips


@given(seed=SEED, rows=clips(), batch=BATCHES)
def test_a_batch_has_one_shape_and_mostly_one_length(seed, rows, batch):
    order, epochs = Order(seed, "joint", [rows], batch), 4
    steps = epochs * len(rows) // batch
    mixed = Counter[int]()
    for step in range(steps):
        found = [order.at(p) for p in range(step * batch, (step + 1) * batch)]
        (shape,) = {int(rows.shapes[row]) for row, _ in found}
        mixed[shape] += len({int(rows.lengths[row]) for row, _ in found}) > 1
    for shape in set(rows.shapes.tolist()):
        of = Counter(rows.lengths[rows.shapes == shape].tolist())
        left = sum(n % batch for n in of.values()) + batch  # a whole batch may be broken up to fill one that was begun
        assert mixed[shape] <= epochs * (left // batch + 1)


@given(seed=SEED, rows=clips(), other=clips(), batch=BATCHES, first=st.integers(0, 10**6))
def test_a_batch_of_a_mix_is_of_one_dataset_unless_all_clips_are_alike(seed, rows, other, batch, first):
    order = Order(seed, "joint", [rows, other], batch)
    shapes = np.concatenate([rows.shapes, other.shapes])
    for step in range(first, first + (0 if order.uniform else 20)):
        found = [order.at(p)[0] for p in range(step * batch, (step + 1) * batch)]
        assert len({(row < len(rows), int(shapes[row])) for row in found}) == 1


def test_lengths_come_in_random_order():
    """Batches of a length do not stand together, and rows of a length are not always together."""
    rows = Rows(np.zeros(400, np.int64), np.repeat([1, 2], 200))
    order = Order(0, "joint", [rows], 4)
    lengths = [int(rows.lengths[order.at(4 * step)[0]]) for step in range(100)]
    changes = sum(a != b for a, b in pairwise(lengths))
    assert 30 < changes < 70
    at = [next(p for p in range(first, first + 400) if order.at(p)[0] == 7) for first in (0, 400)]
    partners = [{order.at(p)[0] for p in order.batch_of(place)} for place in at]
    assert len(partners[0] & partners[1]) < 4


WEIGHTS = st.lists(st.integers(1, 9).map(lambda n: Fraction(n, 10)), min_size=2, max_size=4)


@given(seed=SEED, weights=WEIGHTS, first=st.integers(0, 10**6), alike=st.booleans(), batch=BATCHES)
@settings(max_examples=50)
def test_shares_follow_the_weights_and_each_dataset_keeps_its_epochs(seed, weights, first, alike, batch):
    """In any window the count of each dataset is its share, to within what a block at either end can hold."""
    sizes = range(3, 3 + len(weights))
    sets = [Rows(np.full(n, 0 if alike else n), np.zeros(n, np.int64), w) for n, w in zip(sizes, weights, strict=True)]
    order, unit = Order(seed, "joint", sets, batch), 1 if alike else batch
    edges = np.cumsum([0, *sizes])
    window = drawn(order, first * unit, 300 * unit)
    for i, weight in enumerate(weights):
        mine = [(row - edges[i], visit) for row, visit in window if edges[i] <= row < edges[i + 1]]
        share = float(weight / sum(weights)) * 300
        assert abs(len(mine) / unit - share) <= 2 * int(10 * weight)
        by_visit = Counter(mine)
        assert max(by_visit.values(), default=1) == 1
        visits = Counter(visit for _, visit in mine)
        assert all(n == sizes[i] for v, n in visits.items() if min(visits) < v < max(visits))


def test_a_block_of_the_mix_has_exactly_the_shares_and_blocks_differ():
    order = Order(3, "joint", [replace(plain(5), weight=Fraction(w)) for w in ("0.7", "0.2", "0.1")])
    blocks = [tuple(order.at(p)[0] // 5 for p in range(10 * b, 10 * b + 10)) for b in range(20)]
    assert all(Counter(b) == {0: 7, 1: 2, 2: 1} for b in blocks)
    assert len(set(blocks)) > 10


def test_epochs_stages_and_seeds_differ():
    def epoch(seed: int, stage: str, number: int) -> tuple[int, ...]:
        return tuple(Order(seed, stage, [plain(100)]).at(100 * number + i)[0] for i in range(100))

    assert len({epoch(s, stage, n) for s in (0, 1) for stage in ("joint", "mutual") for n in (0, 1, 2)}) == 12


@pytest.mark.parametrize("batch", [1, 4])
def test_the_order_is_this_one_on_any_machine(batch):
    assert drawn(Order(7, "joint", [plain(5)], batch), 0, 7) == GOLDEN


@pytest.mark.parametrize(("batch", "world"), [(7, 2), (3, 4), (0, 1)])
def test_a_batch_that_cannot_be_shared_is_refused(batch, world):
    with pytest.raises(ValueError, match="cannot be shared"):
        rank_positions(0, batch, 0, world)


def test_no_clips_and_weights_that_cannot_be_had_are_named():
    with pytest.raises(ValueError, match="no clips"):
        Order(0, "joint", [plain(0)])
    one = np.zeros(1, np.int64)
    for weight, reason in ((Fraction(0), "above 0"), (Fraction("0.123456789"), "fewer digits")):
        with pytest.raises(ValueError, match=reason):
            Order(0, "joint", [plain(2), Rows(one, one, weight)])
