"""The metric spool: an append-only file a stage, one JSON object a line. Trackers and terminals read it; they cannot stop a run."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from ..datasets.storage import atomic_path


class MetricSpool:
    """Appends the metrics of one stage to `<folder>/<stage>.jsonl` from step `first` on: lines of later steps, of an attempt that did not
    get as far as a checkpoint, are cut off.
    """

    def __init__(self, folder: Path, stage: str, first: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stage, path = stage, folder / f"{stage}.jsonl"
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step(line) < first] if path.is_file() else []
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(kept))
        self._file = path.open("a", buffering=1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line; numbers that are not finite become null, which JSON has."""
        self._append(step, {"metrics": {k: v if math.isfinite(v) else None for k, v in metrics.items()}})

    def note(self, step: int, text: str) -> None:
        """Append what a person should read."""
        self._append(step, {"metrics": {}, "note": text})

    def close(self) -> None:
        self._file.close()

    def _append(self, step: int, what: dict[str, Any]) -> None:
        self._file.write(json.dumps({"stage": self._stage, "step": step, "time": time.time(), **what}) + "\n")


def _step(line: bytes) -> float:
    """The step of a line; of one that is torn or none of ours, infinity."""
    try:
        record = json.loads(line)
        return int(record["step"]) if line.endswith(b"\n") else math.inf
    except (ValueError, TypeError, KeyError):
        return math.inf
