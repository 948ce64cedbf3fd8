"""The metric spool: an append-only file a stage, one JSON object a line. Trackers and terminals read it; they cannot stop a run."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ..datasets.places.storage import atomic_path

WAITING = 10_000  # lines that are kept while they cannot be written; then the oldest go
PAUSE = 10.0  # seconds between two attempts to begin the file, which copies what is kept of it
FOR_GOOD = (FileNotFoundError, PermissionError, NotADirectoryError)
log = logging.getLogger(__name__)


class MetricSpool:
    """Appends the metrics of one stage to `<folder>/<stage>.jsonl` from step `first` on: lines of later steps, of an attempt that did not
    get as far as a checkpoint, are cut off. Lines that find no room wait for it, `WAITING` at most; how many were lost is noted.
    """

    def __init__(self, folder: Path, stage: str, first: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._stage, self._first, self._clock = folder / f"{stage}.jsonl", stage, first, clock
        self._file: BinaryIO | None = None
        self._size = 0  # bytes of whole lines in the file
        self._waiting: deque[bytes] = deque()
        self._lost, self._full = 0, False
        self._again = 0.0
        self._flush()

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line; numbers that are not finite become null, which JSON has."""
        self._append(step, {"metrics": {k: v if math.isfinite(v) else None for k, v in metrics.items()}})

    def note(self, step: int, text: str) -> None:
        """Append what a person should read."""
        self._append(step, {"metrics": {}, "note": text})

    def add(self, line: bytes) -> None:
        """Append a line that the spool of a process elsewhere has made."""
        self._keep(line)

    def close(self) -> None:
        self._again = 0.0
        self._flush()
        if self._waiting:
            log.error("%d lines of %s were not written", len(self._waiting) + self._lost, self._path)
        if self._file is not None:
            self._file.close()

    def _append(self, step: int, what: dict[str, Any]) -> None:
        self._keep(self._line(step, what))

    def _keep(self, line: bytes) -> None:
        self._waiting.append(line)
        if len(self._waiting) > WAITING:
            self._waiting.popleft()
            self._lost += 1
        self._flush()

    def _line(self, step: int, what: dict[str, Any]) -> bytes:
        return (json.dumps({"stage": self._stage, "step": step, "time": time.time(), **what}) + "\n").encode()

    def _flush(self) -> None:
        """Write what waits, as far as there is room."""
        try:
            if self._file is None:
                if self._clock() < self._again:
                    return
                self._file = self._begin()
            while self._waiting:
                self._put(self._file, self._waiting[0])
                self._waiting.popleft()
            if self._lost:
                note = f"{self._lost} lines of metrics were lost: there was no room for them in {self._path}"
                self._put(self._file, self._line(self._first, {"metrics": {}, "note": note}))
                self._lost = 0
        except OSError as error:
            if self._file is None and isinstance(error, FOR_GOOD):
                raise  # a folder that is wrong, not one that is full
            self._again = self._clock() + PAUSE
            if not self._full:
                log.warning("metrics wait in memory: %s (%s)", self._path, error)
            self._full = True
        else:
            if self._full:
                log.info("metrics are written again: %s", self._path)
            self._full = False

    def _begin(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.is_file() else []
        kept = b"".join(line for line in lines if _step(line) < self._first)
        with atomic_path(self._path) as temporary:
            temporary.write_bytes(kept)
        self._size = len(kept)
        return self._path.open("ab", buffering=0)

    def _put(self, file: BinaryIO, line: bytes) -> None:
        """Append a line whole; what a disk without room took of one before is cut off first."""
        if os.fstat(file.fileno()).st_size > self._size:
            os.ftruncate(file.fileno(), self._size)
        if file.write(line) < len(line):
            raise OSError("it took a part of a line only")
        self._size += len(line)


def _step(line: bytes) -> float:
    """The step of a line; of one that is torn or none of ours, infinity."""
    try:
        record = json.loads(line)
        return int(record["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return math.inf
