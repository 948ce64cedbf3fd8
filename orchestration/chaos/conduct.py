"""Carry a schedule out on a run that trains: strike, watch until training is past where it was, and so forth; then judge.

One event at a time: the next waits for its time, and for the one before to be over. So what is seen after an event is of that event. An
event that finds nobody to hit, such as a rollout actor in a stage without any, gives way to the next, and has the first turn after it. When
the time is over no other begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from ...datasets.places.store import is_remote
from ..config import RunConfig
from .acts import Hand, Missed
from .schedule import ENDS_ATTEMPT, KINDS, MEDIA, S3, Event, schedule
from .targets import Job, job_of, on
from .verdict import judge
from .watch import Seen, goes_on, has_recovered, look, losses, source_told, step_seconds, told

TICK = 0.5  # seconds between two looks
PATIENCE = 900.0  # seconds for a run to be past an event, and to begin, where its steps are quick
SPARE = 10  # steps beyond those of a checkpoint, which may have to be made twice
DAY = 86400.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Wish:
    """What is asked for. run: an absolute folder, or a remote.uri; kinds: empty for all that the run has; restart: of a killed driver;
    patience_s: for the run to be past an event (None: by how long its steps take).
    """

    run: str
    minutes: float
    seed: int
    kinds: tuple[str, ...]
    gap_s: float
    restart: str
    with_data: bool
    patience_s: float | None = None

    def __post_init__(self) -> None:
        if self.patience_s is not None and not 1 <= self.patience_s <= DAY:
            raise ValueError(f"--patience={self.patience_s:g}: must be seconds, from 1 to {DAY:.0f} (a day)")


@dataclass
class Happened:
    """An event, and what came of it. at: seconds since 1970 (0: it did not happen); recovery_s: None where training did not go on; unknown:
    the order was given, and its machine did not say whether it was carried out.
    """

    event: Event
    at: float = 0.0
    target: str = ""
    seen: str = ""
    recovery_s: float | None = None
    unknown: bool = False

    @property
    def missed(self) -> bool:
        return not self.at

    def record(self, begin: float) -> dict[str, Any]:
        at = None if self.missed else round(self.at - begin, 1)
        recovery = None if self.recovery_s is None else round(self.recovery_s, 1)
        return asdict(self.event) | {
            "what": str(self.event),
            "happened_at_s": at,
            "target": self.target,
            "seen": self.seen,
            "recovery_s": recovery,
            "unknown": self.unknown,
        }


@dataclass
class Chaos:
    """What was done to a run, and what it did. begin: seconds since 1970; course: what was seen of it; curve: see `losses`."""

    begin: float
    stages: tuple[str, ...]
    happened: list[Happened] = field(default_factory=list)
    course: list[Seen] = field(default_factory=list)
    curve: list[tuple[float, int, int, float]] = field(default_factory=list)
    verdict: dict[str, Any] = field(default_factory=dict)
    unmended: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return bool(self.verdict.get("clean")) and bool(self.verdict.get("goes_on"))


def chosen(wish: Wish, config: RunConfig) -> tuple[tuple[Event, ...], list[str]]:
    """The schedule for a run; and why it has not all that was asked for.

    Raises:
        ValueError: a kind is unknown, or the run has nothing of those that were asked for.
    """
    notes, lacking = list[str](), _lacking(config)
    asked = wish.kinds or KINDS
    kinds = [kind for kind in asked if kind not in lacking]
    if wish.kinds or not kinds:
        notes += [f"--kinds: {kind} is left out: {why}" for kind, why in lacking.items() if kind in asked]
    if not kinds:
        raise ValueError("; ".join(notes))
    most = config.workers.max_failures
    if wished := [kind for kind in kinds if kind in ENDS_ATTEMPT]:
        notes.append(f"at most {most} events of {', '.join(wished)}: the run stops after workers.max_failures={most} failures")
    return schedule(wish.seed, wish.minutes, kinds, wish.gap_s, most), notes


def _lacking(config: RunConfig) -> dict[str, str]:
    """Kinds that mean nothing for a run, and why."""
    lacking = dict[str, str]()
    if not (config.objective.needs_rollouts and any(s.objective == "mutual" for s in config.stages)):
        lacking |= dict.fromkeys(("rollout", "coordinator"), "the run has no rollouts")
    if not config.data.stream_sources:
        lacking |= dict.fromkeys(("data", MEDIA), "no stage reads media files (data.stream_sources=0)")
    elif all(is_remote(folder) for folder in config.data.inputs):
        lacking[MEDIA] = "its media files are in S3, where nothing is damaged"
    if not stores_of(config):
        lacking[S3] = "the run has nothing in S3"
    return lacking


def stores_of(config: RunConfig) -> list[str]:
    """What the run has in S3."""
    every = (config.remote.uri, config.checkpoint_uri, config.data_uri)
    return list(dict.fromkeys(uri for uri in every if is_remote(uri)))


def conduct(wish: Wish, config: RunConfig, events: Sequence[Event], name: str, say: Say) -> Chaos:
    """Carry the events out. Ray must have been started. What was broken is whole again when it ends, however it ends. name: of
    this try, for the log of a driver that is started again.

    Raises:
        ValueError: nobody trains the run on this cluster, or it does not begin to.
    """
    job = job_of(wish.run)
    media = [str(Path(job.run_dir) / "media")] if config.data.is_synthetic else [m for m in config.data.inputs if not is_remote(m)]
    hand = Hand(job, stores_of(config), media, wish.restart, str(Path(job.run_dir) / "logs" / f"driver-{name}.log"))
    run = _Run(wish, hand, tuple(s.name for s in config.stages), config.checkpoint.every or max(s.steps for s in config.stages))
    try:
        return run.through(events, say)
    finally:
        for left in hand.mend():
            run.chaos.unmended.append(left)
            say(f"not mended: {left}")


class _Run:
    """A run that is watched while it is broken."""

    def __init__(self, wish: Wish, hand: Hand, stages: tuple[str, ...], every: int) -> None:
        self._wish, self._hand, self._every = wish, hand, every
        self.chaos = Chaos(time.time(), stages)

    def through(self, events: Sequence[Event], say: Say) -> Chaos:
        chaos = self.chaos
        patience = self._wish.patience_s or PATIENCE
        if not self._until(lambda seen: seen.stage >= 0 and seen.steps > 0, patience):
            raise ValueError(
                f"run {self._wish.run!r}: has not trained a step in {patience:.0f} s, and nothing was done to it; give a longer --patience"
            )
        chaos.begin = time.time()
        chaos.happened, waiting = [], [Happened(event) for event in events]
        end = chaos.begin + self._wish.minutes * 60
        for at in [event.at_s for event in events]:
            self._until(lambda _, at=chaos.begin + at: time.time() >= at, DAY)
            if self._over() or time.time() > end:
                break
            happened = next((h for h in waiting if self._one(h)), None)
            if happened is not None:
                waiting.remove(happened)
                chaos.happened.append(happened)
                say(_line(happened, chaos.begin))
        for happened in waiting:
            chaos.happened.append(happened)
            happened.seen = happened.seen or f"did not happen: {'the run had ended' if self._over() else 'the time was over'}"
            say(_line(happened, chaos.begin))
        self._until(lambda _: time.time() >= end, DAY)
        for left in self._hand.mend():  # before anybody judges: the verdict reads the same stores
            chaos.unmended.append(left)
        last = self._look()
        chaos.verdict = self._ask(judge, self._hand.job.run_dir, self._wish.with_data)
        stuck = [h for h in chaos.happened if not h.missed and h.recovery_s is None]
        goes_on = (last.finished or last.driver != 0) and not stuck
        chaos.verdict |= {"finished": last.finished, "goes_on": goes_on}
        if stuck:
            chaos.verdict["faults"] = [*chaos.verdict["faults"], *(f"it did not go on after: {h.event}" for h in stuck)]
        chaos.curve = [tuple(point) for point in self._ask(losses, self._hand.job.run_dir, list(chaos.stages))]
        return chaos

    def _one(self, happened: Happened) -> bool:
        """Carry an event out, and see what comes of it; whether there was anybody to hit."""
        event = happened.event
        try:
            before = self._look()
            self._hand.job = job_of(self._wish.run)  # a killed driver leaves a job, and another one begins
        except (RayError, GetTimeoutError, ValueError) as error:
            happened.seen = f"did not happen: {error if isinstance(error, ValueError) else type(error).__name__}"
            return False
        try:
            happened.target = self._hand.strike(event).target
        except (Missed, ValueError) as error:
            happened.seen = f"did not happen: {error}"
            return False
        except (RayError, GetTimeoutError) as error:  # it may have been carried out: once is enough
            happened.unknown, happened.target = True, f"unknown whether it happened ({type(error).__name__})"
        happened.at = time.time()
        now = self._look()
        if (now.attempt, now.driver) == (before.attempt, before.driver):
            before = now  # steps that were trained before it are not what came after it
        seen, first = self.chaos.course, len(self.chaos.course)
        is_past = partial(goes_on, before, seconds=event.seconds) if happened.unknown else partial(has_recovered, event, before)
        if self._until(lambda _: is_past(seen[first:]), self._patience() + event.seconds):
            moment = next(seen[i].at for i in range(first, len(seen)) if is_past(seen[first : i + 1]))
            happened.recovery_s = moment - happened.at
        happened.seen = told(event, before, seen[first:], self.chaos.stages)
        if event.kind == MEDIA and not happened.unknown and (more := self._ask(source_told, self._hand.job.run_dir, happened.target)):
            happened.seen += f"; {more}"
        return True

    def _patience(self) -> float:
        """Seconds for the run to be past an event: after some, the steps since a checkpoint are made again."""
        return self._wish.patience_s or patience_for(step_seconds(self.chaos.course), self._every)

    def _over(self) -> bool:
        return bool(self.chaos.course) and self.chaos.course[-1].finished

    def _until(self, reached: Callable[[Seen], bool], seconds: float) -> bool:
        """Watch until something is so, or the run is finished; whether it is so by then."""
        end = time.time() + seconds
        while not reached(seen := self._look()):
            if seen.finished or time.time() > end:
                return False
            time.sleep(TICK)
        return True

    def _look(self) -> Seen:
        seen = self._ask(look, self._hand.job.run_dir, self.chaos.stages, time.time())
        course = self.chaos.course
        if len(course) < 2 or any(
            (s.far, s.attempt, s.driver, s.finished) != (seen.far, seen.attempt, seen.driver, seen.finished) for s in course[-2:]
        ):
            course.append(seen)
        else:
            course[-1] = seen  # nothing has changed: the first and the last of it stay
        return seen

    def _ask(self, work: Callable[..., Any], *given: Any) -> Any:
        """Have it done where the run folder is: on the driver's machine, which may be this one."""
        job: Job = self._hand.job
        here = job.address == ray.util.get_node_ip_address()
        return work(*given) if here else on(job.node, job, work, *given)


def patience_for(step_s: float, every: int) -> float:
    """Seconds for a run to be past an event, unless somebody says so. step_s: how long a step takes; every: steps between checkpoints."""
    return max(PATIENCE, min(2 * step_s * (every + SPARE), DAY))


def _line(happened: Happened, begin: float) -> str:
    if happened.missed:
        return f"{happened.event.at_s / 60:5.1f} min  {happened.event}: {happened.seen}"
    over = "has not gone on" if happened.recovery_s is None else f"past it after {happened.recovery_s:.1f} s"
    return f"{(happened.at - begin) / 60:5.1f} min  {happened.event}: {happened.target}; {over}; {happened.seen}"
