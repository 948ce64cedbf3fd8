"""What a version in MLflow's model registry says of exported weights: the data, the recipe and the figures behind them."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets.format.manifest import MANIFEST
from ..datasets.places.storage import local_path, read_json, sha256_file
from .run_folder import RUN
from .tracking import register

FIGURES = re.compile(r"(probe/)?loss(/\w+)?|dmd|skipped")


@dataclass(frozen=True)
class Registration:
    """A run whose weights become a version of the registered model `name`."""

    run_dir: Path
    record: dict[str, Any]
    data: str
    name: str

    def add(self, exported: dict[str, Any]) -> dict[str, str]:
        """Register what `checkpoints.exported` wrote.

        Raises:
            ValueError: MLflow did not take it.
        """
        facts = {name: exported[name] for name in ("stage", "step", "samples", "weights", "checkpoint")}
        tags = {
            "recipe": self.record.get("recipe"),
            "config_hash": self.record.get("settings"),
            "data.manifest_sha256": self.data,
            "git_commit": self.record.get("git_commit"),
            **facts,
        }
        parent = self.record.get("mlflow", {}).get("run_id")
        known = {name: str(value) for name, value in tags.items() if value is not None}
        return register(self.run_dir, Path(exported["folder"]), self.name, known, self._figures(**facts), parent)

    def _figures(self, stage: str, step: int, weights: str, **_: Any) -> dict[str, float]:
        """The losses of the stage's last step before the checkpoint, and the sync figures of samples made from the same weights."""
        figures: dict[str, float] = {}
        spool = self.run_dir / "metrics" / f"{stage}.jsonl"
        for line in spool.read_text(encoding="utf-8", errors="replace").splitlines() if spool.is_file() else ():
            figures |= {k: v for k, v in _metrics(line, step - 1).items() if FIGURES.fullmatch(k)}
        path = self.run_dir / "samples" / "samples.json"
        samples = read_json(path, "samples") if path.is_file() else {}
        last = {s["name"]: s["steps"] for s in self.record["config"]["stages"]}.get(stage)
        if samples.get("stage") == stage and (step, weights) == (last, "ema"):
            figures |= {f"sync/{mode}/{k}": float(s[k]) for mode, s in samples["sync"].items() for k in ("matched", "shuffled", "gap")}
        return figures


def open_registration(run: str, name: str) -> Registration:
    """Before anything is exported.

    Raises:
        ValueError: no registered model can be called so, or this is not the folder of a run.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,199}", name):
        raise ValueError(f"--register={name!r}: a model's name has letters, digits, dots, spaces, hyphens and underscores, at most 200")
    run_dir = Path(run) if run.startswith("s3://") else local_path("run", run)
    if not (run_dir / RUN).is_file() or not (run_dir / "data" / MANIFEST).is_file():
        raise ValueError(f"--register={name!r}: a version tells its data and recipe, and {run!r} has none; give the run folder")
    return Registration(run_dir, read_json(run_dir / RUN, "run"), sha256_file(run_dir / "data" / MANIFEST), name)


def _metrics(line: str, step: int) -> dict[str, float]:
    """The finite metrics of a spool's line, if it is whole and of this step."""
    try:
        record = json.loads(line)
        values = record["metrics"] if record["step"] == step else {}
        return {k: float(v) for k, v in values.items() if v is not None and math.isfinite(v)}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
