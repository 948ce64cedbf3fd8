"""What to do when a rollout actor fails, or the training itself: pure decisions, which the coordinator and `launch` carry out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch

PAUSES = (0.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # seconds before another start, the longest again and again: a store comes back in minutes
GPU_FULL = "set engine.micro_batch=1, execution.checkpoint_every=1 or engine.offload=optimizer, or raise engine.zero_stage"


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
    another time; steps: those of all stages that checkpoints had by then; taken: a machine was taken back, as announced.
    """

    at: float
    cause: str
    curable: bool
    steps: int = 0
    taken: bool = False


def decide_run(failures: Sequence[Failure], most: int, window_s: float) -> Verdict:
    """A curable failure is survived as long as not more than `most` of them fall into `window_s` seconds, nor follow each other without a
    new checkpoint between them: long runs lose machines, and a crash loop is no long run, however slowly it turns. Machines that were
    taken back are counted apart, and by checkpoints alone: how often that happens says nothing about the training.
    """
    most += failures[-1].taken  # the first is nobody's failure
    return Verdict.RESTART if failures[-1].curable and len(recent(failures, window_s)) <= most else Verdict.STOP


def recent(failures: Sequence[Failure], window_s: float) -> list[Failure]:
    """Those that count against the last one: of the same kind, and of the same time or of the same checkpoint."""
    last = failures[-1]
    same = [f for f in failures if f.taken == last.taken]
    return [f for f in same if f.steps == last.steps or (not last.taken and last.at - f.at <= window_s)]


def pause_s(failures: Sequence[Failure]) -> float:
    """Seconds to wait after the last failure: the longer, the more of its kind followed each other without a new checkpoint. A machine that
    was taken back after some progress, as any first failure, is followed at once.
    """
    return PAUSES[min(len(recent(failures, 0.0)), len(PAUSES)) - 1]


def curable(error: BaseException) -> bool:
    """Whether the machines may be to blame: lost processes, nodes and connections, memory. Not values, types, broken promises, files that
    are missing or forbidden, and a GPU's memory, which nobody else fills. PyTorch says RuntimeError to a lost connection and to shapes
    that do not fit: both are tried again.
    """
    if type(error).__module__.partition(".")[0] == "ray":
        return True
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | NotImplementedError | RecursionError):
        return False
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, RuntimeError | OSError | MemoryError)


def told(error: BaseException) -> str:
    """What failed, in one line; with a remedy where there is one that the error itself cannot know."""
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"{text}; {GPU_FULL}" if isinstance(error, torch.OutOfMemoryError) else text


def summary(failures: Sequence[Failure], window_s: float) -> str:
    """The causes of a run that stops, in one line."""
    counted = recent(failures, window_s)
    if len(counted) == 1:
        return failures[-1].cause
    causes = Counter(f.cause for f in counted).most_common()
    listed = "; ".join(f"{count} x {cause}" if count > 1 else cause for cause, count in causes)
    return f"training failed {len(counted)} times within {counted[-1].at - counted[0].at:.0f} s: {listed}"
