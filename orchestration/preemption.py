"""Machines that a cloud takes back: what a train worker sees of it before, and which ends of a training it explains."""

from __future__ import annotations

from ray.exceptions import RayActorError
from ray.train import PreemptionError
from ray.train.v2._internal.execution.context import get_train_context

from ..workers.notice import TakenBack
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
