"""One self-contained HTML file that shows what a run did.

    run folder --run_reader--> checked entries --report_sections--> records --report.html.j2--> report.html

The page needs no network: clips, pictures and plots are embedded. Its content security policy allows its own short script, by hash, and
nothing else, so a crafted caption or file name can neither call home nor run. A part that the run did not leave is shown as a box with
the reason.
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..datasets.progress import Progress, silent
from ..datasets.storage import atomic_path
from .report_losses import StageLosses, losses_section
from .report_plots import Interval
from .report_reference import Comparison, compare
from .report_sections import (
    ClipsSection,
    SyncSection,
    TimingSection,
    clips_section,
    data_section,
    rollout_section,
    sources_section,
    sync_section,
    timing_section,
)
from .run_reader import Entry, StageInfo, UnavailableError, read_run, read_stages

S = TypeVar("S")


@dataclass(frozen=True)
class Missing:
    """Stands for a section that could not be made; the page shows the reason."""

    reason: str


@dataclass(frozen=True)
class Head:
    """What the run was, from run.json."""

    name: str
    recipe: str
    created: str
    commit: str
    dirty: bool
    machine: str
    compute: str
    total_seconds: float | None
    commands: tuple[str, ...]
    config: str
    versions: tuple[tuple[str, str], ...]
    tracking: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fact:
    """One answer of the strip under the title: the question, a figure, and what it says."""

    question: str
    value: str
    detail: str


def build_report(run_dir: Path, progress: Progress = silent) -> Path:
    """Write `report.html` into the run folder and return its path; what the run did not leave is named on the page.

    `progress` counts embedded clips, which are most of the work.
    Raises ValueError for a folder without a readable run.json, and OSError where the report cannot be written.
    """
    run_dir = Path(run_dir)
    run = read_run(run_dir)
    clips = _section(lambda: clips_section(run_dir, progress))
    sync = _section(lambda: sync_section(run_dir))
    data = _section(lambda: data_section(run_dir))
    timing = _section(lambda: timing_section(run))
    stages = _section(lambda: read_stages(run))
    known = () if isinstance(stages, Missing) else stages
    comparison = _section(lambda: compare(run))
    beside = None if isinstance(comparison, Missing) else comparison
    losses = [(stage, _section(lambda stage=stage: losses_section(run_dir, stage, beside))) for stage in known]
    head = _section(lambda: _head(run))
    if isinstance(head, Missing):
        raise ValueError(f"run folder {str(run_dir)!r}: {head.reason}; repair run.json or make the run again")
    page = _render(
        head=head,
        facts=_facts(head, clips, sync, losses, timing, comparison),
        clips=clips,
        sync=sync,
        stages=stages,
        losses=losses,
        comparison=comparison,
        rollouts=_section(lambda: rollout_section(run_dir, known)),
        data=data,
        sources=_section(lambda: sources_section(run_dir)),
        timing=timing,
    )
    path = run_dir / "report.html"
    with atomic_path(path) as part:  # a lone surrogate from a broken file name must not cost the whole report
        part.write_text(page, encoding="utf-8", errors="replace")
    return path


def _section(make: Callable[[], S]) -> S | Missing:
    try:
        return make()
    except UnavailableError as reason:
        return Missing(str(reason))


def _head(run: Entry) -> Head:
    machine = run.entry("machine") if run.has("machine") else Entry({}, "run.json: machine")
    gpus = machine.texts("gpus") if machine.has("gpus") else []
    cores = f"{machine.number('cores'):g} CPU cores" if machine.has("cores") else "an unrecorded number of CPU cores"
    parts = [cores, *gpus]
    if machine.has("memory_gb"):
        parts.append(f"{machine.number('memory_gb'):.0f} GB of memory")
    if machine.has("system"):
        parts.append(machine.text("system"))
    return Head(
        name=run.text("name", "unnamed run"),
        recipe=run.text("recipe", "unknown"),
        created=_date(run.text("created", "")),
        commit=run.text("git_commit", "")[:12],
        dirty=run.has("git_dirty") and run.flag("git_dirty"),
        machine=", ".join(parts),
        compute=f"{len(gpus)} × {gpus[0]} and {cores}" if gpus else f"{cores}, without a GPU",
        total_seconds=run.number("total_seconds") if run.has("total_seconds") else None,
        commands=tuple(run.texts("commands")) if run.has("commands") else (),
        config=json.dumps(run.fields.get("config", {}), indent=2, ensure_ascii=False),
        versions=_pairs(run, "versions"),
        tracking=_pairs(run, "mlflow"),
    )


def _pairs(run: Entry, key: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in run.entry(key).fields.items()) if run.has(key) else ()


def _date(created: str) -> str:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _facts(
    head: Head,
    clips: ClipsSection | Missing,
    sync: SyncSection | Missing,
    losses: list[tuple[StageInfo, StageLosses | Missing]],
    timing: TimingSection | Missing,
    comparison: Comparison | Missing,
) -> list[Fact]:
    made = [_learned(losses), _normal(losses, comparison), _in_sync(sync), _cost(head, timing), _speed(clips)]
    return [fact for fact in made if fact is not None]


def _learned(losses: list[tuple[StageInfo, StageLosses | Missing]]) -> Fact | None:
    totals = [(stage.name, part.total) for stage, part in losses if isinstance(part, StageLosses) and part.total is not None]
    if not totals:
        return None
    falling = sum(curve.last < curve.first for _, curve in totals)
    ends = ", ".join(
        f"{name}{' (with DMD)' if 'DMD' in curve.title else ''} {significant(curve.first)} → {significant(curve.last)}"
        for name, curve in totals
    )
    return Fact("Did it learn?", f"{falling} of {len(totals)}", f"stages end at a lower loss than they began: {ends}")


def _normal(losses: list[tuple[StageInfo, StageLosses | Missing]], comparison: Comparison | Missing) -> Fact | None:
    """Whether any loss of any stage left the reference, and where; one that came back is told in its stage."""
    question = "Is my loss normal?"
    answers = [(stage.name, part.answer) for stage, part in losses if isinstance(part, StageLosses) and part.answer is not None]
    if isinstance(comparison, Missing):
        return Fact(question, "–", comparison.reason) if losses else None
    judged = [(name, answer) for name, answer in answers if answer.judged and answer.verdicts]
    if not judged:
        return Fact(question, "–", answers[0][1].headline if answers else "the reference has no stage of this run")
    wrong = [(name, answer) for name, answer in judged if answer.outside]
    count = sum(len(answer.verdicts) for _, answer in judged)
    own = "; its seed is one of theirs" if comparison.own_seed else ""
    if not wrong:
        return Fact(question, "Yes", f"all {count} losses of {len(judged)} stages end within what {comparison.runs} showed{own}")
    told = "; ".join(f"{name}: {answer.headline.removeprefix('No: ').removesuffix('.')}" for name, answer in wrong)
    return Fact(question, "No", f"in {len(wrong)} of {len(judged)} stages: {told}")


def _in_sync(sync: SyncSection | Missing) -> Fact | None:
    """The first generated row, FEW, not the best one, so that the figure is not chosen by its size."""
    rows = () if isinstance(sync, Missing) else sync.rows
    row = next((row for row in rows if row.title != "Real"), None)
    if row is None:
        return Fact("Is it in sync?", "–", "mouth against voice is not measured here (see Sync)")
    real = "".join(f"; real clips: gap {number(other.gap.value)}" for other in rows if other.title == "Real")
    verdict = "the mouth follows the voice" if row.verdict == "yes" else row.verdict
    figures = f"{row.title}: own pairs correlate {number(row.matched)}, shuffled {number(row.shuffled)}"
    return Fact("Is it in sync?", f"+{number(row.gap.value)}".replace("+−", "−"), f"{figures}; gap {_range(row.gap)}, {verdict}{real}")


def _cost(head: Head, timing: TimingSection | Missing) -> Fact | None:
    if head.total_seconds is None:
        return None
    trained = "" if isinstance(timing, Missing) else f"; {duration(sum(s.seconds for s in timing.stages))} of it in training steps"
    return Fact("What did it cost?", duration(head.total_seconds), f"on {head.compute}{trained}")


def _speed(clips: ClipsSection | Missing) -> Fact | None:
    timed = [] if isinstance(clips, Missing) else [mode for mode in clips.modes if mode.frames_per_s is not None]
    if not timed:
        return None
    first, *others = timed
    rest = "".join(f"; {mode.title}: {mode.detail}" for mode in others)
    return Fact("How fast does it generate?", first.rate, f"{first.title}, {first.effort}, all held-out clips in one batch{rest}")


def _range(interval: Interval) -> str:
    return f"[{number(interval.low)}, {number(interval.high)}]"


def duration(seconds: float) -> str:
    """Seconds in words: `42 s`, `9 min 42 s`, `3 h 05 min`."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float | None, digits: int = 2) -> str:
    """A figure with `digits` decimals and a real minus sign; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """A figure with `digits` significant digits."""
    return "–" if not math.isfinite(value) else f"{value:#.{digits}g}".rstrip(".").replace("-", "−")


def percent(value: float | None) -> str:
    """A share in percent: 0.123 becomes `12 %`."""
    return "–" if value is None or not math.isfinite(value) else f"{value * 100:.0f} %".replace("-", "−")


def _render(**sections: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(duration=duration, number=number, significant=significant, percent=percent)
    environment.tests["missing"] = lambda part: isinstance(part, Missing)
    style, script = (environment.get_template(f"report.{kind}.j2").render() for kind in ("css", "js"))
    # Only this very style and script may apply: whatever a hostile text would smuggle in is not among them.
    policy = f"default-src 'none'; img-src data:; media-src data:; style-src {policy_hash(style)}; script-src {policy_hash(script)}"
    return environment.get_template("report.html.j2").render(style=Markup(style), script=Markup(script), policy=policy, **sections)


def policy_hash(text: str) -> str:
    """How a content security policy names a style or script by its content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"
