"""The report's three plots, as small hand-made SVG.

Strokes and fills are CSS classes (page.css.j2), so that one drawing serves light and dark pages, print and a phone's width: nothing is
rasterised, and text stays text. All coordinates are in the units of the `viewBox`, about one CSS pixel at full width.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from ..reference import Band
from ..run_reader import Series

MAX_POINTS = 400  # a curve a few hundred pixels wide shows no more


@dataclass(frozen=True)
class Interval:
    """A measured value with its interval; `low <= value <= high` is not assumed (a bootstrap may disagree with the mean)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Shade:
    """The normal range of one curve, drawn behind it. steps: edges of the parts; judged: whether it gives a verdict, else fainter."""

    css_class: str
    steps: tuple[int, ...]
    band: Band
    judged: bool

    @property
    def shown(self) -> np.ndarray:
        """The levels that the axis makes room for: all, but for a lower edge at or near zero, which would stretch a logarithmic axis."""
        level, low, high = self.band.level, self.band.low, self.band.high
        return np.concatenate([np.where(level > 0, np.maximum(low, level / 3), low), high])


@dataclass(frozen=True)
class Frame:
    """Maps data to the plot area: `x` and `y` ranges in data units, `log` for the y axis, pixel box in viewBox units."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False
    width: float = 420
    height: float = 230
    left: float = 44
    right: float = 14
    top: float = 10
    bottom: float = 26

    def px(self, value: float) -> float:
        low, high = self.x
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        low, high = (math.log(v) for v in self.y) if self.log else self.y
        position = (math.log(max(value, 1e-30)) if self.log else value) - low
        return self.height - self.bottom - position / (high - low) * (self.height - self.top - self.bottom)


def smooth(values: np.ndarray) -> np.ndarray:
    """Moving mean `[n] -> [n]` over a tenth of the values, centred, one-sided at the ends: no lag, and no padding that was not measured."""
    reach = len(values) // 20
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def loss_chart(curves: Sequence[tuple[str, Series]], label: str, shades: Sequence[Shade] = ()) -> Markup:
    """Loss against step: for each `(css class, series)` raw values faint under a smoothed line, over the range that is normal for it;
    log scale when the range asks for it.
    """
    smoothed = [smooth(series.values) for _, series in curves]
    frame = _loss_frame(curves, smoothed, shades)
    body = [*(_shade(frame, shade) for shade in shades), _y_grid(frame), _x_ticks(frame, name="step ")]
    for css_class, series in curves:
        body.append(_line(frame, series.steps, series.values, f"raw {css_class}"))
    # The total, first in the list, is drawn last: it lies on top.
    for (css_class, series), values in reversed(list(zip(curves, smoothed, strict=True))):
        body.append(_line(frame, series.steps, values, f"smooth {css_class}"))
    return _svg(frame, body, label)


def age_chart(counts: dict[int, float], label: str) -> Markup:
    """Bars of the share of rollouts at each integer age, every age from 0 to the largest one shown."""
    total = sum(counts.values())
    oldest = max([*counts, 3])
    frame = Frame(x=(-0.5, oldest + 0.5), y=(0, 1.0), height=190, top=18)
    body: list[Markup] = [_y_grid(frame, percent=True)]
    width = min(46.0, 0.7 * (frame.px(1) - frame.px(0)))
    every = max(1, math.ceil((oldest + 1) / 20))
    for age in range(oldest + 1):
        share = counts.get(age, 0.0) / total
        x, y = frame.px(age), frame.py(share)
        if share > 0:
            bar = f'<rect class="bar" x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{frame.py(0) - y:.1f}"/>'
            body.append(Markup(bar))
        if share > 0 and oldest < 12:
            body.append(_text(x, y - 5, f"{share:.0%}", "value", "middle"))
        if age % every == 0:
            body.append(_text(x, frame.height - 8, str(age), "tick", "middle"))
    return _svg(frame, body, label)


def sync_chart(rows: Sequence[tuple[str, float, float]], label: str) -> Markup:
    """A row for each `(name, matched, shuffled)`: two dots on one correlation axis, joined by the gap between them."""
    ends = [value for _, *pair in rows for value in pair if math.isfinite(value)]
    low, high = min([0.0, *ends]), max([0.5, *ends])
    row = 36
    frame = Frame(x=(low - 0.04, high + 0.04), y=(0, 1), height=row * len(rows) + 34, left=64)
    body = [_x_ticks(frame, grid=True)]
    for index, (name, matched, shuffled) in enumerate(rows):
        y = frame.top + row * (index + 0.5)
        body.append(_text(0, y + 4, name, "name", "start"))
        if math.isfinite(matched) and math.isfinite(shuffled):
            ends_x = f'x1="{frame.px(shuffled):.1f}" x2="{frame.px(matched):.1f}"'
            body.append(Markup(f'<line class="gap" {ends_x} y1="{y}" y2="{y}"/>'))
        body += [_dot(frame, shuffled, y, "shuffled"), _dot(frame, matched, y, "matched")]
    return _svg(frame, body, label)


def _loss_frame(curves: Sequence[tuple[str, Series]], smoothed: Sequence[np.ndarray], shades: Sequence[Shade]) -> Frame:
    extremes = (np.quantile(series.values, (0.02, 0.98)) for _, series in curves[:1])
    values = np.concatenate([*smoothed, *extremes, *(shade.shown for shade in shades)])
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high / low > 8
    if log:
        low, high = low / 1.15, high * 1.15
    else:
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = (0.0 if 0 <= low < 0.3 * high else low - room), high + room
    first = min(float(series.steps[0]) for _, series in curves)
    last = max([*(float(series.steps[-1]) for _, series in curves), *(float(shade.steps[-1] - 1) for shade in shades)])
    return Frame(x=(first, last if last > first else first + 1), y=(low, high), log=log)


def _line(frame: Frame, steps: np.ndarray, values: np.ndarray, css_class: str) -> Markup:
    keep = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MAX_POINTS)).astype(int))
    path = " ".join(_points(frame, steps[keep], values[keep]))
    return Markup(f'<polyline class="{css_class}" points="{path}"/>')


def _shade(frame: Frame, shade: Shade) -> Markup:
    """A polygon through the middles of the parts, level to the stage's first and last step."""
    bounds = np.array(shade.steps, dtype=float)
    steps = np.concatenate([bounds[:1], (bounds[:-1] + bounds[1:] - 1) / 2, bounds[-1:] - 1])
    low, high = (_points(frame, steps, np.pad(edge, 1, mode="edge")) for edge in (shade.band.low, shade.band.high))
    kind = "band" if shade.judged else "band faint"
    return Markup(f'<polygon class="{kind} {shade.css_class}" points="{" ".join([*high, *reversed(low)])}"/>')


