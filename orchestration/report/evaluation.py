"""What the report tells of an evaluation that lies in the run folder: the newest `evaluation.json` at or below `evaluation/`.

`mutual-forcing evaluate` writes such files, with figures of windows of long clips; nothing in one is trusted here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from ..run_reader import Entry, UnavailableError, read_object
from .plots import Interval

FOLDER = "evaluation"
MAX_FILES = 200
MAX_FIGURES = 200
# What grows when later windows of a clip are worse, the most telling first: how far from real clips, and how far from the first frame.
DRIFT = {
    "frechet_random_joint": "Fréchet distance of picture and sound to real clips",
    "frechet_latent_joint": "Fréchet distance of latents to real clips",
    "frechet_random_video": "Fréchet distance of the picture to real clips",
    "drift": "change of colours since the first frame",
}


@dataclass(frozen=True)
class Row:
    """One figure: of real clips, and in each window; None where it does not apply."""

    name: str
    unit: str
    real: Interval | None
    windows: tuple[Interval | None, ...]

    @property
    def cells(self) -> tuple[Interval | None, ...]:
        return (self.real, *self.windows)


@dataclass(frozen=True)
class Change:
    """A figure of drift: the last window's minus the first one's, clip by clip, with its interval."""

    title: str
    first: str
    last: str
    apart: Interval


@dataclass(frozen=True)
class Evaluated:
    """One run's part of an evaluation. file: where it is, from the run folder; clips: how many prompts."""

    file: str
    created: str
    command: str
    clips: int
    windows: tuple[str, ...]
    rows: tuple[Row, ...]
    change: Change | None

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name), None)


def evaluation_section(run_dir: Path) -> Evaluated | None:
    """The newest evaluation of the run folder; None where there is none.

    Raises:
        UnavailableError: the newest one cannot be read.
    """
    files = sorted(_files(run_dir))
    if not files:
        return None
    found, reasons = [], []
    for file in files[:MAX_FILES]:
        try:
            found.append(_read(run_dir, file))
        except UnavailableError as reason:
            reasons.append(reason)
    if not found:
        raise reasons[0]
    return max(found, key=lambda one: (one.created, one.file))


def _files(run_dir: Path) -> Iterator[str]:
    for pattern in ("*.json", "*/evaluation.json"):
        for path in (run_dir / FOLDER).glob(pattern):
            yield str(path.relative_to(run_dir))


def _read(run_dir: Path, file: str) -> Evaluated:
    evaluation = read_object(run_dir, file)
    runs = evaluation.entries("runs")
    if not runs:
        raise UnavailableError(f"{file} holds no run")
    # With --compare others stand beside it; without its name it is the first.
    run = next((one for one in runs if one.text("run", "").rstrip("/").rpartition("/")[2] == run_dir.resolve().name), runs[0])
    windows = run.entry("windows")
    names = tuple(windows.fields)
    about = {metric.text("name"): metric for metric in evaluation.entries("metrics")[:MAX_FIGURES]}
    real = evaluation.entry("real")
    rows = tuple(
        Row(name, metric.text("unit", ""), _figure(real, name), tuple(_figure(windows.entry(window), name) for window in names))
        for name, metric in about.items()
    )
    return Evaluated(
        file=file,
        created=evaluation.text("created", ""),
        command=evaluation.text("command", ""),
        clips=len(evaluation.texts("prompts")) if evaluation.has("prompts") else 0,
        windows=names,
        rows=tuple(row for row in rows if any(cell is not None for cell in row.cells)),
        change=_change(run, names),
    )


def _change(run: Entry, windows: tuple[str, ...]) -> Change | None:
    if len(windows) < 2 or not run.has("last_window_minus_first"):
        return None
    apart = run.entry("last_window_minus_first")
    known = ((title, _figure(apart, name)) for name, title in DRIFT.items())
    return next((Change(title, windows[0], windows[-1], interval) for title, interval in known if interval is not None), None)


def _figure(figures: Entry, name: str) -> Interval | None:
    """A figure with its interval, whose ends are nan where too few clips gave none."""
    if not figures.has(name):
        return None
    entry = figures.entry(name)
    if not entry.has("value"):
        return None
    return Interval(entry.number("value"), *(entry.number(end) if entry.has(end) else math.nan for end in ("low", "high")))


def command_for(run_dir: Path) -> str:
    """The command that makes one where the report finds it."""
    return f"mutual-forcing evaluate {quote(str(run_dir))} --out {quote(str(run_dir / FOLDER))}"
