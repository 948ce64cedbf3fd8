"""What a failure of a rollout actor, or of the training, leads to."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
)
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from mutual_forcing.orchestration.failure_policy import (
    PAUSES,
    Decision,
    Failure,
    PoolStatus,
    Verdict,
    curable,
    decide,
    decide_run,
    pause_s,
    summary,
    told,
)
from mutual_forcing.workers.notice import TakenBack

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


def taken(*steps: int) -> list[Failure]:
    return [Failure(float(i), "TakenBack: spot", True, at, taken=True) for i, at in enumerate(steps)]


@pytest.mark.parametrize(
    ("failures", "verdict"),
    [
        (taken(*range(50)), Verdict.RESTART),  # one a second, each after a step more
        (taken(7, 7, 7), Verdict.RESTART),
        (taken(7, 7, 7, 7), Verdict.STOP),  # not for ever: no checkpoint between them
        ([*taken(*range(50)), Failure(50.0, "lost", True, 50)], Verdict.RESTART),  # those use up nothing of what failures may
        ([*lost(0.0, 1.0), Failure(2.0, "TakenBack: spot", True, 2, taken=True)], Verdict.RESTART),
        ([*lost(0.0, 1.0), *taken(1), Failure(2.0, "lost", True, 2)], Verdict.STOP),
    ],
)
def test_machines_that_are_taken_back_are_counted_apart(failures: list[Failure], verdict: Verdict) -> None:
    assert decide_run(failures, 2, 100.0) is verdict


def test_where_no_failure_is_allowed_a_machine_may_still_be_taken_back() -> None:
    assert decide_run(taken(7), 0, 100.0) is Verdict.RESTART
    assert decide_run(taken(7, 7), 0, 100.0) is Verdict.STOP


@given(st.lists(st.booleans(), min_size=20, max_size=20), st.integers(0, 8))
def test_any_sequence_of_failures_without_a_checkpoint_between_them_ends(kinds: list[bool], most: int) -> None:
    failures: list[Failure] = []
    for i, kind in enumerate(kinds):
        failures.append(Failure(1e6 * i, "lost", True, 3, taken=kind))
        if decide_run(failures, most, 1.0) is Verdict.STOP:
            break
    assert len(failures) <= 2 * most + 2


@pytest.mark.parametrize(
    ("error", "helps"),
    [
        (ActorDiedError(), True),
        (OutOfMemoryError("Task was killed due to the node running low on memory"), True),
        (ObjectStoreFullError("Failed to put object"), True),
        (OutOfDiskError("Local disk is full"), True),
        (NodeDiedError("its raylet is gone"), True),
        (ActorUnavailableError("the connection broke", None), True),
        (WorkerHealthCheckFailedError("A worker health check failed", ActorDiedError()), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EFBIG, "File too large"), True),
        (torch.OutOfMemoryError("no room"), False),  # of a GPU: the same step meets it again
        (TakenBack("a machine is taken back"), True),
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


def test_memory_of_a_gpu_names_what_to_set() -> None:
    text = told(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate" + 900 * " 20 GiB"))
    assert text.startswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB")
    for setting in ("engine.micro_batch", "engine.offload=optimizer", "engine.zero_stage", "execution.checkpoint_every"):
        assert setting in text
    assert told(ValueError("a\nb")) == "ValueError: a b"


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [
        (lost(0.0), 0.0),
        (lost(*range(9)), 0.0),  # each after a checkpoint more
        (lost(0.0, 1.0, progress=False), 10.0),
        (lost(0.0, 50.0, 9000.0, progress=False), 30.0),
        ([*lost(0.0, 1.0, 2.0), Failure(3.0, "lost", True, 2)], 10.0),
        (taken(*range(50)), 0.0),
        (taken(7, 7), 10.0),
        ([*lost(0.0, 1.0, progress=False), *taken(0)], 0.0),
    ],
)
def test_the_pause_before_another_start_grows_while_nothing_is_gained(failures: list[Failure], seconds: float) -> None:
    assert pause_s(failures) == seconds


@given(st.integers(1, 40))
def test_pauses_never_shrink_and_have_a_bound(count: int) -> None:
    pauses = [pause_s(lost(*range(n), progress=False)) for n in range(1, count + 1)]
    assert pauses == sorted(pauses)
    assert pauses[-1] <= max(PAUSES) == 300


def test_a_crash_loop_ends_with_all_its_causes() -> None:
    failures = [Failure(0.0, "a", True, 0), Failure(500.0, "b", True, 1), Failure(510.0, "c", True, 2), Failure(520.0, "b", True, 3)]
    assert summary(failures, 100.0) == "training failed 3 times within 20 s: 2 x b; c"
    assert summary(failures[:1], 100.0) == "a"
