"""What the terminal says of a stretch of training, as parts in the order of their weight: a narrow terminal shows the first of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

AGE, LOSS = "age/", "loss/"
ASIDE = {"loss/fake_fresh"}  # the fake score's loss before its updates: beside `loss/fake` it tells a reader nothing


def interval_parts(
    stage: str, steps: int, records: Sequence[Mapping[str, Any]], before: Mapping[str, Any] | None, rate: float | None
) -> list[str]:
    """Parts of the line for a stage of `steps` steps, from the records of the spool in the interval. before: the record before them, if
    this attempt made it. rate: steps a second so far, for the time that is left.
    """
    metrics = [record["metrics"] for record in records]
    done, seconds = records[-1]["step"] + 1, _seconds(records, before)
    parts = [stage, f"{done:>{len(str(steps))}}/{steps}"]
    if rate and done < steps:
        parts.append(f"{_clock((steps - done) / rate)} left")
    parts += [f"loss {_figure(_mean(metrics, 'loss'))}"] if any("loss" in m for m in metrics) else []
    for name, unit in (("samples_per_s", "clips/s"), ("tokens_per_s", "tokens/s")):
        if seconds and (made := sum(m.get(name, 0.0) * m["step_s"] for m in metrics if m.get("step_s"))):
            parts.append(f"{_count(made / seconds)} {unit}")
    if ages := sorted({int(name.removeprefix(AGE)) for m in metrics for name in m if name.startswith(AGE)}):
        parts.append(f"age {ages[0]}" if ages[0] == ages[-1] else f"age {ages[0]}-{ages[-1]}")
    if any("mfu" in m for m in metrics):
        parts.append(f"MFU {100 * _mean(metrics, 'mfu'):.1f} %")
    shown = dict.fromkeys(name for m in metrics for name in m if (name.startswith(LOSS) and name not in ASIDE) or name == "dmd")
    if len(shown) < 2:
        return parts  # it is the loss
    return parts + [f"{name.removeprefix(LOSS).replace('_', ' ')} {_figure(_mean(metrics, name))}" for name in shown]


def _seconds(records: Sequence[Mapping[str, Any]], before: Mapping[str, Any] | None) -> float:
    """Between the end of the step before them and that of the last: waits and checkpoints count. The first step of all has no step before
    it, and takes what it says.
    """
    if before is not None:
        return records[-1]["time"] - before["time"]
    return records[-1]["time"] - records[0]["time"] + (records[0]["metrics"].get("step_s") or 0.0)


def _mean(metrics: Sequence[Mapping[str, float | None]], name: str) -> float:
    """Over the steps that have it; one that is not finite makes it so."""
    values = [m[name] for m in metrics if name in m]
    return sum(float("nan") if v is None else v for v in values) / len(values)


def _figure(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if isfinite(value) else "not finite"


def _count(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{_figure(value / size)}{letter}"
    return _figure(value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
