"""A dataset as one page that needs no network: what is in it, what became of its sources, how its clips are spread, what they look like.

manifest, account of sources, table of clips (verbs.Told), contact sheet -> inspect.html.j2 -> inspect.html
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from ...datasets.format.account import SourceLine
from ...datasets.format.clip_table import ClipRow, measured
from ...datasets.format.manifest import Manifest
from ...datasets.preparing.commit import lost_clips
from ...datasets.signals.filters import yields
from ...datasets.views.histogram import Histogram, histogram
from ...model.types import MODALITIES
from ..page_templates import environment, policy_hash
from ..report.words import duration

PAGE = "inspect.html"
SHOWN = 200  # sources in the table
MAX_SHEET = 16 << 20
WIDTH, HEIGHT, FOOT, TOP = 320.0, 150.0, 34.0, 10.0  # of a histogram, in the units of its drawing

MEASURES = {  # name in the table of clips -> title, unit, what a reader should know
    "loudness_db": ("Loudness", "dB", "RMS of the sound, full scale is 0"),
    "motion": ("Motion", "of 255", "mean change of brightness from picture to picture"),
    "lag_ms": ("Lag of the sound", "ms", "as far as a face or an onset tells; above 0 it comes late"),
    "lag_confidence": ("Confidence of the lag", "", "1 is sure"),
    "av_offset_ms": ("Offset in the container", "ms", "of the sound's start, which clips no longer have"),
    "drift_ms": ("Drift of the sound", "ms", "over its source, against its timestamps"),
    "sound_gap_ms": ("Gaps in the sound", "ms", "of its source, filled with silence"),
    "source_fps": ("Rate of the source", "pictures/s", "before it became constant"),
}


@dataclass(frozen=True)
class Plot:
    """A histogram as a drawing, with what stands above and under it; no drawing of what is the same for all clips."""

    title: str
    note: str
    drawing: Markup | None
    median: str
    values: int


@dataclass(frozen=True)
class Bar:
    """A line of a table of shares."""

    name: str
    count: int
    share: float
    good: bool


def data_page(manifest: Manifest, lines: Sequence[SourceLine], rows: Sequence[ClipRow], sheet: Path | None, named: str) -> str:
    """The page. sheet: the contact sheet; named: the dataset as the user wrote it."""
    templates = environment(Path(__file__).parent)
    templates.filters.update(duration=duration)
    style = templates.get_template("page.css.j2").render()
    used, lost = sum(line.used for line in lines), lost_clips(manifest, lines)
    return templates.get_template("inspect.html.j2").render(
        policy=f"default-src 'none'; img-src data:; style-src {policy_hash(style)}",
        style=Markup(style),
        named=named,
        manifest=manifest,
        seconds=manifest.hours * 3600,
        holds=holds(manifest),
        kept=list(manifest.quality.values()),
        size=_size(sum(entry.bytes for entry in manifest.shards)),
        sources=bars(yields("used", used, [line.reason for line in lines if not line.used])),
        clips=bars(yields("made", manifest.clips, lost)) if lost else [],
        plots=plots(manifest, rows),
        statistics={name: (x["mean"], x["std"]) for name in MODALITIES if (x := manifest.statistics.get(name))},
        channels=channels,
        sheet=embedded(sheet),
        lines=sorted(lines, key=lambda line: (line.used, line.path))[:SHOWN],
        more=max(0, len(lines) - SHOWN),
    )


def holds(manifest: Manifest) -> list[str]:
    """In which size and at which rates, of what clips have."""
    t = manifest.timeline
    said = {"video": f"{manifest.width} x {manifest.height} at {t.fps}/s", "audio": f"{t.sample_rate / 1000:g} kHz"}
    return [text for name, text in said.items() if name in manifest.modalities]


def _size(size: int) -> str:
    unit, name = next(
        (unit, name) for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")) if size >= unit or unit == 1
    )
    return f"{size / unit:.3g} {name}"


def bars(counts: dict[str, int]) -> list[Bar]:
    """What was good, which comes first, and what the rules refused."""
    total = max(1, sum(counts.values()))
    return [Bar(name, count, count / total, not number) for number, (name, count) in enumerate(counts.items())]


def plots(manifest: Manifest, rows: Sequence[ClipRow]) -> list[Plot]:
    """Lengths, and every measure that differs among clips."""
    lengths = [manifest.timeline.seconds(row.chunks) for row in rows]
    found = [_plot("Length", "s", "of a clip", lengths)]
    found += [_plot(*about, measured(rows, name)) for name, about in MEASURES.items()]
    return [plot for plot in found if plot is not None]


def _plot(title: str, unit: str, note: str, values: Sequence[float]) -> Plot | None:
    counted = histogram(values)
    if counted is None:
        return None
    drawing = draw(counted, unit) if counted.smallest < counted.largest else None
    return Plot(title, note, drawing, f"{counted.median:.3g} {unit}".strip(), counted.values)


def draw(found: Histogram, unit: str) -> Markup:
    """Bars over an axis that names both ends and the unit."""
    bar, most = WIDTH / max(8, len(found.counts)), max(found.counts)
    left = (WIDTH - bar * len(found.counts)) / 2
    floor = HEIGHT - FOOT
    parts = []
    for i, count in enumerate(found.counts):
        tall = (floor - TOP) * count / most
        if count:
            low, high = found.low + i * found.step, found.low + (i + 1) * found.step
            title = escape(f"{low:g} to {high:g} {unit}: {count}")
            box = f'x="{left + i * bar + 0.5:.1f}" y="{floor - max(1.0, tall):.1f}" width="{bar - 1:.1f}" height="{max(1.0, tall):.1f}"'
            parts.append(f'<rect class="bar" {box}><title>{title}</title></rect>')
    right = left + bar * len(found.counts)
    ends = ((left, "start", found.low), (right, "end", found.high))
    parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{floor}" y2="{floor}"/>')
    parts += [f'<text x="{x:.1f}" y="{floor + 15}" text-anchor="{anchor}">{value:g}</text>' for x, anchor, value in ends]
    parts.append(f'<text x="{(left + right) / 2:.1f}" y="{floor + 15}" text-anchor="middle">{escape(unit)}</text>')
    return Markup(f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img">{"".join(parts)}</svg>')


def channels(mean: Sequence[float], std: Sequence[float]) -> Markup:
    """Mean and spread of each channel of latents, side by side: a bar from mean - std to mean + std."""
    reach = max(1e-6, *(abs(m) + s for m, s in zip(mean, std, strict=True)))
    width, middle = WIDTH / len(mean), (HEIGHT - FOOT + TOP) / 2
    scale = (HEIGHT - FOOT - TOP) / 2 / reach
    parts = [f'<line class="grid" x1="0" x2="{WIDTH:g}" y1="{middle:.1f}" y2="{middle:.1f}"/>']
    for i, (m, s) in enumerate(zip(mean, std, strict=True)):
        top, tall = middle - (m + s) * scale, max(1.0, 2 * s * scale)
        title = escape(f"channel {i}: mean {m:.3g}, standard deviation {s:.3g}")
        parts.append(
            f'<rect class="bar" x="{i * width + 0.2 * width:.2f}" y="{top:.1f}" width="{0.6 * width:.2f}" height="{tall:.1f}">'
            f"<title>{title}</title></rect>"
        )
    foot = HEIGHT - FOOT + 15
    parts.append(f'<text x="0" y="{foot}">channel 0</text><text x="{WIDTH:g}" y="{foot}" text-anchor="end">{len(mean) - 1}</text>')
    parts.append(f'<text x="{WIDTH / 2:g}" y="{foot}" text-anchor="middle">up to ±{reach:.2g}</text>')
    return Markup(f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img">{"".join(parts)}</svg>')


def embedded(sheet: Path | None) -> str:
    """The picture as a data URI; empty where there is none."""
    if sheet is None or not sheet.is_file() or sheet.stat().st_size > MAX_SHEET:
        return ""
    return "data:image/png;base64," + base64.b64encode(sheet.read_bytes()).decode()
