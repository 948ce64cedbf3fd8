"""One self-contained HTML file that shows what a run did.

    run folder --run_reader--> checked entries --sections--> records --report.html.j2--> report.html

The page needs no network: clips, pictures and plots are embedded. Its content security policy allows its own short script, by hash, and
nothing else, so a crafted caption or file name can neither call home nor run. A part that the run did not leave is shown as a box with
the reason.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from shlex import quote
from typing import TypeVar

from markupsafe import Markup

from ...datasets.places.storage import atomic_path
from ...datasets.progress import Progress, silent
from ..page_templates import environment, policy_hash
from ..run_reader import Entry, NotApplicableError, StageInfo, UnavailableError, read_run, read_stages
from .course import course_section
from .evaluation import Evaluated, command_for, evaluation_section
from .losses import StageLosses, losses_section
from .normal import Comparison, compare
from .sections import (
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
from .tiles import Ends, Normal, Tile, cost, drifts, fast, in_sync, learned
from .words import between, duration, number, percent, significant

S = TypeVar("S")


@dataclass(frozen=True)
class Missing:
    """Stands for a section that could not be made; the page shows the reason. applies: whether another run of this kind would have it."""

    reason: str
    applies: bool = True


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
    cores: float | None
    gpus: tuple[str, ...]
    total_seconds: float | None
    commands: tuple[str, ...]
    config: str
    versions: tuple[tuple[str, str], ...]
    tracking: tuple[tuple[str, str], ...]


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
    evaluated = _section(lambda: evaluation_section(run_dir))
    page = _render(
        head=head,
        tiles=_tiles(run, head, clips, sync, losses, timing, comparison, evaluated, command_for(run_dir)),
        evaluated=evaluated,
        again=f"mutual-forcing report {quote(str(run_dir))}",
        clips=clips,
        sync=sync,
        stages=stages,
        losses=losses,
        comparison=comparison,
        course=_section(lambda: course_section(run_dir, tuple(stage.name for stage in known))),
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
        return Missing(str(reason), not isinstance(reason, NotApplicableError))


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
        cores=machine.number("cores") if machine.has("cores") else None,
        gpus=tuple(gpus),
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


Losses = list[tuple[StageInfo, StageLosses | Missing]]


def _tiles(
    run: Entry,
    head: Head,
    clips: ClipsSection | Missing,
    sync: SyncSection | Missing,
    losses: Losses,
    timing: TimingSection | Missing,
    comparison: Comparison | Missing,
    evaluated: Evaluated | Missing | None,
    command: str,
) -> list[Tile]:
    """The five answers of the first screen."""
    totals = [(stage.name, part.total) for stage, part in losses if isinstance(part, StageLosses) and part.total is not None]
    ends = [Ends(name, curve.first, curve.last, " (with DMD)" if "DMD" in curve.title else "") for name, curve in totals]
    modes = () if isinstance(clips, Missing) else clips.modes
    stages = () if isinstance(timing, Missing) else timing.stages
    found = None if isinstance(evaluated, Missing) else evaluated
    fps, chunk_frames = _clock(run)
    chunk_s = chunk_frames / fps if fps and chunk_frames else None
    return [
        learned(ends, _normal(losses, comparison)),
        in_sync(() if isinstance(sync, Missing) else sync.rows, _no_sync(sync), found),
        drifts(found, command, evaluated.reason if isinstance(evaluated, Missing) else ""),
        fast(modes, fps, stages),
        cost(head.total_seconds, head.cores, head.gpus, head.compute, stages, modes, chunk_s),
    ]


def _clock(run: Entry) -> tuple[float | None, float | None]:
    """Frames a second, and of a chunk, where the configuration says so."""
    try:
        timeline = run.entry("config").entry("data").entry("timeline")
        return timeline.number("fps"), timeline.number("chunk_frames")
    except UnavailableError:
        return None, None


def _no_sync(sync: SyncSection | Missing) -> str:
    """Why the measure says nothing of such a run; empty where it would."""
    return sync.reason if isinstance(sync, Missing) and not sync.applies else ""


def _normal(losses: Losses, comparison: Comparison | Missing) -> Normal | None:
    """Whether any loss of any stage left the reference, and where; one that came back is told in its stage."""
    answers = [(stage.name, part.answer) for stage, part in losses if isinstance(part, StageLosses) and part.answer is not None]
    if isinstance(comparison, Missing):
        return Normal("–", comparison.reason) if losses else None
    judged = [(name, answer) for name, answer in answers if answer.judged and answer.verdicts]
    if not judged:
        return Normal("–", answers[0][1].headline if answers else "the reference has no stage of this run")
    wrong = [(name, answer) for name, answer in judged if answer.outside]
    count = sum(len(answer.verdicts) for _, answer in judged)
    own = "; its seed is one of theirs" if comparison.own_seed else ""
    if not wrong:
        return Normal("Yes", f"all {count} losses of {len(judged)} stages end within what {comparison.runs} showed{own}")
    told = "; ".join(f"{name}: {answer.headline.removeprefix('No: ').removesuffix('.')}" for name, answer in wrong)
    return Normal("No", f"in {len(wrong)} of {len(judged)} stages: {told}")


def _render(**sections: object) -> str:
    templates = environment(Path(__file__).parent)
    templates.filters.update(date=_date, duration=duration, number=number, significant=significant, percent=percent, between=between)
    templates.tests["known"] = math.isfinite
    templates.tests["missing"] = lambda part: isinstance(part, Missing)
    style, script = (templates.get_template(name).render() for name in ("page.css.j2", "report.js.j2"))
    # Only this very style and script may apply: whatever a hostile text would smuggle in is not among them.
    policy = f"default-src 'none'; img-src data:; media-src data:; style-src {policy_hash(style)}; script-src {policy_hash(script)}"
    return templates.get_template("report.html.j2").render(style=Markup(style), script=Markup(script), policy=policy, **sections)
