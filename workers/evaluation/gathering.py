"""What is kept of a set of clips while they come and go, window by window: a clip is judged when it arrives, and then let go.

EvalClip -> cut to each window -> each metric -> Cell: figures | signals | features | the clip itself (metrics of whole sets) | a reason
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .clip import ClipMetric, EvalClip, FeatureMetric, NotApplicable, PeersMetric, SetMetric

Metric = ClipMetric | SetMetric | FeatureMetric | PeersMetric
LONGEST_S = 600.0


@dataclass(frozen=True)
class Window:
    """From `start` to `end` seconds of a clip."""

    start: float
    end: float

    @property
    def name(self) -> str:
        return f"{self.start:g}-{self.end:g} s"

    @property
    def seconds(self) -> float:
        return self.end - self.start


WHOLE = Window(0.0, LONGEST_S)  # of a clip, whatever its length


def parse_windows(text: str, field: str = "--windows") -> tuple[Window, ...]:
    """`0-5,5-15` as windows; field: what they were given as.

    Raises:
        ValueError: it is no list of spans in seconds that begin before they end.
    """
    found = []
    for part in text.split(","):
        start, dash, end = part.strip().partition("-")
        try:
            window = Window(float(start), float(end)) if dash else None
        except ValueError:
            window = None
        if window is None or not 0 <= window.start < window.end <= LONGEST_S:
            raise ValueError(f"{field}={text[:100]!r}: {part[:40]!r} is no span in seconds up to {LONGEST_S:g}; give such as 0-5,5-15")
        if window in found:
            raise ValueError(f"{field}={text[:100]!r}: {part[:40]!r} stands in it twice")
        found.append(window)
    return tuple(found)


@dataclass(frozen=True)
class Cell:
    """What one metric keeps of one clip in one window; why: the reason why there is nothing."""

    kept: Any = None
    why: str = ""


class Gathered:
    """A set of clips, real or of one run, under all metrics. Clips are added in the order of their prompts."""

    def __init__(self, metrics: Sequence[Metric], windows: Sequence[Window]) -> None:
        self.metrics, self.windows = list(metrics), list(windows)
        self.ids: list[str] = []
        self._cells: dict[tuple[Window, int], list[Cell]] = {(w, m): [] for w in windows for m in range(len(metrics))}

    def add(self, clip: EvalClip) -> None:
        """Judge a clip by itself."""
        self.ids.append(clip.id)
        for window in self.windows:
            try:
                part, gone = clip.cut(window.start, window.end), ""
            except NotApplicable as reason:
                part, gone = None, str(reason)
            for m, metric in enumerate(self.metrics):
                self._cells[window, m].append(Cell(why=gone) if part is None else _cell(metric, part))

    def cells(self, window: Window, metric: int) -> list[Cell]:
        """One for each clip."""
        return self._cells[window, metric]


def _cell(metric: Metric, part: EvalClip) -> Cell:
    try:
        if isinstance(metric, FeatureMetric):
            return Cell(metric.features(part))
        if isinstance(metric, PeersMetric):
            return Cell(metric.keep(part))
        if isinstance(metric, ClipMetric):
            return Cell(metric.of_clip(part))
        return Cell(part)
    except NotApplicable as reason:
        return Cell(why=str(reason))
