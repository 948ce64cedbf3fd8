"""The driver's eyes while `fit()` blocks: progress of the stages and alerts, from the metric spools."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

from ..datasets.progress import Progress
from .alerts import alerts
from .spool_reader import SpoolReader


class SpoolWatcher:
    """A context that looks at the spools every second. stages: name -> steps, of those that are to run. Alerts come once a stage."""

    def __init__(self, spools: Path, stages: dict[str, int], progress: Progress, warn: Callable[[str], None]) -> None:
        self._stages, self._progress, self._warn = stages, progress, warn
        self._readers = {name: SpoolReader(spools / f"{name}.jsonl") for name in stages}
        self._steps = dict.fromkeys(stages, 0)
        self._given: set[tuple[str, str]] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="progress")

    def __enter__(self) -> SpoolWatcher:
        self._progress("start workers", 0, 1)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

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
        try:
            record = json.loads(line)
        except ValueError:
            return  # a torn line; the report counts it
        if "note" in record:
            self._warn(f"{stage}: {record['note']}")
            return
        self._steps[stage] = record["step"] + 1
        for metric, text in alerts(record["metrics"]).items():
            if (stage, metric) not in self._given:
                self._given.add((stage, metric))
                self._warn(f"{stage}, step {record['step']}: {text}")
