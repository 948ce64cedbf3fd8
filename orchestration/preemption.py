"""Machines that a cloud takes back: what a train worker sees of it before, and which ends of a training it explains."""

from __future__ import annotations

from ray.exceptions import RayActorError
from ray.train import ControllerError, PreemptionError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.context import get_train_context

from ..workers.notice import MoreRoom, TakenBack
from .root_cause import causes


def noticed() -> bool:
    """Whether a machine with workers of this training is being drained, as far as Ray has told this one.

    Ray's watcher tells every worker. `ray.train.get_preemption_info` answers from the same place, and makes all ranks meet first: seconds
    of their time, at every step.
    """
    return get_train_context().preemption_context.preemption_info is not None


def taken_back(error: BaseException) -> bool:
    """Whether a training ended because a machine went away as announced."""
    return any(isinstance(e, PreemptionError | TakenBack) or (isinstance(e, RayActorError) and e.preempted) for e in causes(error))


def made_room(error: BaseException) -> bool:
    """Whether a training ended because more workers have room."""
    return any(isinstance(e, MoreRoom) for e in causes(error))


def not_placed(error: BaseException) -> bool:
    """Whether a training never began, because the machines that had room for its workers were gone, or taken, when Ray asked for them."""
    return isinstance(error, ControllerError) and isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)
