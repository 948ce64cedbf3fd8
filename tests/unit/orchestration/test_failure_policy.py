"""What a failure of a rollout actor, or of the training, leads to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError

from mutual_forcing.orchestration.failure_policy import (
    Decision,
    Failure,
    PoolStatus,
    Verdict,
    curable,
    decide,
    decide_run,
    summary,
)

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


# --- the training itself ----------------------------------------------------------------------------------------------------


def lost(*at: float, last_curable: bool = True, progress: bool = True) -> list[Failure]:
    made = [Failure(t, "ActorDiedError: gone", True, i if progress else 0) for i, t in enumerate(at)]
    return [*made[:-1], replace(made[-1], curable=last_curable)]


@pytest.mark.parametrize(
    ("failures", "verdict"),
    [
        (lost(0.0), Verdict.RESTART),
        (lost(0.0, 1.0), Verdict.RESTART),
        (lost(0.0, 1.0, 2.0), Verdict.STOP),
        (lost(0.0, 1.0, 200.0), Verdict.RESTART),  # the first two are long ago
        (lost(0.0, 150.0, 200.0, 240.0), Verdict.STOP),
        (lost(*[101.0 * i for i in range(50)]), Verdict.RESTART),  # a long run on machines that come and go
        (lost(*[101.0 * i for i in range(3)], progress=False), Verdict.STOP),  # a slow crash loop: no checkpoint between them
        (lost(0.0, last_curable=False), Verdict.STOP),
    ],
)
def test_restarts_are_counted_by_time_and_only_where_they_may_help(failures: list[Failure], verdict: Verdict) -> None:
    assert decide_run(failures, 2, 100.0) is verdict


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (ActorDiedError(), True),
        (RuntimeError("Connection closed by peer [127.0.0.1]:4321"), True),
        (ConnectionResetError(), True),
        (MemoryError(), True),
        (FileNotFoundError("data"), False),
        (ValueError("checkpoint: made with another model"), False),
        (FloatingPointError("5 steps in a row"), False),
        (AssertionError(), False),
        (TypeError(), False),
        (NotImplementedError(), False),
    ],
)
def test_what_another_start_may_cure(error: Exception, helps: bool) -> None:
    assert curable(error) is helps


def test_a_crash_loop_ends_with_all_its_causes() -> None:
    failures = [Failure(0.0, "a", True, 0), Failure(500.0, "b", True, 1), Failure(510.0, "c", True, 2), Failure(520.0, "b", True, 3)]
    assert summary(failures, 100.0) == "training failed 3 times within 20 s: 2 x b; c"
    assert summary(failures[:1], 100.0) == "a"
