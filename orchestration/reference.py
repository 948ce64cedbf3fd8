"""Is my loss normal? The reference curves of a recipe, and the rule that holds a run against them.

    finished runs, one a seed --reference_collect--> references/RECIPE.json --judge--> a verdict for each curve

A stage is cut into tenths, or into its steps where it has fewer. In each, the band reaches from the lowest to the highest mean of the
reference seeds, widened on both sides by its own width, or by the stage's typical width where that is more (few seeds may lie close
together by chance), and by at least 10 % of its level; two seeds alone say so little of the spread that theirs counts twice. A loss is
above or below the reference when it leaves the band to that side for two tenths in a row: one alone happens by chance, with so many.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .config import RunConfig, from_tree
from .run_reader import Entry, Series, UnavailableError

FOLDER = Path(__file__).parent / "references"
PARTS = 10
MARGIN = 0.1
IN_A_ROW = 2

# Settings that move no loss beyond what the seed does: batches and noise come from positions, whoever computes them.
SHAPES = ("rollouts.max_age", "rollouts.publish_every", "rollouts.weights")  # of the rollout pool, these alone
NO_MATTER = ("name", "seed", "samples", "execution", "workers")
MEDIA = ("data.media", "data.prepared")

State = Literal["normal", "above", "below"]


@dataclass(frozen=True)
class Band:
    """What the reference seeds gave for one curve, `[parts]` each: `level` is their mean, `low` and `high` the normal range."""

    level: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Reference:
    """curves: stage -> metric -> means `[seeds, parts]`; config: what the runs had in common; made: how, in words and commands."""

    recipe: str
    seeds: tuple[int, ...]
    config: RunConfig
    curves: Mapping[str, Mapping[str, np.ndarray]]
    made: tuple[str, ...]

    def bands(self, stage: str) -> dict[str, Band]:
        """Metric -> its band; none for a stage that the reference does not have."""
        return {metric: band(means) for metric, means in self.curves.get(stage, {}).items()}


@dataclass(frozen=True)
class Verdict:
    """A curve against its band. `value` and `level` are the run's mean and the reference's: where the curve was outside, or in the last
    part that both have. `since`: first step outside. `back`: first step after that, None where the curve never came back.
    """

    state: State
    value: float
    level: float
    since: int | None = None
    back: int | None = None

    @property
    def ratio(self) -> float:
        return self.value / self.level if self.level else float("inf")


def read_reference(recipe: str, folder: Path = FOLDER) -> Reference:
    """The shipped reference of a recipe. Raises UnavailableError where there is none that this release can read."""
    shipped = {path.stem: path for path in folder.glob("*.json")}
    if recipe not in shipped:
        known = ", ".join(sorted(shipped)) or "none"
        raise UnavailableError(f"no reference curves ship for the recipe {recipe!r} (there are some for: {known})")
    entry = Entry(json.loads(shipped[recipe].read_text(encoding="utf-8")), f"references/{recipe}.json")
    stages = entry.entry("curves")
    return Reference(
        recipe=entry.text("recipe"),
        seeds=tuple(int(seed) for seed in entry.texts("seeds")),
        config=config_of(entry),
        curves={
            stage: {metric: np.array(seeds, dtype=float) for metric, seeds in stages.entry(stage).fields.items()} for stage in stages.fields
        },
        made=(entry.text("made_with"), *entry.texts("commands")),
    )


def reference_for(config: RunConfig, folder: Path = FOLDER) -> Reference:
    """That of the run's recipe; where none ships under its name, that of a recipe which is the same training. Raises UnavailableError."""
    try:
        return read_reference(config.name, folder)
    except UnavailableError:
        for path in sorted(folder.glob("*.json")):
            other = read_reference(path.stem, folder)
            if not unlike(config, other.config, config.stages[-1].name):
                return other
        raise


def config_of(record: Entry) -> RunConfig:
    """The configuration in a record of a run or of a reference. Fields that are younger than the record have their defaults."""
    try:
        return from_tree(record.entry("config").fields)
    except ValueError as error:
        raise UnavailableError(f"{record.where}: the configuration is not one of this release: {error}") from error


