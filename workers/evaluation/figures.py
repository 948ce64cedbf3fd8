"""From what was gathered to figures with intervals, and to differences of runs and of windows, clip by clip.

Gathered of a run, of real clips -> figures: metric -> Figure        Figure, Figure -> difference -> Estimate
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .clip import About, ClipMetric, FeatureMetric, NotApplicable, PeersMetric
from .gathering import Cell, Gathered, Metric, Window
from .intervals import LEAST, SET_DRAWS, Estimate, centred_estimate, mean_estimate, redraws


@dataclass(frozen=True)
class Figure:
    """A figure of a set of clips in one window.

    estimate: None where it does not apply, with the reason in `why`; of some clips alone, `clips` says of how many, and `why` why not of
    the others. values: of each clip, NaN where it has none; draws: of the set, for each redraw of its clips. One of the two is empty.
    """

    about: About
    estimate: Estimate | None
    clips: int
    why: str = ""
    values: tuple[float, ...] = ()
    draws: tuple[float, ...] = ()


def figures(
    own: Gathered, window: Window, reference: Gathered | None = None, per_clip: Sequence[int] = (), same: Gathered | None = None
) -> dict[str, Figure]:
    """All figures of a set of clips in a window, by name.

    reference: other real clips, all of each, that distributions of features are compared with. per_clip: how many features of each clip
    are, metric by metric (0: all), so that windows of different length hold equal counts. same: the real clips of the same ids, for metrics
    of whole sets.
    """
    found: dict[str, Figure] = {}
    for m, metric in enumerate(own.metrics):
        cells = own.cells(window, m)
        if isinstance(metric, FeatureMetric):
            real = None if reference is None else reference.cells(reference.windows[0], m)
            found |= _of_features(metric, cells, real, per_clip[m] if per_clip else 0)
        elif isinstance(metric, PeersMetric):
            kept = [i for i, cell in enumerate(cells) if not cell.why]
            each: list[dict[str, float]] = [{} for _ in cells]
            for i, values in zip(kept, metric.of_each([cells[i].kept for i in kept]), strict=True):
                each[i] = values
            found |= _of_values(metric, each, cells)
        elif isinstance(metric, ClipMetric):
            found |= _of_values(metric, [{} if cell.why else cell.kept for cell in cells], cells)
        else:
            found |= _of_sets(metric, cells, None if same is None else same.cells(same.windows[0], m))
    return found


def fewest_features(gathered: Sequence[Gathered]) -> list[int]:
    """Metric by metric: the most features that every clip has in every window where it has any; 0 where no clip has one."""

    def counts(m: int) -> list[int]:
        cells = [cell for one in gathered for window in one.windows for cell in one.cells(window, m)]
        return [len(cell.kept) for cell in cells if not cell.why]

    return [min(counts(m), default=0) if isinstance(metric, FeatureMetric) else 0 for m, metric in enumerate(gathered[0].metrics)]


def difference(a: Figure, b: Figure) -> Estimate | None:
    """b - a over the clips that both have, paired; None where one does not apply or nothing pairs."""
    if a.estimate is None or b.estimate is None:
        return None
    if a.values and len(a.values) == len(b.values):
        apart = np.array(b.values) - np.array(a.values)
        return mean_estimate(apart) if np.isfinite(apart).any() else None
    apart = np.array(b.draws) - np.array(a.draws) if len(a.draws) == len(b.draws) else np.zeros(0)
    return centred_estimate(b.estimate.value - a.estimate.value, apart)


def _of_values(metric: Metric, each: Sequence[dict[str, float]], cells: Sequence[Cell]) -> dict[str, Figure]:
    found = {}
    for about in metric.about:
        values = np.array([values.get(about.name, math.nan) for values in each], dtype=float)
        values[~np.isfinite(values)] = math.nan
        count = int(np.isfinite(values).sum())
        why = _reason([cell.why or "the metric has no value for it" for cell, v in zip(cells, values, strict=True) if math.isnan(v)])
        found[about.name] = Figure(about, mean_estimate(values) if count else None, count, why, tuple(values.tolist()))
    return found


def _of_features(metric: FeatureMetric, cells: Sequence[Cell], real: Sequence[Cell] | None, per_clip: int) -> dict[str, Figure]:
    mine = [_evenly(cell.kept, per_clip) for cell in cells if not cell.why]
    theirs = [_evenly(cell.kept, per_clip) for cell in real or () if not cell.why]
    why = _reason([cell.why for cell in (*cells, *(real or ())) if cell.why])
    if not mine or not theirs:
        return _none(metric, why or "there are no real clips to compare with")
    reference = np.concatenate(theirs)
    try:
        values = metric.between(reference, np.concatenate(mine))
    except NotApplicable as reason:
        return _none(metric, str(reason))
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for numbers in redraws(len(mine), SET_DRAWS) if len(mine) >= LEAST else ():
        for name, value in metric.between(reference, np.concatenate([mine[i] for i in numbers])).items():
            drawn[name].append(value)
    return {
        about.name: Figure(
            about, centred_estimate(values[about.name], np.array(drawn[about.name])), len(mine), why, draws=tuple(drawn[about.name])
        )
        for about in metric.about
        if about.name in values
    }


def _of_sets(metric: Metric, cells: Sequence[Cell], real: Sequence[Cell] | None) -> dict[str, Figure]:
    """Metrics of whole sets are computed once, and have no interval."""
    assert not isinstance(metric, ClipMetric | FeatureMetric | PeersMetric)
    mine, theirs = ([cell.kept for cell in some or () if not cell.why] for some in (cells, real))
    if not mine or not theirs:
        return _none(metric, _reason([cell.why for cell in cells if cell.why]) or "there are no real clips to compare with")
    try:
        values = metric.of_sets(theirs, mine)
    except NotApplicable as reason:
        return _none(metric, str(reason))
    return {a.name: Figure(a, Estimate(values[a.name], math.nan, math.nan), len(mine)) for a in metric.about if a.name in values}


def _none(metric: Metric, why: str) -> dict[str, Figure]:
    return {about.name: Figure(about, None, 0, why) for about in metric.about}


def _evenly(features: np.ndarray, count: int) -> np.ndarray:
    """`count` of the vectors [n, D], as far apart as they can be."""
    if not count or len(features) <= count:
        return features
    return features[np.linspace(0, len(features) - 1, count).round().astype(int)]


def _reason(reasons: Sequence[str]) -> str:
    """The most frequent one, with how many others there are."""
    if not reasons:
        return ""
    [(most, count)] = Counter(reasons).most_common(1)
    return most if count == len(reasons) else f"{most} ({count} clips; {len(reasons) - count} more for other reasons)"
