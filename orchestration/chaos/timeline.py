"""What was done to a run and what it did, on one clock, as a PNG: loss of the steps that count, steps as they came, events with what
recovery took.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from .conduct import Chaos, Happened
from .schedule import KINDS

SIZE = (11.0, 7.5)
COLOURS = {  # of Okabe and Ito: told apart by most eyes
    "worker": "#D55E00",
    "rollout": "#0072B2",
    "coordinator": "#CC79A7",
    "data": "#009E73",
    "driver": "#000000",
    "freeze": "#56B4E9",
    "s3": "#E69F00",
    "tracker": "#8C6D31",
    "media": "#7F7F7F",
}
SHADES = ("#F4F4F4", "#FFFFFF")
LINE = "#33415C"
NAMED = 0.08  # of the time: a shorter stage has no room for its name
PAUSE = 20.0  # seconds without a step, which no line bridges
ROOM = 1.12  # of the time, for what is written behind the last bar


def draw(chaos: Chaos, title: str, path: Path) -> None:
    """Draw and write it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    happened = [h for h in chaos.happened if not h.missed]
    kinds = [kind for kind in KINDS if any(h.event.kind == kind for h in happened)] or ["worker"]
    heights = (2.0, 2.4, 0.5 + 0.34 * len(kinds))
    drawn, (loss, steps, rows) = plt.subplots(3, 1, figsize=SIZE, sharex=True, layout="constrained", height_ratios=heights)
    _stages(chaos, (loss, steps, rows))
    _loss(chaos, loss)
    _steps(chaos, steps)
    _events(chaos, happened, kinds, rows)
    for h in happened:
        for axes in (loss, steps):
            axes.axvline(_minutes(chaos, h.at), color=COLOURS[h.event.kind], linewidth=1.0, alpha=0.75, zorder=1)
            if h.recovery_s is not None:
                span = _minutes(chaos, h.at), _minutes(chaos, h.at + h.recovery_s)
                axes.axvspan(*span, color=COLOURS[h.event.kind], alpha=0.12, linewidth=0, zorder=0)
    rows.set_xlabel("minutes")
    rows.set_xlim(0, ROOM * max([_minutes(chaos, s.at) for s in chaos.course[-1:]] + [1.0]))
    for axes in (loss, steps, rows):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    verdict = chaos.verdict
    said = "account clean" if verdict.get("clean") else f"{len(verdict.get('faults', []))} faults"
    goes_on = "finished" if verdict.get("finished") else "training goes on" if verdict.get("goes_on") else "stopped"
    drawn.suptitle(f"{title}: {len(happened)} events, {said}, {goes_on}", fontsize=11, x=0.01, ha="left")
    drawn.savefig(path, dpi=120)
    plt.close(drawn)


def _minutes(chaos: Chaos, at: float) -> float:
    return (at - chaos.begin) / 60


def _stages(chaos: Chaos, every: Sequence[Any]) -> None:
    """Shade the time of each stage, and name it above."""
    seen = [s for s in chaos.course if s.stage >= 0]
    starts = [(stage, next(group).at) for stage, group in groupby(seen, key=lambda s: s.stage)]
    ends = [at for _, at in starts[1:]] + ([seen[-1].at] if seen else [])
    for i, ((stage, begin), end) in enumerate(zip(starts, ends, strict=True)):
        low, high = max(_minutes(chaos, begin), min(0.0, _minutes(chaos, seen[0].at))), _minutes(chaos, end)
        for axes in every:
            axes.axvspan(low, high, color=SHADES[i % 2], zorder=-1, linewidth=0)
        low = max(low, 0.0)
        if high - low > NAMED * _minutes(chaos, seen[-1].at):
            every[0].text((low + high) / 2, 1.02, chaos.stages[stage], transform=every[0].get_xaxis_transform(), ha="center", fontsize=8)


def _loss(chaos: Chaos, axes: Any) -> None:
    axes.set_ylabel("loss (steps that count)", fontsize=9)
    for _, points in groupby(chaos.curve, key=lambda p: p[1]):
        shown = [p for p in points if p[0] >= chaos.begin]
        moments, values = list[float](), list[float]()
        for before, (at, _, _, loss) in zip([None, *shown], shown, strict=False):
            if before is not None and at - before[0] > PAUSE:
                moments, values = [*moments, math.nan], [*values, math.nan]
            moments, values = [*moments, _minutes(chaos, at)], [*values, loss]
        axes.plot(moments, values, ".-", color=LINE, linewidth=0.8, markersize=2.5)


def _steps(chaos: Chaos, axes: Any) -> None:
    """As they were seen: where an attempt goes on from a checkpoint, the line falls."""
    axes.set_ylabel("step of the stage, as seen", fontsize=9)
    seen = [s for s in chaos.course if s.stage >= 0]
    for _, group in groupby(seen, key=lambda s: s.stage):
        points = list(group)
        axes.step([_minutes(chaos, s.at) for s in points], [s.steps for s in points], where="post", color=LINE, linewidth=1.4)
    axes.set_ylim(bottom=0)


def _events(chaos: Chaos, happened: Sequence[Happened], kinds: Sequence[str], axes: Any) -> None:
    """A row a kind: a bar from an event until training was past it, and how long that took."""
    for h in happened:
        row, at = kinds.index(h.event.kind), _minutes(chaos, h.at)
        colour = COLOURS[h.event.kind]
        axes.plot([at], [row], "o", color=colour, markersize=5, zorder=3)
        if h.recovery_s is None:
            axes.text(at, row + 0.02, "  has not gone on", va="center", fontsize=8, color="#B00020", weight="bold")
        else:
            axes.barh(row, h.recovery_s / 60, left=at, height=0.5, color=colour, alpha=0.55, linewidth=0)
            whom = (f" {h.event.of}" if h.event.of else "") + (" (unknown whether it happened)" if h.unknown else "")
            # Above its bar: behind it, the next event of the kind may stand.
            axes.text(at, row - 0.27, f"{h.recovery_s:.0f} s{whom}", va="bottom", fontsize=8)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.set_ylabel("event, and until past it", fontsize=9)
