"""Measured speeds in the place of assumed ones: a file of steps whose work is known.

    {"device": "NVIDIA H200", "precision": "bf16", "steps": [{"flops": 1.2e15, "bytes": 4.1e11, "seconds": 0.92}, ...]}

`bench plan --calibrate FILE` writes one. A step's time is taken as flops / speed + bytes / bandwidth, both by least squares over the
relative errors; steps of one ratio of the two cannot tell them apart, and then the bandwidth is the data sheet's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

MOST = 1 << 20  # bytes of a file


@dataclass(frozen=True)
class Measured:
    """One step: work in FLOPs, bytes that the optimizer and the average move, seconds that it took."""

    flops: float
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Calibration:
    """device: what was measured, as its driver names it; precision: of the network under training, `bf16` or `fp32`."""

    device: str
    precision: str
    steps: tuple[Measured, ...]

    def speeds(self, bandwidth: float) -> tuple[float, float]:
        """FLOP/s and bytes/s that the steps were computed at. bandwidth: where they do not tell."""
        return fitted(self.steps, bandwidth)

    def require(self, kind: str, device: str, precision: str) -> None:
        """Raises:
        ValueError: it is of another GPU than `kind`, which its driver calls `device`, or of another precision than the recipe's.
        """
        if self.device != device:
            raise ValueError(f"--calibration: of {self.device!r}, --gpu={kind} is {device!r}; measure that one")
        if self.precision != precision:
            raise ValueError(
                f"--calibration: measured in {self.precision}, and the recipe trains in {precision}; measure with `bench plan --calibrate "
                f"--precision {precision}`, or give --set engine.precision={self.precision}"
            )


def fitted(steps: Sequence[Measured], bandwidth: float) -> tuple[float, float]:
    """FLOP/s and bytes/s by which the steps took as long as they did."""
    rows = [(s.flops / s.seconds, s.bytes / s.seconds) for s in steps]
    ff, fb, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    f, b = sum(row[0] for row in rows), sum(row[1] for row in rows)
    determinant = ff * bb - fb * fb
    if determinant > 1e-3 * ff * bb:
        per_flop, per_byte = (f * bb - b * fb) / determinant, (b * ff - f * fb) / determinant
        if per_flop > 0 and per_byte > 0:
            return 1 / per_flop, 1 / per_byte
    left = [(row[0], max(1e-6, 1 - row[1] / bandwidth)) for row in rows]  # what the data sheet's bandwidth leaves for the arithmetic
    return sum(x * x for x, _ in left) / sum(x * rest for x, rest in left), bandwidth


def read_calibration(path: Path) -> Calibration:
    """The calibration of a file.

    Raises:
        ValueError: it is missing, too large, no such JSON, or has a value that is no positive number.
    """
    try:
        if path.stat().st_size > MOST:
            raise ValueError(f"it is larger than {MOST} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or (extra := data.keys() - {"device", "precision", "steps"}):
            raise ValueError(f"it has {sorted(extra)}" if isinstance(data, dict) else "it is no JSON object")
        if data["precision"] not in ("bf16", "fp32") or not data["steps"]:
            raise ValueError("its precision is not bf16 or fp32, or it has no steps")
        steps = tuple(Measured(**{name: _positive(f"steps.{name}", row[name]) for name in row}) for row in data["steps"])
        return Calibration(str(data["device"]), data["precision"], steps)
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(
            f"--calibration={str(path)!r}: is none ({type(error).__name__}: {why}); make one with `bench plan --calibrate`"
        ) from None


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write what `read_calibration` reads."""
    made = {"device": calibration.device, "precision": calibration.precision, "steps": [vars(step) for step in calibration.steps]}
    path.write_text(json.dumps(made) + "\n", encoding="utf-8")


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value <= 0:
        raise ValueError(f"{name}={value!r}: must be a positive number")
    return float(value)
