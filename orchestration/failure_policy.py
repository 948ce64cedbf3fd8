"""What to do when a rollout actor fails: a pure decision; the coordinator carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Decision(Enum):
    """REPLACE: start another actor and give its request back. FAIL: stop the run with the cause."""

    REPLACE = "replace"
    FAIL = "fail"


@dataclass(frozen=True)
class PoolStatus:
    """failures: how often an actor has failed in this stage; lost: this time its process is gone."""

    failures: int
    lost: bool


def decide(status: PoolStatus, max_failures: int) -> Decision:
    """A lost process is replaced until `max_failures` are spent; an exception inside `generate` would only repeat."""
    if status.lost and status.failures <= max_failures:
        return Decision.REPLACE
    return Decision.FAIL
