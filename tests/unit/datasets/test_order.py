"""The order of training: one global sequence for any number of ranks, each epoch all clips once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.order import rank_positions, sample_at

SEED, STAGE = st.integers(0, 2**31), st.sampled_from(["joint", "mutual", "dmd"])
GOLDEN = [(4, 0), (3, 0), (1, 0), (2, 0), (0, 0), (4, 1), (1, 1)]


@given(world=st.integers(1, 12), local=st.integers(1, 9), first=st.integers(0, 10**9), steps=st.integers(1, 5))
def test_ranks_together_walk_through_all_positions_in_order(world, local, first, steps):
    batch = world * local
    walked = [p for step in range(first, first + steps) for rank in range(world) for p in rank_positions(step, batch, rank, world)]
    assert walked == list(range(first * batch, (first + steps) * batch))


@given(seed=SEED, stage=STAGE, samples=st.integers(1, 40), batch=st.sampled_from([12, 24]))
def test_any_number_of_ranks_trains_on_the_same_clips(seed, stage, samples, batch):
    def sequence(world: int) -> list[tuple[int, int]]:
        positions = [p for step in range(3) for rank in range(world) for p in rank_positions(step, batch, rank, world)]
        return [sample_at(seed, stage, p, samples) for p in positions]

    assert all(sequence(world) == sequence(1) for world in (2, 3, 4, 6, 12))


@given(seed=SEED, stage=STAGE, samples=st.integers(1, 60), epoch=st.integers(0, 10**6))
def test_an_epoch_is_a_permutation(seed, stage, samples, epoch):
    drawn = [sample_at(seed, stage, epoch * samples + i, samples) for i in range(samples)]
    assert sorted(index for index, _ in drawn) == list(range(samples))
    assert {visit for _, visit in drawn} == {epoch}


def test_epochs_stages_and_seeds_differ():
    def epoch(seed: int, stage: str, number: int) -> tuple[int, ...]:
        return tuple(sample_at(seed, stage, 100 * number + i, 100)[0] for i in range(100))

    assert len({epoch(s, stage, n) for s in (0, 1) for stage in ("joint", "mutual") for n in (0, 1, 2)}) == 12


def test_the_order_is_this_one_on_any_machine():
    assert [sample_at(7, "joint", p, 5) for p in range(7)] == GOLDEN


@pytest.mark.parametrize(("batch", "world"), [(7, 2), (3, 4), (0, 1)])
def test_a_batch_that_cannot_be_shared_is_refused(batch, world):
    with pytest.raises(ValueError, match="cannot be shared"):
        rank_positions(0, batch, 0, world)


def test_no_clips_is_named():
    with pytest.raises(ValueError, match="no clips"):
        sample_at(0, "joint", 0, 0)
