"""The metric spool: an append-only file a stage, one JSON object a line. Trackers and terminals read it; they cannot stop a run."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path


class MetricSpool:
    """Appends the metrics of one stage to `<folder>/<stage>.jsonl`, from step 0: a stage that is begun again begins its file again."""

    def __init__(self, folder: Path, stage: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._stage = stage
        self._file = (folder / f"{stage}.jsonl").open("w", buffering=1)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line; numbers that are not finite become null, which JSON has."""
        values = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        self._file.write(json.dumps({"stage": self._stage, "step": step, "time": time.time(), "metrics": values}) + "\n")

    def close(self) -> None:
        self._file.close()
