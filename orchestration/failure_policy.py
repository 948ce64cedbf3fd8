"""What to do when a rollout actor fails, or the training itself: pure decisions, which the coordinator and `launch` carry out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from math import ceil, inf
from typing import ClassVar

import torch

PAUSES = (0.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # seconds before another start, the longest again and again: a store comes back in minutes
GPU_FULL = "set engine.micro_batch=1, execution.checkpoint_every=1 or engine.offload=optimizer, or raise engine.zero_stage"


class Decision(Enum):
    """REPLACE: end the actor, start another, give its request back. REPUBLISH: have the trainers publish weights again. FAIL: end the
    attempt of the training with the cause; `curable` says whether another one is worth it.
    """

    REPLACE = "replace"
    REPUBLISH = "republish"
    FAIL = "fail"


class Trouble(Enum):
    """LOST: an actor's process or node is gone. SILENT: it is there and does not answer. BROKEN: its work raised, or made something that is
    not finite. NO_WEIGHTS: what it was to load is gone, or was torn on the way.
    """

    LOST = "lost"
    SILENT = "silent"
    BROKEN = "broken"
    NO_WEIGHTS = "no weights"


@dataclass(frozen=True)
class PoolStatus:
    """failures: of the pool's actors one after the other, without a rollout between them; repeats: how often the same work has ended so."""

    trouble: Trouble
    failures: int
    repeats: int = 1


def decide(status: PoolStatus, max_failures: int) -> Decision:
    """Actors come and go as long as rollouts are made between their ends: a pool on spot machines loses them by design. Work that breaks on
    two actors would break on all. Weights are published again a few times: they may have been lost with a node.
    """
    if status.trouble is Trouble.NO_WEIGHTS:
        return Decision.REPUBLISH if status.repeats <= max_failures else Decision.FAIL
    if status.trouble is Trouble.BROKEN and status.repeats > 1:
        return Decision.FAIL
    return Decision.REPLACE if status.failures <= max_failures else Decision.FAIL


@dataclass
class Troubles:
    """What has gone wrong in a pool, and what follows. most: failures one after the other. failed: when the last one was; repeats: how
    often a kind of trouble has met the same work.
    """

    most: int
    failures: int = 0
    failed: float = -inf
    repeats: dict[Hashable, int] = field(default_factory=dict)

    KEPT: ClassVar[int] = 1000  # pieces of work: of a long run that goes well, old ones are not met again

    def made(self) -> None:
        """A rollout."""
        self.failures = 0

    def decide(self, trouble: Trouble, work: Hashable, began: float, now: float) -> Decision:
        """Count a failure, and say what follows. Actors that had begun when the last one failed have failed with it, as on one machine."""
        self.repeats[trouble, work] = repeats = self.repeats.get((trouble, work), 0) + 1
        if len(self.repeats) > self.KEPT:
            self.repeats.pop(next(iter(self.repeats)))
        if trouble is not Trouble.NO_WEIGHTS and began >= self.failed:
            self.failures, self.failed = self.failures + 1, now
        return decide(PoolStatus(trouble, self.failures, repeats), self.most)


@dataclass(frozen=True)
class Pace:
    """How long requests take, and when one is late. seconds: of the last requests; first: the deadline as long as those are few; factor:
    a request is late after so many times what nearly all take.
    """

    first: float
    factor: float
    seconds: tuple[float, ...] = ()

    ENOUGH: ClassVar[int] = 8
    KEPT: ClassVar[int] = 64
    NEARLY_ALL: ClassVar[float] = 0.95
    START: ClassVar[float] = 10.0  # seconds: and so many at least, for another one takes that long to start
    LEAST: ClassVar[float] = 0.2  # seconds: below that, waiting is cheaper than doing it twice
    PATIENCE: ClassVar[float] = 4.0  # deadlines that a silent actor is given before it is ended

    def after(self, seconds: float) -> Pace:
        """With one more request."""
        return replace(self, seconds=(*self.seconds, seconds)[-self.KEPT :])

    @property
    def deadline(self) -> float:
        """Seconds after which a request goes to another actor too."""
        if len(self.seconds) < self.ENOUGH:
            return self.first
        ordered = sorted(self.seconds)
        usual = ordered[min(len(ordered) - 1, int(self.NEARLY_ALL * len(ordered)))]
        return min(self.first, max(self.LEAST, self.factor * usual))

    def patience(self, proven: bool) -> float:
        """Seconds after which an actor that does not answer is ended; one that has made nothing yet may still be starting."""
        return self.silence if proven else self.first

    @property
    def silence(self) -> float:
        """Seconds after which an actor that does not answer is ended."""
        return self.first if len(self.seconds) < self.ENOUGH else max(min(self.START, self.first), self.PATIENCE * self.deadline)


def wanted_actors(rollout_s: float, per_step: int, train_s: float, least: int, most: int) -> int:
    """How many actors keep the trainers busy: those that make a step's `per_step` requests, `rollout_s` of one actor's time each, while the
    trainers compute for `train_s`; between the bounds.
    """
    needed = most if train_s <= 0 else ceil(per_step * rollout_s / train_s)
    return max(least, min(most, needed))


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
