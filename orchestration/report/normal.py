"""The report's answer to the question that is asked most: is my loss normal? Verdicts of `reference` turned into words.

Like is judged with like only: a run of other settings or media is shown beside the reference and gets no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from ..config import RunConfig
from ..reference import Band, Reference, Verdict, config_of, edges, judge, reference_for, unlike
from ..run_reader import Entry, Series, StageInfo

ALL = {1: "the loss is", 2: "both losses are"}
SHOWN = 3  # of the settings that differ; the rest is counted


@dataclass(frozen=True)
class Answer:
    """Of one stage. headline: "Yes: ...", "No: ..." or why neither; details: a line for each loss that was outside.

    bands: metric -> what the references gave, and `steps`: where its parts begin and end in this run; verdicts: by metric. judged: the
    run is like the reference, so that its verdicts count.
    """

    headline: str
    details: tuple[str, ...]
    judged: bool
    bands: Mapping[str, Band]
    steps: tuple[int, ...]
    verdicts: Mapping[str, Verdict]

    @property
    def outside(self) -> list[str]:
        """The metrics that left their band and did not come back, the farthest first."""
        found = {metric: verdict for metric, verdict in self.verdicts.items() if verdict.state != "normal" and verdict.back is None}
        return sorted(found, key=lambda metric: -_distance(found[metric])) if self.judged else []

    def word(self, metric: str) -> str:
        """One cell of the legend: the state of a curve, or how it compares where nothing is judged."""
        verdict = self.verdicts.get(metric)
        if verdict is None:
            return "–"
        if not self.judged:
            return times(verdict)
        return "normal" if verdict.state == "normal" or verdict.back is not None else f"{verdict.state}, {times(verdict)}"


@dataclass(frozen=True)
class Comparison:
    """A run beside the reference of its recipe."""

    reference: Reference
    config: RunConfig

    @property
    def runs(self) -> str:
        return f"{len(self.reference.seeds)} reference runs"

    @property
    def own_seed(self) -> bool:
        """The run has the seed of one of the references: on the same machine it is that very run, and its verdict says little."""
        return self.config.seed in self.reference.seeds

    def answer(self, stage: StageInfo, losses: Mapping[str, Series], titles: Mapping[str, str]) -> Answer | None:
        """Is the loss of a stage normal? `losses` and their `titles` by metric. None for a stage that the reference does not have."""
        bands = self.reference.bands(stage.name)
        steps = next((s.steps for s in self.config.stages if s.name == stage.name), 0)
        if not bands or not steps:
            return None
        bounds = edges(steps)
        bands = {metric: x for metric, x in bands.items() if len(x.level) == len(bounds) - 1}  # else one of the two has under ten steps
        other = unlike(self.config, self.reference.config, stage.name)
        found = {metric: judge(losses[metric], steps, bands[metric]) for metric in bands if metric in losses}
        verdicts = {metric: verdict for metric, verdict in found.items() if verdict is not None}
        logged = max(int(series.steps[-1]) for series in losses.values()) + 1
        so_far = "" if logged >= steps else f" So far: {logged} of {steps} steps."
        build = partial(Answer, judged=not other, bands=bands, steps=tuple(int(step) for step in bounds), verdicts=verdicts)
        if other:
            return build(f"Not judged: {differing(other)}; levels may differ from the reference.", ())
        if not verdicts:
            return build("Not yet: no tenth of the stage has ended.", ())
        return build(self._headline(verdicts, titles) + so_far, tuple(_lines(verdicts, titles)))

    def _headline(self, verdicts: Mapping[str, Verdict], titles: Mapping[str, str]) -> str:
        showed = f"what {self.runs} showed"
        left = {metric: verdict for metric, verdict in verdicts.items() if verdict.state != "normal"}
        still = {metric: verdict for metric, verdict in left.items() if verdict.back is None}
        if still:
            worst = max(still, key=lambda metric: _distance(still[metric]))
            count = "" if len(still) == 1 else f" ({len(still)} of {len(verdicts)} losses are outside {showed})"
            return f"No: {titles[worst]} is {times(still[worst])} the reference from step {still[worst].since} on{count}."
        if left:
            back = max(verdict.back or 0 for verdict in left.values())
            return f"Yes since step {back}: before that, {len(left)} of {len(verdicts)} losses were outside {showed}."
        return f"Yes: {ALL.get(len(verdicts), f'all {len(verdicts)} losses are')} within {showed}."


def compare(run: Entry) -> Comparison:
    """The reference of the run's recipe beside its configuration. Raises UnavailableError where there is none, or no configuration."""
    config = config_of(run)
    return Comparison(reference_for(config), config)


def differing(words: list[str]) -> str:
    """What differs, in one line."""
    shown, more = words[:SHOWN], len(words) - SHOWN
    return ", ".join(shown) + (f" and {more} more setting{'s' if more > 1 else ''}" if more > 0 else "")


def times(verdict: Verdict) -> str:
    """How the run's level compares with the reference's: `2.14×`."""
    return f"{round(verdict.ratio, 2):.3g}×" if math.isfinite(verdict.ratio) else "–"


def _lines(verdicts: Mapping[str, Verdict], titles: Mapping[str, str]) -> list[str]:
    lines = []
    for metric, verdict in verdicts.items():
        if verdict.state != "normal":
            ended = "" if verdict.back is None else f" to {verdict.back - 1}, normal again"
            where = f"from step {verdict.since}{ended or ' on'}"
            lines.append(f"{titles[metric]}: {verdict.state} the reference {where} (mean {verdict.value:.3g} against {verdict.level:.3g})")
    return lines


def _distance(verdict: Verdict) -> float:
    """How far a level lies from the reference's, alike for twice and for half of it."""
    return abs(math.log(verdict.ratio)) if 0 < verdict.ratio < math.inf else math.inf
