"""What is found inside the wrappers that Ray puts around a failure, and which ends a machine that was taken back explains."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError
from ray.train import ControllerError, PreemptionError, PreemptionInfo, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError

from mutual_forcing.orchestration.preemption import made_room, not_placed, taken_back
from mutual_forcing.orchestration.root_cause import causes, root_cause
from mutual_forcing.workers.notice import MoreRoom, TakenBack

VALUE, CLOSED = ValueError("the cause"), RuntimeError("Connection closed by peer")


def of_ranks(*failures: Exception) -> WorkerGroupError:
    return WorkerGroupError("failed", dict(enumerate(failures)))


def test_the_cause_is_found_inside_every_wrapper() -> None:
    task = RayTaskError("f", "traceback", VALUE)
    memory = OutOfMemoryError("the node is running low on memory")
    lost = WorkerHealthCheckFailedError("A worker health check failed", memory)
    assert root_cause(VALUE) is VALUE
    assert root_cause(task) is VALUE
    assert root_cause(of_ranks(lost)) is memory
    assert list(causes(of_ranks(CLOSED, task, lost))) == [CLOSED, VALUE, memory]
    assert root_cause(of_ranks(CLOSED, VALUE)) is CLOSED
    chained = RuntimeError("ours")
    chained.__cause__ = VALUE
    assert root_cause(chained) is chained, "what is not Ray's stays as it is"


@pytest.mark.parametrize(
    ("error", "taken"),
    [
        (PreemptionError(PreemptionInfo(None, {"node": [0]})), True),
        (of_ranks(TakenBack("checkpoint of step 3")), True),
        (of_ranks(CLOSED, WorkerHealthCheckFailedError("failed", RayActorError(error_msg="gone"))), False),
        (of_ranks(CLOSED), False),
        (VALUE, False),
    ],
)
def test_a_machine_that_was_taken_back_is_told_from_one_that_was_lost(error: Exception, taken: bool) -> None:
    assert taken_back(error) is taken
    assert taken_back(pickle.loads(pickle.dumps(error))) is taken, "it comes from another process"


def test_an_actor_that_went_with_its_machine_as_announced() -> None:
    gone = RayActorError(error_msg="gone", preempted=True)
    assert taken_back(of_ranks(CLOSED, WorkerHealthCheckFailedError("failed", gone)))


def test_a_training_that_stopped_to_grow_or_never_began_is_nobodys_failure() -> None:
    grows, gone = of_ranks(MoreRoom("checkpoint of step 3")), ControllerError(WorkerGroupStartupTimeoutError(4))
    for error in (grows, pickle.loads(pickle.dumps(grows))):
        assert (made_room(error), not_placed(error), taken_back(error)) == (True, False, False)
    for error in (gone, pickle.loads(pickle.dumps(gone))):
        assert (made_room(error), not_placed(error), taken_back(error)) == (False, True, False)
    assert not made_room(of_ranks(TakenBack("checkpoint of step 3")))
    assert not not_placed(ControllerError(VALUE))
