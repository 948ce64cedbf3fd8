"""What the report tells of evaluations that were made during training: `course/STAGE-STEP.json`, each with its sheet of clips."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup

from ..run_folder import COURSE
from ..run_reader import Entry, Series, UnavailableError, read_object
from .embed import Take, embed
from .plots import loss_chart

MAX_FILES = 500


@dataclass(frozen=True)
class Judged:
    """An evaluation by the figure that chooses the best; real: that of real clips, nan where it does not apply."""

    step: int
    value: float
    real: float
    best_so_far: bool
    file: str


@dataclass(frozen=True)
class CourseStage:
    """The evaluations of a stage, in order. sheet: of the best one; chart: None for a single one."""

    name: str
    first: Judged
    best: Judged
    last: Judged
    count: int
    chart: Markup | None
    sheet: Take


@dataclass(frozen=True)
class Course:
    """by: the figure that chooses."""

    by: str
    stages: tuple[CourseStage, ...]


def course_section(run_dir: Path, stages: tuple[str, ...]) -> Course | None:
    """Of these stages in their order; None where nothing was evaluated.

    Raises:
        UnavailableError: what was cannot be read.
    """
    files = sorted((run_dir / COURSE).glob("*.json"))
    if not files:
        return None
    entries: list[tuple[str, float, str, Entry]] = []  # stage, step, the file's name
    reasons: list[UnavailableError] = []
    for path in files[-MAX_FILES:]:
        name = f"{COURSE}/{path.name}"
        try:
            entry = read_object(run_dir, name)
            if not math.isfinite(step := entry.number("step")):
                raise UnavailableError(f"{name}: 'step' should be finite")
            entries.append((entry.text("stage"), step, name, entry))
        except UnavailableError as reason:
            reasons.append(reason)
    found: dict[str, list[Judged]] = {}
    last = max((e for e in entries if e[0] in stages), key=lambda e: (stages.index(e[0]), e[1]), default=None)
    by = "" if last is None else last[3].text("by", "")  # a run may have gone on with another figure
    for stage, step, name, entry in entries:
        try:
            judged = _judged(entry, by, int(step), name)
            found.setdefault(stage, []).append(judged)
        except UnavailableError as reason:
            reasons.append(reason)
    told = [_stage(run_dir, stage, by, found[stage]) for stage in stages if stage in found]
    if not told:
        raise reasons[0] if reasons else UnavailableError(f"{COURSE}/ holds evaluations of no stage of this run")
    return Course(by, tuple(told))


def _judged(entry: Entry, by: str, step: int, name: str) -> Judged:
    real = entry.entry("real")
    floor = real.entry(by).number("value") if real.has(by) else math.nan
    value = entry.entry("figures").entry(by).number("value")
    best = entry.flag("best_so_far") and entry.text("by") == by
    return Judged(step, value, floor, best, name.removesuffix(".json") + ".png")


def _stage(run_dir: Path, stage: str, by: str, judged: list[Judged]) -> CourseStage:
    judged = sorted(judged, key=lambda one: one.step)
    best = next((one for one in reversed(judged) if one.best_so_far), judged[-1])
    series = Series(np.array([one.step for one in judged], dtype=float), np.array([one.value for one in judged]))
    chart = loss_chart([("total", series)], f"{by} of {stage} against step") if len(judged) > 1 else None
    return CourseStage(
        stage, judged[0], best, judged[-1], len(judged), chart, embed(run_dir, best.file, f"{stage}, step {best.step}, beside real clips")
    )
