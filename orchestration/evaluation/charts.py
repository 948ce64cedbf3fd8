"""Small charts of an evaluation's page as SVG, in the classes of page.css.j2 and evaluation.css.j2: one figure over all windows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from ...workers.evaluation.figures import Figure
from ...workers.evaluation.gathering import Window
from ...workers.evaluation.intervals import Estimate

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300.0, 150.0, 46.0, 10.0, 12.0, 24.0


def chart(name: str, real: Figure | None, runs: Sequence[Mapping[Window, Mapping[str, Figure]]]) -> Markup | None:
    """Each run's figure with its interval in every window, side by side, and the real clips' as a line; None where no run has any."""
    windows = list(runs[0])
    found = [[run[w][name].estimate if name in run[w] else None for w in windows] for run in runs]
    known = [e for row in found for e in row if e is not None]
    if not known:
        return None
    level = None if real is None or real.estimate is None else real.estimate
    ends = [v for e in [*known, *([level] if level else [])] for v in (e.value, e.low, e.high) if math.isfinite(v)]
    low, high = _room(min(ends), max(ends))

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    body = [_tick(y(v), v) for v in _ticks(low, high)]
    step = (WIDTH - LEFT - RIGHT) / len(windows)
    if level is not None:
        body.append(_real(level, y))
    for k, row in enumerate(found):
        points = [(LEFT + step * (i + 0.5 + _beside(k, len(runs))), e) for i, e in enumerate(row) if e is not None]
        path = " ".join(f"{x:.1f},{y(e.value):.1f}" for x, e in points)
        body.append(Markup(f'<polyline class="path run{k}" points="{path}"/>'))
        body += [_mark(x, e, y, k) for x, e in points]
    for i, window in enumerate(windows):
        at = LEFT + step * (i + 0.5)
        body.append(Markup(f'<text x="{at:.1f}" y="{HEIGHT - 7:g}" text-anchor="middle">{escape(window.name)}</text>'))
    label = escape(f"{name} by window")
    return Markup(f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{label}">') + Markup("").join(body) + Markup("</svg>")


def _beside(k: int, runs: int) -> float:
    """Of a window's width: intervals of several runs must not hide one another."""
    return 0.0 if runs == 1 else 0.5 * (k / (runs - 1) - 0.5)


def _mark(x: float, e: Estimate, y, k: int) -> Markup:
    bar = ""
    if math.isfinite(e.low):
        bar = f'<line class="interval run{k}" x1="{x:.1f}" x2="{x:.1f}" y1="{y(e.low):.1f}" y2="{y(e.high):.1f}"/>'
    return Markup(f'{bar}<circle class="point run{k}" cx="{x:.1f}" cy="{y(e.value):.1f}" r="3.5"><title>{_told(e)}</title></circle>')


def _real(e: Estimate, y) -> Markup:
    band = ""
    if math.isfinite(e.low):
        top, tall = y(e.high), max(0.5, y(e.low) - y(e.high))
        band = f'<rect class="realband" x="{LEFT:g}" width="{WIDTH - LEFT - RIGHT:g}" y="{top:.1f}" height="{tall:.1f}"/>'
    at = y(e.value)
    line = f'<line class="real" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{at:.1f}" y2="{at:.1f}"><title>real {_told(e)}</title></line>'
    return Markup(band + line)


def _told(e: Estimate) -> str:
    return f"{e.value:.4g}" + (f" [{e.low:.4g}, {e.high:.4g}]" if math.isfinite(e.low) else "")


def _tick(y: float, value: float) -> Markup:
    text = f"{value:g}".replace("-", "−")
    return Markup(
        f'<line class="grid" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6:g}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>'
    )


def _room(low: float, high: float) -> tuple[float, float]:
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.5 * high else low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 3
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(f * size for f in (1, 2, 2.5, 5, 10) if f * size >= 0.999 * rough)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
