"""What to do when a rollout actor fails: a pure decision; the coordinator carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Decision(Enum):
    """REPLACE: start another actor and give its request back. WAIT: for the next weights. FAIL: stop the run with the cause."""

    REPLACE = "replace"
    WAIT = "wait"
    FAIL = "fail"


@dataclass(frozen=True)
class PoolStatus:
    """failures: how often an actor has failed in this stage; lost: this time its process is gone; orphaned: not the actor failed, but
    the trainer that owned the weights it was to load is gone.
    """

    failures: int
    lost: bool
    orphaned: bool = False


def decide(status: PoolStatus, max_failures: int) -> Decision:
    """A lost process is replaced until `max_failures` are spent; an exception inside `generate` would only repeat. Weights lost with
    their trainer are the trainers' failure: restarted ones publish others, and if they are not restarted, the run ends anyway.
    """
    if status.orphaned:
        return Decision.WAIT
    if status.lost and status.failures <= max_failures:
        return Decision.REPLACE
    return Decision.FAIL
