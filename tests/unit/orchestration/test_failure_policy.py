"""What a failure of a rollout actor leads to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.orchestration.failure_policy import Decision, PoolStatus, decide

counts = st.integers(0, 20)


@given(counts, counts)
def test_lost_actors_are_replaced_until_the_budget_is_spent(failures: int, max_failures: int) -> None:
    decision = decide(PoolStatus(failures, lost=True), max_failures)
    assert decision is (Decision.REPLACE if failures <= max_failures else Decision.FAIL)


@given(counts, counts)
def test_an_exception_in_the_work_itself_is_never_retried(failures: int, max_failures: int) -> None:
    assert decide(PoolStatus(failures, lost=False), max_failures) is Decision.FAIL


@given(counts)
def test_any_sequence_of_losses_ends(max_failures: int) -> None:
    replaced = 0
    while decide(PoolStatus(replaced + 1, lost=True), max_failures) is Decision.REPLACE:
        replaced += 1
    assert replaced == max_failures


@given(counts, counts, st.booleans())
def test_weights_that_died_with_their_trainer_fail_no_actor(failures: int, max_failures: int, lost: bool) -> None:
    assert decide(PoolStatus(failures, lost, orphaned=True), max_failures) is Decision.WAIT
