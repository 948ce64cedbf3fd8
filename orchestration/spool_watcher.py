"""The driver's eyes while `fit()` blocks: progress of the stages, a line an interval, and alerts, from the metric spools."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..datasets.progress import Progress
from .alerts import alerts
from .interval_line import interval_parts
from .spool_reader import SpoolReader, record_of

INTERVAL = 10.0  # seconds between two lines of a stage
LAST = 2**20  # bytes at the end of a spool, in which its last record is looked for
Say = Callable[[list[str]], None]
"""Is given a line as its parts, the most important ones first."""


class SpoolWatcher:
    """A context that looks at the spools every second. stages: name -> steps, of those that are to run. Alerts come once a stage, a line
    every `interval` seconds and at the end of a stage, and a warning where the block ends well and a spool does not reach its last step.
    """

    def __init__(
        self,
        spools: Path,
        stages: dict[str, int],
        progress: Progress,
        warn: Callable[[str], None],
        say: Say = lambda _: None,
        interval: float = INTERVAL,
    ) -> None:
        self._spools, self._stages, self._progress, self._warn = spools, stages, progress, warn
        self._readers = {name: SpoolReader(spools / f"{name}.jsonl") for name in stages}
        self._steps = dict.fromkeys(stages, 0)
        self._lines = {name: StageLines(name, steps, say, interval, _last_time(spools / f"{name}.jsonl")) for name, steps in stages.items()}
        self._given: set[tuple[str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")

    def __enter__(self) -> SpoolWatcher:
        self._progress("start workers", 0, 1)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        for stage, steps in self._stages.items():
            if kind is None and self._steps[stage] < steps:
                self._warn(
                    f"{stage}: trained, but its metrics end at step {self._steps[stage]} of {steps} in {self._spools}: there was no room, "
                    "or they did not come from the machine of rank 0"
                )

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self._look()

    def _look(self) -> None:
        for stage, reader in self._readers.items():
            lines = reader.pending()
            for line in lines:
                self._see(stage, line)
            reader.confirm(lines)
            if lines:
                self._progress("start workers", 1, 1)
                self._progress(f"train {stage}", self._steps[stage], self._stages[stage])

    def _see(self, stage: str, line: bytes) -> None:
        record = record_of(line)
        if record is None:
            return  # the report counts it
        if "note" in record:
            self._warn(f"{stage}: {record['note']}")
            return
        self._steps[stage] = record["step"] + 1
        self._lines[stage].see(record)
        for metric, text in alerts(record["metrics"]).items():
            if (stage, metric) not in self._given:
                self._given.add((stage, metric))
                self._warn(f"{stage}, step {record['step']}: {text}")


def _last_time(spool: Path) -> float:
    """Of its last record, by the clock of the machine that wrote it, which may not be ours."""
    if not spool.is_file():
        return 0.0
    with spool.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST))
        times = [record["time"] for line in file.read().splitlines() if (record := record_of(line))]
    return max(times, default=0.0)


class StageLines:
    """The lines of one stage. since: time of the last record of an attempt before this one; what a run that goes on holds of it is not
    told again.
    """

    def __init__(self, stage: str, steps: int, say: Say, interval: float, since: float = 0.0) -> None:
        self._stage, self._steps, self._say, self._interval, self._since = stage, steps, say, interval, since
        self._first: dict[str, Any] | None = None  # of this attempt
        self._before: dict[str, Any] | None = None  # the last that has been told
        self._records: list[dict[str, Any]] = []

    def see(self, record: dict[str, Any]) -> None:
        """A step has ended. Its own time counts, so however late records are read, the lines are the same."""
        if record["time"] <= self._since:
            return
        self._first = self._first or record
        self._records.append(record)
        since = (self._before or self._first)["time"]
        if record["time"] - since < self._interval and record["step"] + 1 < self._steps:
            return
        passed, made = record["time"] - self._first["time"], record["step"] - self._first["step"]
        self._say(interval_parts(self._stage, self._steps, self._records, self._before, made / passed if passed > 0 else None))
        self._before, self._records = record, []
