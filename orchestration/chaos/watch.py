"""How far a run is: its steps, attempt and driver, as its folder tells; and what an event did to them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...datasets.format.account import read_account
from ...datasets.places.lock import LOCK
from ...datasets.streamed.stream_account import STREAMED
from ..run_folder import RUN
from ..spool_reader import record_of, step_of
from .holder import holder_of
from .schedule import ENDS_ATTEMPT, Event

TAIL = 1 << 18  # bytes of a spool, which hold a whole line
ENOUGH = 2  # steps that nobody had been waiting for when it happened
MAX_POINTS = 4000


@dataclass(frozen=True)
class Seen:
    """At a time (seconds since 1970): the stage that is trained (number; -1 before the first), its steps, the attempt, the driver's process
    (0: none), and whether the run is finished.
    """

    at: float
    stage: int = -1
    steps: int = 0
    attempt: int = 0
    driver: int = 0
    finished: bool = False

    @property
    def far(self) -> tuple[int, int]:
        """How far the training is."""
        return self.stage, self.steps


def look(run_dir: str, stages: Sequence[str], at: float) -> Seen:
    """Read it from the run folder, where that is."""
    folder, begun = Path(run_dir), _attempt(run_dir)
    driver, finished = holder_of(str(folder / LOCK)), False
    with suppress(OSError, ValueError, AttributeError):  # it may be on its way
        finished = bool(json.loads((folder / RUN).read_text()).get("finished"))
    for i in reversed(range(len(stages))):
        try:
            with (folder / "metrics" / f"{stages[i]}.jsonl").open("rb") as file:
                about = os.fstat(file.fileno())
                file.seek(max(0, about.st_size - TAIL))
                lines = file.read().splitlines()
        except FileNotFoundError:
            continue
        steps = next((step + 1 for line in reversed(lines) if (step := step_of(line)) is not None), 0)
        return Seen(at, i, steps, begun or about.st_ino, driver, finished)
    return Seen(at, attempt=begun, driver=driver, finished=finished)


def _attempt(run_dir: str) -> int:
    """The number of the newest attempt, after which Ray Train's folder of it is called; 0 where that is on another machine: then each has a
    file of metrics of its own.
    """
    return max((int(path.name[4:]) for path in Path(run_dir, "ray").glob("fit-*") if path.name[4:].isdecimal()), default=0)


def has_recovered(event: Event, before: Seen, after: Sequence[Seen]) -> bool:
    """Whether training is past an event, and past where it was. before: just after it began; after: what was seen since. One that lasts
    has to be over; one that ends an attempt is not over before another has begun.
    """
    if not after:
        return False
    now = after[-1]
    if now.finished:
        return True
    if event.kind == "driver" and now.driver in (0, before.driver):
        return False
    if event.kind in (*ENDS_ATTEMPT, "driver"):
        return any(seen.attempt != before.attempt for seen in after) and now.far > before.far
    return goes_on(before, after, event.seconds)


def goes_on(before: Seen, after: Sequence[Seen], seconds: float) -> bool:
    """Whether training is past where it was, whatever happened to it: so many seconds later, and steps further."""
    if not after:
        return False
    now = after[-1]
    return now.finished or (now.at >= before.at + seconds and now.far >= (before.stage, before.steps + ENOUGH))


def step_seconds(course: Sequence[Seen]) -> float:
    """How long a step takes, by the looks between which one attempt went on in one stage; 0.0 where none has been seen."""
    pairs = [(a, b) for a, b in pairwise(course) if (a.stage, a.attempt) == (b.stage, b.attempt) and b.steps >= a.steps]
    steps = sum(b.steps - a.steps for a, b in pairs)
    return sum(b.at - a.at for a, b in pairs) / steps if steps else 0.0


def told(event: Event, before: Seen, after: Sequence[Seen], stages: Sequence[str]) -> str:
    """What was seen after an event, in words. after: what was seen until it had recovered."""
    words, new = list[str](), [seen for seen in after if seen.attempt != before.attempt]
    if event.kind == "driver" and after and after[-1].driver not in (0, before.driver):
        words.append(f"another driver (process {after[-1].driver}) took over")
    first = min(new, key=lambda seen: seen.far, default=before)  # it begins with the steps of the one before in sight
    if new and (event.kind in (*ENDS_ATTEMPT, "driver") or first.far <= before.far):
        lost = before.steps - first.steps if first.stage == before.stage else 0
        words.append(f"{stages[first.stage]} went on from step {first.steps}; {max(0, lost)} steps were computed again")
    else:
        moves = [before, *(b for a, b in zip([before, *after], after, strict=False) if b.far != a.far)]
        pause = max((b.at - a.at for a, b in pairwise(moves)), default=0.0)
        words.append(f"no step was lost; the longest pause was {pause:.1f} s")
    return "; ".join(words)


def source_told(run_dir: str, path: str) -> str:
    """What a run that streams says of a media file."""
    try:
        lines = [line for line in read_account(Path(run_dir) / STREAMED) if line.where == path or line.path == Path(path).name]
    except (OSError, ValueError):
        lines = []
    return "" if not lines else f"the account says: {'used' if lines[-1].used else f'refused ({lines[-1].reason})'}"


def losses(run_dir: str, stages: Sequence[str]) -> list[tuple[float, int, int, float]]:
    """(time, stage, step, loss) of the steps that stand in the run's metrics: of long runs some."""
    found = list[tuple[float, int, int, float]]()
    for i, stage in enumerate(stages):
        try:
            lines = (Path(run_dir) / "metrics" / f"{stage}.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            continue
        for line in lines[:: 1 + len(lines) // MAX_POINTS]:
            record: dict[str, Any] | None = record_of(line)
            if record is not None and (loss := record["metrics"].get("loss")) is not None:
                found.append((float(record["time"]), i, int(record["step"]), float(loss)))
    return found