def _points(frame: Frame, steps: Iterable[float], values: Iterable[float]) -> list[str]:
    """As SVG writes them; what lies outside the plot is drawn on its edge."""
    floor, ceiling = frame.height - frame.bottom, frame.top
    places = ((frame.px(float(step)), min(max(frame.py(float(value)), ceiling), floor)) for step, value in zip(steps, values, strict=True))
    return [f"{x:.1f},{y:.1f}" for x, y in places]


def _dot(frame: Frame, value: float, y: float, css_class: str) -> Markup:
    if not math.isfinite(value):
        return Markup("")
    return Markup(f'<circle class="dot {css_class}" cx="{frame.px(value):.1f}" cy="{y}" r="5"/>')


def _y_grid(frame: Frame, percent: bool = False) -> Markup:
    marks: list[Markup] = []
    for value in _log_ticks(*frame.y) if frame.log else _ticks(*frame.y, wanted=4):
        y, text = frame.py(value), f"{value:.0%}" if percent else f"{value:g}"
        marks.append(Markup(f'<line class="grid" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'))
        marks.append(_text(frame.left - 7, y + 3.5, text, "tick", "end"))
    return Markup("").join(marks)


def _x_ticks(frame: Frame, name: str = "", grid: bool = False) -> Markup:
    """Labels under the axis, the first one with the axis's name: `step 0, 50, 100`."""
    marks: list[Markup] = []
    for index, value in enumerate(_ticks(*frame.x, wanted=5)):
        x = frame.px(value)
        if grid:
            marks.append(Markup(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top}" y2="{frame.height - frame.bottom}"/>'))
        text = f"{name if index == 0 else ''}{value:g}"
        marks.append(_text(x, frame.height - 8, text, "tick", "middle"))
    return Markup("").join(marks)


def _ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers between `low` and `high`, about `wanted` of them."""
    rough = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough * 0.999)
    return [round(index * step, 12) for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors if low <= factor * 10.0**decade <= high]
        if len(ticks) <= 6:
            return ticks
    return ticks[:: math.ceil(len(ticks) / 6)]


def _text(x: float, y: float, text: str, css_class: str, anchor: str) -> Markup:
    shown = escape(text.replace("-", "−") if css_class == "tick" else text)
    return Markup(f'<text class="{css_class}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown}</text>')


def _svg(frame: Frame, body: Iterable[Markup], label: str) -> Markup:
    head = f'<svg viewBox="0 0 {frame.width:g} {frame.height:g}" role="img" aria-label="{escape(label)}">'
    return Markup(head) + Markup("").join(body) + Markup("</svg>")
