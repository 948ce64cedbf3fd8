"""What the verbs do with runs and their folders: configuration from words, the outcome in a few lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..datasets.places.storage import local_path, read_json
from ..datasets.places.store import is_remote
from .config import RunConfig, with_settings
from .recipes import recipe


def configured(name: str, media: str | Sequence[str] | None, assignments: list[str], data: str | None = None) -> RunConfig:
    """A recipe with the user's media or prepared dataset (`data`), and settings."""
    config = recipe(name)
    if data is not None:
        if media is not None:
            raise ValueError(f"--data={data!r}, --media={media!r}: a prepared dataset is used as it is; give one of the two")
        assignments = [f"data.prepared={json.dumps(data if is_remote(data) else str(local_path('--data', data)))}", *assignments]
    given = (media,) if isinstance(media, str) else tuple(media or ())
    if given and given != ("synthetic",):
        named = tuple(name if is_remote(name) else str(local_path("--media", name)) for name in given)
        config = replace(config, data=replace(config.data, media=named[0] if len(named) == 1 else named))
    settled = with_settings(config, assignments)
    return replace(settled, init=settled.init.absolute())  # the record of the run is read from elsewhere


def default_run_dir(config: RunConfig) -> Path:
    """runs/NAME, with a suffix for the user's own media or dataset, so that two folders never share a run."""
    data = config.data
    own = data.prepared or ("" if data.is_synthetic else "\n".join(data.inputs))
    suffix = "-" + hashlib.sha256(own.encode()).hexdigest()[:6] if own else ""
    return local_path("--out", Path("runs") / f"{config.name}{suffix}")


def outcome(run_dir: Path) -> dict[str, Any]:
    """What a finished run came to: its stages with their loss on fixed clips and noise, and the sync figures.

    `sync` is None where the measure does not hold.
    """
    record = read_json(run_dir / "run.json", "run")
    stages = []
    for stage in record["stages"]:
        lines = (run_dir / "metrics" / f"{stage['name']}.jsonl").read_text().splitlines()
        probes = [value for line in lines if (value := json.loads(line)["metrics"].get("probe/loss")) is not None]
        before, after = (round(probes[i], 4) if probes else None for i in (0, -1))
        stages.append({k: stage[k] for k in ("name", "steps", "seconds")} | {"loss_before": before, "loss_after": after})
    samples = read_json(run_dir / "samples" / "samples.json", "samples")
    return {
        "run": str(run_dir),
        "report": str(run_dir / "report.html"),
        "total_seconds": record["total_seconds"],
        "stages": stages,
        "sync": samples["sync"] if samples["proxy_valid"] else None,
    }
