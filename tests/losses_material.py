"""Finished run folders without a training: their losses are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mutual_forcing.orchestration.config import RunConfig


def make_run(folder: Path, config: RunConfig, change: Callable[[str, int, dict[str, Any]], None] = lambda *_: None) -> Path:
    """A finished run folder whose losses fall alike for every seed, but for noise; `change` edits a step's metrics."""
    (folder / "metrics").mkdir(parents=True)
    draw = np.random.default_rng(config.seed)
    for stage in config.stages:
        lines = []
        for step in range(stage.steps):
            metrics: dict[str, Any] = {"loss": (2 - step / stage.steps) * draw.normal(1, 0.05), "loss/fm_video": 1.0, "skipped": 0.0}
            change(stage.name, step, metrics)
            lines.append(json.dumps({"stage": stage.name, "step": step, "time": 0.0, "metrics": metrics}))
        (folder / f"metrics/{stage.name}.jsonl").write_text("\n".join(lines) + "\n")
    record = {"name": config.name, "recipe": config.name, "finished": True, "config": asdict(config)}
    record |= {"versions": dict.fromkeys(("python", "torch", "ray", "deepspeed"), "1.0"), "machine": {"system": "Linux x86_64"}}
    record |= {"commands": [f"mutual-forcing train {config.name} --set seed={config.seed} --out {folder}"]}
    (folder / "run.json").write_text(json.dumps(record))
    return folder
