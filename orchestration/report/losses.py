"""The report's learning section: what a stage logged, as one plot of its losses and one of the size of DMD's direction.

DMD has a direction and no loss: its size need not fall, and drawn among the losses it would only stretch their axis.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from ..alerts import alerts
from ..run_reader import Series, StageInfo, StageMetrics, UnavailableError, read_metrics
from .normal import Answer, Comparison
from .plots import Shade, loss_chart

# Metric name -> how it is called in the report, in the order of the legend. The total comes first.
LOSSES = {
    "loss": "total",
    "loss/fm_video": "flow matching, video",
    "loss/fm_audio": "flow matching, audio",
    "loss/sc_video": "ShortCut, video",
    "loss/sc_audio": "ShortCut, audio",
    "loss/fake": "fake score",
    "loss/fake_fresh": "fake score, unseen samples",
}
# The averaged weights on the same clips with the same noise, before and after the stage.
PROBES = {
    "probe/loss": "total",
    "probe/fm_video": "flow matching, video",
    "probe/fm_audio": "flow matching, audio",
    "probe/sc_video": "ShortCut, video",
    "probe/sc_audio": "ShortCut, audio",
}
DIRECTIONS = {"dmd": "DMD, weighted", "loss/dmd_video": "DMD, video", "loss/dmd_audio": "DMD, audio"}
SHARES = {
    "share/fm": "flow matching",
    "share/sc": "ShortCut",
    "share/dmd": "DMD",
    "share/fake": "fake score",
    "share/optimizer": "optimizer step",
}
KINDS = {"flow": "flow matching", "mutual": "dual mode: flow matching, ShortCut and DMD"}


@dataclass(frozen=True)
class Curve:
    """One line of a plot: mean of the first and of the last tenth of its values. reference: what became of it beside the reference."""

    css_class: str
    title: str
    first: float
    last: float
    reference: str = ""

    @property
    def change(self) -> str:
        """The change in percent, as a factor where percents grow long; a dash from zero."""
        if not self.first or not math.isfinite(self.last / self.first):
            return "–"
        share = (self.last - self.first) / abs(self.first)
        return f"× {self.last / self.first:.3g}" if share > 1 else f"{share:+.0%}".replace("-", "−").replace("%", " %")


@dataclass(frozen=True)
class Plot:
    chart: Markup
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class StageLosses:
    """`directions` is the plot of DMD's direction, None where the stage has none. `kind` says in words what the stage trains on.

    probes: losses of the averaged weights on fixed clips and noise before and after the stage; none in runs of older releases. alerts:
    one line for each rule of health that a step broke, the last time that it did. cost: how a step's time is shared out, "" where no step
    was metered. answer: whether the losses are normal, None where no reference says so.
    """

    kind: str
    probes: tuple[Curve, ...]
    alerts: tuple[str, ...]
    losses: Plot
    directions: Plot | None
    note: str
    cost: str
    answer: Answer | None

    @property
    def total(self) -> Curve | None:
        """What the stage was to lower; None where it trains no regression (DMD alone)."""
        return self.probes[0] if self.probes else next((curve for curve in self.losses.curves if curve.css_class == "total"), None)


def losses_section(run_dir: Path, stage: StageInfo, comparison: Comparison | None = None) -> StageLosses:
    """What one stage logged, beside the reference of its recipe."""
    metrics = read_metrics(run_dir, stage.name)
    losses = {name: metrics.series[name] for name in LOSSES if name in metrics.series}
    if not losses:
        raise UnavailableError(f"metrics/{stage.name}.jsonl holds no loss")
    directions = {name: metrics.series[name] for name in DIRECTIONS if name in metrics.series}
    # Runs of older releases added DMD's size to the total and logged no `dmd`.
    titles = LOSSES | ({"loss": "total, with DMD"} if directions and "dmd" not in directions else {})
    # DMD's size is drawn over its range and not judged: seeds differ by a factor, so that the range would pass nearly anything.
    answer = comparison.answer(stage, losses, titles) if comparison else None
    return StageLosses(
        kind=KINDS.get(stage.objective, stage.objective),
        probes=tuple(_ends(title, metrics.series[name]) for name, title in PROBES.items() if name in metrics.series),
        alerts=_alerts(metrics),
        losses=_plot(losses, titles, f"Loss against step, stage {stage.name}", answer),
        directions=_plot(directions, DIRECTIONS, f"Size of DMD's direction against step, stage {stage.name}", answer)
        if directions
        else None,
        note=_note(metrics),
        cost=_cost(metrics),
        answer=answer,
    )


def _plot(series: dict[str, Series], titles: dict[str, str], label: str, answer: Answer | None) -> Plot:
    curves = tuple(_curve(_css_class(name), titles[name], values, answer.word(name) if answer else "") for name, values in series.items())
    drawn = [(curve.css_class, values) for curve, values in zip(curves, series.values(), strict=True)]
    known = [name for name in series if answer and name in answer.bands]
    shades = [Shade(_css_class(name), answer.steps, answer.bands[name], answer.judged) for name in known] if answer else []
    return Plot(loss_chart(drawn, label, shades), curves)


def _css_class(name: str) -> str:
    return {"loss": "total", "dmd": "dmd total"}.get(name) or re.sub("_", " ", name.removeprefix("loss/"))


def _curve(css_class: str, title: str, series: Series, reference: str) -> Curve:
    tenth = max(1, len(series.values) // 10)
    return Curve(css_class, title, float(series.values[:tenth].mean()), float(series.values[-tenth:].mean()), reference)


def _ends(title: str, series: Series) -> Curve:
    return Curve("", title, float(series.values[0]), float(series.values[-1]))


def _alerts(metrics: StageMetrics) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for name, series in metrics.series.items():
        for step, value in zip(series.steps, series.values, strict=True):
            found |= {metric: f"step {step:g}: {line}" for metric, line in alerts({name: float(value)}).items()}
    return tuple(found.values())


def _cost(metrics: StageMetrics) -> str:
    shares = {title: float(metrics.series[name].values.mean()) for name, title in SHARES.items() if name in metrics.series}
    return ", ".join(f"{title} {share:.0%}".replace("%", " %") for title, share in shares.items())


def _note(metrics: StageMetrics) -> str:
    counts = {
        "steps skipped because a gradient was not finite": round(metrics.total("skipped")),
        "values that are not finite numbers": metrics.not_finite,
        "torn lines skipped": metrics.torn_lines,
    }
    return "; ".join(f"{what}: {count}" for what, count in counts.items() if count)
