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
    Pace,
    PoolStatus,
    Trouble,
    Verdict,
    curable,
    decide,
    decide_run,
    pause_s,
    summary,
    told,
    wanted_actors,
)
from mutual_forcing.workers.notice import TakenBack

counts = st.integers(0, 20)
REPLACED = (Trouble.LOST, Trouble.SILENT, Trouble.BROKEN)


@given(st.sampled_from(REPLACED), counts, counts)
def test_actors_are_replaced_until_too_many_end_one_after_the_other(trouble: Trouble, failures: int, max_failures: int) -> None:
    decision = decide(PoolStatus(trouble, failures), max_failures)
    assert decision is (Decision.REPLACE if failures <= max_failures else Decision.FAIL)


@given(counts, st.integers(2, 20), counts)
def test_work_that_breaks_on_two_actors_is_not_tried_on_a_third(failures: int, repeats: int, max_failures: int) -> None:
    assert decide(PoolStatus(Trouble.BROKEN, failures, repeats), max_failures) is Decision.FAIL


@given(counts, counts, counts)
def test_weights_that_are_gone_are_published_again_a_few_times(failures: int, repeats: int, max_failures: int) -> None:
    decision = decide(PoolStatus(Trouble.NO_WEIGHTS, failures, repeats), max_failures)
    assert decision is (Decision.REPUBLISH if repeats <= max_failures else Decision.FAIL)


@given(st.lists(st.sampled_from([*REPLACED, "served"]), max_size=200), counts)
def test_any_sequence_of_losses_without_a_rollout_between_them_ends(events: list[Trouble | str], max_failures: int) -> None:
    """And one with rollouts between them does not, however long it is."""
    failures = streak = 0
    for event in events:
        if event == "served":
            failures = streak = 0
            continue
        failures, streak = failures + 1, streak + 1
        assert isinstance(event, Trouble)
        if decide(PoolStatus(event, failures), max_failures) is Decision.FAIL:
            assert streak == max_failures + 1
            return
    assert streak <= max_failures


# --- how long a request may take ---------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 100.0), max_size=100), st.floats(1.1, 10.0))
def test_a_deadline_follows_the_pace_and_never_exceeds_the_first_one(seconds: list[float], factor: float) -> None:
    pace = Pace(first=60.0, factor=factor)
    for x in seconds:
        pace = pace.after(x)
    assert 0 < pace.deadline <= 60.0
    if len(seconds) < Pace.ENOUGH:
        assert pace.deadline == pace.silence == 60.0
    else:
        recent = sorted(seconds[-Pace.KEPT :])
        late = sum(x > pace.deadline for x in recent)
        assert late <= 0.05 * len(recent) or max(recent) > 60.0, "what nearly all take is not late"
        assert pace.silence >= pace.deadline


def test_one_slow_request_in_many_is_late() -> None:
    pace = Pace(60.0, 3.0, (1.0,) * 50)
    assert pace.deadline == 3.0
    assert pace.after(30.0).deadline == 3.0, "and does not move the deadline"
    assert pace.silence == 12.0
    assert Pace(60.0, 3.0, (0.001,) * 50).deadline == Pace.LEAST


@given(st.floats(0.001, 100), st.integers(1, 64), st.floats(0.001, 100), st.integers(1, 8), st.integers(8, 64))
def test_the_wanted_pool_keeps_up_and_is_no_larger_than_that(rollout: float, per_step: int, train: float, least: int, most: int) -> None:
    actors = wanted_actors(rollout, per_step, train, least, most)
    assert least <= actors <= most
    if least < actors < most:
        assert actors * train >= per_step * rollout * (1 - 1e-9)
        assert (actors - 1) * train < per_step * rollout


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
