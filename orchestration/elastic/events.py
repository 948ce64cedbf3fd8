"""Changes of a training's machines are told three times: a line on the terminal, a line in logs/events.jsonl, a metric.

An event is `{"time", "kind", "before", "after", "why"}`; kinds are `workers`, `rollout actors` and `nodes`, before and after how many there
were.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict
from pathlib import Path

from ..exporter import ChangeExporter
from ..spool_watcher import Say
from .change import Change

EVENTS = "logs/events.jsonl"
log = logging.getLogger(__name__)


class Events:
    """Tells them, from any thread."""

    def __init__(self, run_dir: Path, say: Say) -> None:
        self._path, self._say, self._export = run_dir / EVENTS, say, ChangeExporter(run_dir.name)
        self._lock, self._full = threading.Lock(), False
        self._counts: dict[str, int] = {}  # by kind

    def tell(self, change: Change) -> None:
        with self._lock:
            self._write(change)
            self._say([change.told()])
            self._counts[change.kind] = change.after
            self._export.changed(change.kind, change.after)

    def show(self, kind: str, count: int) -> None:
        """Tell the metric alone how many there are."""
        with self._lock:
            self._counts[kind] = count
            self._export.show(kind, count)

    def refresh(self) -> None:
        """Tell the metric all of it again: a gauge that nobody sets goes stale."""
        with self._lock:
            for kind, count in self._counts.items():
                self._export.show(kind, count)

    def _write(self, change: Change) -> None:
        """A line more. A disk without room costs lines, not the run."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write((json.dumps({"time": time.time(), **asdict(change)}) + "\n").encode())
        except OSError as error:
            if not self._full:
                log.warning("%s cannot be written (%s)", self._path, error)
            self._full = True
