"""An evaluation as one page that needs no network: clips next to real ones, figures by window, differences, protocols.

Evaluation + the files of its clips -> evaluation.html.j2 (page.css.j2, evaluation.css.j2) -> evaluation.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ...datasets.places.storage import atomic_path
from ..page_templates import environment, policy_hash
from ..report.embed import Take, embed
from .charts import chart
from .result import Evaluation, verdict

ABOUT = (
    *("stage", "step", "mode", "moves", "guidance", "parameters", "evaluations_per_chunk", "evaluations_to_commit", "frames_per_s"),
    *("clips_at_once", "device", "run"),
)


@dataclass(frozen=True)
class Answer:
    """One answer of the strip under the title."""

    question: str
    value: str
    detail: str


@dataclass(frozen=True)
class ShownClip:
    """A clip with all its takes, ready to play."""

    id: str
    caption: str
    words: str
    takes: list[Take]


def write_page(evaluation: Evaluation, folder: Path, name: str) -> None:
    """Write it into the folder that holds the clips."""
    templates = environment(Path(__file__).parent)
    templates.filters.update(significant=significant, bounded=lambda e: math.isfinite(e.low))
    style = templates.get_template("page.css.j2").render() + templates.get_template("evaluation.css.j2").render()
    windows = [run.windows for run in evaluation.runs]
    same = same_everywhere(evaluation)
    level = {name for names in same.values() for name in names}
    drawn = [
        (about, chart(about.name, evaluation.real.get(about.name), windows)) for about in evaluation.metrics if about.name not in level
    ]
    page = templates.get_template("evaluation.html.j2").render(
        policy=f"default-src 'none'; img-src data:; media-src data:; style-src {policy_hash(style)}",
        style=Markup(style),
        settings=evaluation.settings,
        names=[run.name for run in evaluation.runs],
        runs=evaluation.runs,
        windows=evaluation.windows,
        metrics=evaluation.metrics,
        real=evaluation.real,
        facts=answers(evaluation),
        clips=[_shown(folder, evaluation, i) for i in range(len(evaluation.clips))],
        charts=[(about, drawing) for about, drawing in drawn if drawing is not None],
        same=same,
        differences=evaluation.differences(),
        degradations=[run.degradation() for run in evaluation.runs],
        about_keys=[key for key in ABOUT if any(key in run.about for run in evaluation.runs)],
        verdict=verdict,
    )
    with atomic_path(folder / name) as part:
        part.write_text(page, encoding="utf-8", errors="replace")


def significant(value: float) -> str:
    """Three digits that tell something, with a minus that is one."""
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return ("0" if float(text) == 0 else text).replace("-", "−")


def answers(evaluation: Evaluation) -> list[Answer]:
    """Is it in sync, does it look and sound real, does it hold up, what does a chunk cost: of every run, in their order."""
    found = [
        _next_to_real(evaluation, "sync_gap", "Is it in sync?", "correlation above that with other clips' voices"),
        _next_to_real(evaluation, "frechet_random_joint", "How far from real?", "Fréchet distance; one average clip has 1"),
        _held_up(evaluation, "frechet_random_joint"),
    ]
    costs = [run.about for run in evaluation.runs if "evaluations_per_chunk" in run.about]
    if costs:
        rates = " / ".join(f"{about['frames_per_s']:g}" for about in costs)
        detail = f"network evaluations a chunk, and {costs[0]['evaluations_to_commit']} to keep it; {rates} pictures/s"
        found.append(Answer("What does it cost?", " / ".join(str(about["evaluations_per_chunk"]) for about in costs), detail))
    return [answer for answer in found if answer is not None]


def _next_to_real(evaluation: Evaluation, name: str, question: str, detail: str) -> Answer | None:
    windows = [w for w in evaluation.windows if any((f := run.windows[w].get(name)) and f.estimate for run in evaluation.runs)]
    first = [*windows, *evaluation.windows][0]  # of sync a short window has no figure
    figures = [run.windows[first][name] for run in evaluation.runs if name in run.windows[first]]
    values = [significant(figure.estimate.value) for figure in figures if figure.estimate is not None]
    if not figures or not values:
        return Answer(question, "not known", figures[0].why) if figures else None
    real = evaluation.real.get(name)
    beside = f"; real clips {significant(real.estimate.value)}" if real is not None and real.estimate is not None else ""
    return Answer(question, " / ".join(values), f"{detail}, {first.name}{beside}")


def _held_up(evaluation: Evaluation, name: str) -> Answer | None:
    changes = [apart for run in evaluation.runs if (apart := run.degradation().get(name)) is not None]
    if not changes:
        return None
    windows = evaluation.windows
    values = " / ".join(("+" if e.value > 0 else "") + significant(e.value) for e in changes)
    interval = f" [{significant(changes[0].low)}, {significant(changes[0].high)}]" if math.isfinite(changes[0].low) else ""
    told = interval if len(changes) == 1 else ""
    return Answer("Does it hold up?", values, f"change of that distance from {windows[0].name} to {windows[-1].name}{told}")


def same_everywhere(evaluation: Evaluation) -> dict[str, list[str]]:
    """Value -> figures that have it in every window of every run and for real clips, where a chart would show a line."""
    found: dict[str, list[str]] = {}
    for about in evaluation.metrics:
        every = [evaluation.real.get(about.name), *(run.windows[w].get(about.name) for run in evaluation.runs for w in evaluation.windows)]
        values = {figure.estimate.value for figure in every if figure is not None and figure.estimate is not None}
        if len(values) == 1:
            found.setdefault(significant(values.pop()), []).append(about.name)
    return found


def _shown(folder: Path, evaluation: Evaluation, number: int) -> ShownClip:
    clip = evaluation.clips[number]
    takes = [embed(folder, clip.real, "real")]
    for run in evaluation.runs:
        cost = run.about.get("evaluations_per_chunk")
        takes.append(embed(folder, clip.made[run.name], run.name, f"{cost} evaluations a chunk" if cost else ""))
    return ShownClip(clip.id, clip.caption, clip.words, takes)
