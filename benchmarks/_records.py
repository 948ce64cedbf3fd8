"""What a comparison measured: read from its folder, kept as one small file beside the pages that are made of it, averaged over seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ._runs import Arm, settings_of
from ._training import Scale

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
NOT_KEPT = ("training", "made_with", "train_seconds", "seconds")
DIGITS = 6  # of a figure in a kept file: pages show three

Records = dict[str, dict[int, dict[str, Any]]]
"""Arm -> seed -> what was measured."""


def read_records(out: Path, scale: Scale, arms: list[Arm]) -> Records:
    """The records below `out` of all of a comparison's arms, in their order; those of earlier calls too.

    Raises:
        ValueError: one was measured on another scale, or is of no such arm, or of one with other settings.
    """
    known = {arm.name: settings_of(scale, arm) for arm in arms}
    found: Records = {}
    for path in sorted(out.glob("seed-*/*.json")):
        record = json.loads(path.read_text())
        made, wanted = record["made_with"], known.get(record["name"])
        if wanted is None or made["scale"] != wanted["scale"] or made["arm"]["objective"] != wanted["arm"]["objective"]:
            raise ValueError(f"--out={str(out)!r}: {path} was measured with other settings; choose another folder, or remove the file")
        found.setdefault(record["name"], {})[record["seed"]] = record
    return {name: found[name] for name in known if name in found}


def keep(records: Records, path: Path) -> None:
    """Write what pages are made of: without the course of the training, and times, which hang on what else the machine did."""
    lines = [json.dumps(_kept(record)) for seeds in records.values() for record in seeds.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def kept(path: Path) -> Records:
    """What `keep` wrote."""
    found: Records = {}
    for record in json.loads(path.read_text(encoding="utf-8")):
        found.setdefault(record["name"], {})[record["seed"]] = record
    return found


def _kept(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _kept(v) for k, v in value.items() if k not in NOT_KEPT}
    return round(value, DIGITS) if isinstance(value, float) else value


def interval(values: list[float]) -> dict[str, float | None]:
    """Mean and half width of its 95 % interval over seeds (None for one seed)."""
    x = torch.tensor(values, dtype=torch.float64)
    half = None if len(x) < 2 else float(x.std() / len(x) ** 0.5) * STUDENT[min(len(x) - 2, len(STUDENT) - 1)]
    return {"mean": float(x.mean()), "half": half, "seeds": len(values)}
