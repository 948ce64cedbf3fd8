"""What an evaluation found, and as JSON: figures of every run in every window, of real clips, and differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...workers.evaluation.clip import About
from ...workers.evaluation.figures import Figure, difference
from ...workers.evaluation.gathering import Window
from ...workers.evaluation.intervals import Estimate

VERSION = 1


@dataclass(frozen=True)
class Judged:
    """A run's figures by window and name, and how its clips were made: `about` holds plain values."""

    name: str
    about: Mapping[str, Any]
    windows: Mapping[Window, Mapping[str, Figure]]

    def degradation(self) -> dict[str, Estimate]:
        """Figures of the last window minus those of the first, clip by clip."""
        first, *_, last = [*self.windows.values(), *self.windows.values()]
        return {} if len(self.windows) < 2 else _differences(first, last)


@dataclass(frozen=True)
class Shown:
    """A clip to look at: files in the folder of the evaluation, by the name of who made it."""

    id: str
    caption: str
    words: str
    real: str
    made: Mapping[str, str]


@dataclass(frozen=True)
class Evaluation:
    """settings: what it was made with, plain values. real: figures of real clips, each whole. runs: in the order given."""

    settings: Mapping[str, Any]
    metrics: Sequence[About]
    real: Mapping[str, Figure]
    runs: Sequence[Judged]
    clips: Sequence[Shown]

    @property
    def windows(self) -> list[Window]:
        return list(self.runs[0].windows)

    def differences(self) -> list[tuple[str, str, Window, dict[str, Estimate]]]:
        """(run, the first run, window, the one's figures minus the other's), clip by clip."""
        first, *others = self.runs
        return [(o.name, first.name, w, _differences(first.windows[w], o.windows[w])) for o in others for w in self.windows]

    def json(self) -> dict[str, Any]:
        """All of it as plain values; what is no number is null."""
        return {
            "version": VERSION,
            **self.settings,
            "metrics": [asdict(about) for about in self.metrics],
            "real": {name: _figure(figure) for name, figure in self.real.items()},
            "runs": [
                {
                    "name": run.name,
                    **run.about,
                    "windows": {w.name: {name: _figure(figure) for name, figure in found.items()} for w, found in run.windows.items()},
                    "last_window_minus_first": _estimates(run.degradation()),
                }
                for run in self.runs
            ],
            "differences": [
                {"run": run, "minus": other, "window": window.name, "figures": _estimates(found)}
                for run, other, window, found in self.differences()
            ],
            "clips": [asdict(clip) for clip in self.clips],
        }


def verdict(about: About, apart: Estimate) -> str:
    """`better` or `worse` where the interval of a difference excludes 0, `apart` where the figure has no better side; else nothing."""
    if math.isnan(apart.low) or apart.low <= 0 <= apart.high:
        return ""
    if about.higher_is_better is None:
        return "apart"
    return "better" if (apart.value > 0) == about.higher_is_better else "worse"


def _differences(first: Mapping[str, Figure], other: Mapping[str, Figure]) -> dict[str, Estimate]:
    found = {name: difference(first[name], figure) for name, figure in other.items() if name in first}
    return {name: apart for name, apart in found.items() if apart is not None}


def _estimates(found: Mapping[str, Estimate]) -> dict[str, Any]:
    return {name: {"value": _number(e.value), "low": _number(e.low), "high": _number(e.high)} for name, e in found.items()}


def _figure(figure: Figure) -> dict[str, Any]:
    told = {"clips": figure.clips} | ({"why": figure.why} if figure.why else {})
    if figure.estimate is None:
        return {"value": None, **told}
    values = {"values": [_number(v) for v in figure.values]} if figure.values else {}
    return _estimates({"": figure.estimate})[""] | told | values


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
