"""What to do when a rollout actor fails, or the training itself: pure decisions, which the coordinator and `launch` carry out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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


class Verdict(Enum):
    """RESTART: the training goes on from its last checkpoint. STOP: the run fails with the causes."""

    RESTART = "restart"
    STOP = "stop"


@dataclass(frozen=True)
class Failure:
    """An end of the training that was not its own. at: seconds on a clock that never goes back; curable: whether the same step may go well
    another time.
    """

    at: float
    cause: str
    curable: bool


def decide_run(failures: Sequence[Failure], most: int, window_s: float) -> Verdict:
    """A curable failure is survived as long as not more than `most` of them fall into `window_s` seconds: long runs lose machines, and
    a crash loop is no long run. What is wrong with data, settings or code is met again at the same step, so it stops the run.
    """
    last = failures[-1]
    recent = [f for f in failures if last.at - f.at <= window_s]
    return Verdict.RESTART if last.curable and len(recent) <= most else Verdict.STOP


def curable(error: BaseException) -> bool:
    """Whether the machines may be to blame: lost processes, nodes and connections, memory; not values, types and broken promises."""
    if type(error).__module__.partition(".")[0] == "ray":
        return True
    return isinstance(error, RuntimeError | OSError | MemoryError) and not isinstance(error, NotImplementedError | RecursionError)


def summary(failures: Sequence[Failure], window_s: float) -> str:
    """The causes of a run that stops, in one line."""
    last = failures[-1]
    recent = [f for f in failures if last.at - f.at <= window_s]
    if len(recent) == 1:
        return last.cause
    causes = Counter(f.cause for f in recent).most_common()
    listed = "; ".join(f"{count} x {cause}" if count > 1 else cause for cause, count in causes)
    return f"training failed {len(recent)} times within {last.at - recent[0].at:.0f} s: {listed}"
