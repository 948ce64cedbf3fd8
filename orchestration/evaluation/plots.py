"""All figures of an evaluation as one PNG: a small plot each, runs side by side in every window, real clips as a line."""

from __future__ import annotations

import math
from pathlib import Path

from .result import Evaluation

COLUMNS, SIZE = 4, (3.6, 2.5)


def plot(evaluation: Evaluation, path: Path) -> None:
    """Draw and write it; figures that no run has are left out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    windows = evaluation.windows
    shown = [a for a in evaluation.metrics if any(_known(evaluation, a.name))]
    rows = max(1, math.ceil(len(shown) / COLUMNS))
    drawn, grid = plt.subplots(rows, COLUMNS, figsize=(COLUMNS * SIZE[0], rows * SIZE[1]), layout="constrained", squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.axis("off")
    for about, axes in zip(shown, grid.flat, strict=False):
        real = evaluation.real[about.name].estimate if about.name in evaluation.real else None
        if real is not None:
            axes.axhline(real.value, color="0.4", linestyle="--", linewidth=1, label="real")
            if math.isfinite(real.low):
                axes.axhspan(real.low, real.high, color="0.5", alpha=0.15, linewidth=0)
        for k, run in enumerate(evaluation.runs):
            beside = 0.12 * (k - (len(evaluation.runs) - 1) / 2)
            found = [(i + beside, figure.estimate) for i, w in enumerate(windows) if (figure := run.windows[w].get(about.name)) is not None]
            known = [(x, e) for x, e in found if e is not None]
            errors = [[_reach(e.value - e.low) for _, e in known], [_reach(e.high - e.value) for _, e in known]]
            axes.errorbar(
                [x for x, _ in known], [e.value for _, e in known], errors, marker="o", markersize=4, linewidth=1.2, label=run.name
            )
        unit = f" ({about.unit})" if about.unit else ""
        axes.set_title(about.name + unit, fontsize=9)
        axes.set_xticks(range(len(windows)), [w.name for w in windows], fontsize=8)
        axes.set_xlim(-0.5, len(windows) - 0.5)
        axes.tick_params(axis="y", labelsize=8)
    if shown:
        handles = {label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        drawn.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=6, frameon=False, fontsize=9)
    drawn.savefig(path, dpi=110)
    plt.close(drawn)


def _known(evaluation: Evaluation, name: str) -> list[bool]:
    return [name in run.windows[w] and run.windows[w][name].estimate is not None for run in evaluation.runs for w in evaluation.windows]


def _reach(length: float) -> float:
    """Of an error bar: an interval may lie beside its value, and may not be known."""
    return max(0.0, length) if math.isfinite(length) else 0.0