def edges(steps: int) -> np.ndarray:
    """First step of every part of a stage, and the step after its last: `[parts + 1]`."""
    parts = min(PARTS, steps)
    return np.array([-(-steps * part // parts) for part in range(parts + 1)])


def part_means(series: Series, steps: int) -> np.ndarray:
    """Mean in each part of a stage of `steps` steps, `[parts]`; NaN in a part that the run has not ended or logged nothing in."""
    bounds = edges(steps)
    means = np.full(len(bounds) - 1, np.nan)
    for part, (first, end) in enumerate(itertools.pairwise(bounds)):
        inside = (series.steps >= first) & (series.steps < end)
        if inside.any() and series.steps[-1] >= end - 1:
            means[part] = series.values[inside].mean()
    return means


def band(means: np.ndarray) -> Band:
    """Means `[seeds, parts]` of the reference seeds -> their band."""
    low, high, level = means.min(0), means.max(0), means.mean(0)
    size = np.maximum(np.abs(level), np.finfo(float).tiny)
    relative = (high - low) / size
    spread = np.maximum(relative, relative.mean()) * (2 if len(means) == 2 else 1)
    margin = np.maximum(spread, MARGIN) * size
    return Band(level, low - margin, high + margin)


def judge(series: Series, steps: int, against: Band) -> Verdict | None:
    """Hold a curve of a stage of `steps` steps against the band of the same stage; None before its first part has ended."""
    means, bounds = part_means(series, steps), edges(steps)
    if len(means) != len(against.level):  # a stage of fewer steps than parts: another one than the reference's
        return None
    judged = np.flatnonzero(np.isfinite(means))
    if not len(judged):
        return None
    side = np.where(means > against.high, 1, np.where(means < against.low, -1, 0))[judged]
    last = judged[-1]
    verdict = Verdict("normal", float(means[last]), float(against.level[last]))
    place = 0
    for sign, group in itertools.groupby(side):
        parts = judged[place : (place := place + len(list(group)))]
        if sign and len(parts) >= min(IN_A_ROW, len(bounds) - 1):
            value, level = float(means[parts].mean()), float(against.level[parts].mean())
            back = None if parts[-1] == last else int(bounds[parts[-1] + 1])
            verdict = Verdict("above" if sign > 0 else "below", value, level, int(bounds[parts[0]]), back)
    return verdict


def unlike(run: RunConfig, reference: RunConfig, stage: str) -> list[str]:
    """In words, what makes a stage of the run another training than that of the reference; empty for like with like."""
    own, other = dict(_settings(run, stage)), dict(_settings(reference, stage))
    found = [key for key in sorted(own.keys() | other.keys()) if own.get(key) != other.get(key)]
    words = [f"{key} is {own.get(key, 'not there')}, not {other.get(key, 'there')}" for key in found if key not in MEDIA]
    if run.data.prepared:
        return ["the dataset is one that you prepared, not the recipe's", *words]
    return ["the media are yours, not the recipe's", *words] if set(found) & set(MEDIA) else words


def _settings(config: RunConfig, stage: str) -> Iterator[tuple[str, Any]]:
    """Every setting that shapes the losses of a stage: its own, those of the stages before it, and the common ones."""
    tree = asdict(config)
    names = [s.name for s in config.stages]
    before = config.stages[: names.index(stage) + 1] if stage in names else ()
    mutual = any(s.objective == "mutual" for s in before)
    tree["stages"] = {s.name: asdict(s) for s in before}
    for key, value in _leaves(tree, ""):
        late = key.startswith("rollouts.") and not mutual  # no stage up to here takes rollouts
        reporting = key.startswith("stages.") and key.endswith(".health_every")
        pool = key.startswith("rollouts.") and key not in SHAPES
        if not late and not pool and not reporting and not any(key == name or key.startswith(f"{name}.") for name in NO_MATTER):
            yield key, value


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
