"""Makes the reference curves of a recipe from finished runs of it, one a seed:

    mutual-forcing train tiny --set seed=1 --out runs/tiny-1        (and so on for the other seeds)
    python -m mutual_forcing.orchestration.reference_collect runs/tiny-1 runs/tiny-2 runs/tiny-3

writes orchestration/references/tiny.json of this checkout. What a reference must not hold is refused: an unfinished run, numbers that
are not finite, skipped steps, torn lines, settings that are not the recipe's, the same seed twice.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..datasets.places.storage import atomic_path
from .config import RunConfig
from .recipes import recipe
from .reference import FOLDER, config_of, part_means, unlike
from .report.losses import DIRECTIONS, LOSSES
from .run_reader import Entry, StageMetrics, UnavailableError, read_metrics, read_run

DIGITS = 5  # of every mean: a seed moves the third


def collect(run_dirs: list[Path]) -> dict[str, Any]:
    """The content of references/RECIPE.json.

    Raises:
        ValueError: fewer than two runs, or one that no reference can be made of; the message names it and says what to do.
    """
    if len(run_dirs) < 2:
        raise ValueError(f"{len(run_dirs)} run: a reference needs two at least, of different seeds; one says nothing of their spread")
    runs = {run_dir: read_run(run_dir) for run_dir in run_dirs}
    configs = {run_dir: _config(run_dir, run) for run_dir, run in runs.items()}
    first = next(iter(configs.values()))
    if len({config.name for config in configs.values()}) > 1 or len({config.seed for config in configs.values()}) < len(run_dirs):
        given = ", ".join(f"{config.name} with seed {config.seed}" for config in configs.values())
        raise ValueError(f"runs are {given}: give runs of one recipe, each of another seed (--set seed=N)")
    curves = {stage.name: _joined(stage.name, [_means(run_dir, stage.name, stage.steps) for run_dir in run_dirs]) for stage in first.stages}
    return {
        "recipe": first.name,
        "seeds": [config.seed for config in configs.values()],
        "made_with": _made_with(list(runs.values())),
        "commands": [_command(run) for run in runs.values()],
        "curves": curves,
        # As it stands in the run: of the release that made it, without fields that this checkout may have in addition.
        "config": {key: value for key, value in runs[run_dirs[0]].entry("config").fields.items() if key != "seed"},
    }


def _config(run_dir: Path, run: Entry) -> RunConfig:
    """The run's configuration, which must be that of the recipe as it ships."""
    if not (run.has("finished") and run.flag("finished")):
        raise ValueError(f"run {str(run_dir)!r}: is not finished; give its command again")
    try:
        config = config_of(run)
    except UnavailableError as reason:
        raise ValueError(f"run {str(run_dir)!r}: {reason}; train it again") from reason
    shipped = recipe(config.name)
    other = unlike(config, shipped, config.stages[-1].name)
    if other:
        raise ValueError(f"run {str(run_dir)!r}: {other[0]}; a reference is made of the recipe as it ships, with other seeds alone")
    return config


def _means(run_dir: Path, stage: str, steps: int) -> dict[str, np.ndarray]:
    """Metric -> means over the parts of the stage, for every curve that the report draws."""
    try:
        metrics = read_metrics(run_dir, stage)
    except UnavailableError as reason:
        raise ValueError(f"run {str(run_dir)!r}: {reason}") from reason
    broken = _broken(metrics, steps)
    if broken:
        raise ValueError(f"run {str(run_dir)!r}: metrics/{stage}.jsonl: {broken}; train it again, or leave it out")
    return {name: part_means(metrics.series[name], steps) for name in [*LOSSES, *DIRECTIONS] if name in metrics.series}


def _broken(metrics: StageMetrics, steps: int) -> str:
    """Why a stage's metrics cannot serve as a reference; empty where they can."""
    if metrics.torn_lines:
        return f"{metrics.torn_lines} torn lines"
    if metrics.not_finite:
        return f"{metrics.not_finite} values are not finite numbers"
    skipped = metrics.total("skipped") + metrics.total("skipped_fake")
    if skipped:
        return f"{skipped:g} steps were skipped"
    logged = max(len(series.steps) for series in metrics.series.values())
    return "" if logged == steps else f"{logged} of {steps} steps"


def _joined(stage: str, runs: list[dict[str, np.ndarray]]) -> dict[str, list[list[float]]]:
    """The runs' curves side by side: metric -> seeds -> parts."""
    for name in {name for run in runs for name in run}:
        if not all(name in run and np.isfinite(run[name]).all() for run in runs):
            raise ValueError(f"metric {name!r} of stage {stage!r}: is not in every part of every run; use runs of one release")
    return {name: [[float(f"{mean:.{DIGITS}g}") for mean in run[name]] for run in runs] for name in runs[0]}


def _made_with(runs: list[Entry]) -> str:
    """What made the runs, in words that hold for every commit of a release."""
    used = [run.entry("versions") for run in runs]
    packages = {name: sorted({entry.text(name) for entry in used}) for name in ("python", "torch", "deepspeed", "ray")}
    systems = sorted({run.entry("machine").text("system") for run in runs})
    listed = ", ".join(f"{name} {' and '.join(found)}" for name, found in packages.items())
    return f"mutual-forcing {__version__} with {listed} on {' and '.join(systems)}, without a GPU"


def _command(run: Entry) -> str:
    """The command that made the run, without the folder that it wrote to."""
    words = shlex.split(run.texts("commands")[0])
    kept = [word for place, word in enumerate(words) if word != "--out" and words[place - 1] != "--out"]
    return shlex.join(kept)


def written(made: dict[str, Any]) -> str:
    """As JSON with a line for each seed of a curve, so that a change of it can be read."""
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", json.dumps(made, indent=1)) + "\n"


def main(arguments: list[str]) -> int:
    """Write the reference; returns the exit status."""
    try:
        made = collect([Path(argument) for argument in arguments])
    except (ValueError, UnavailableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = FOLDER / f"{made['recipe']}.json"
    path.parent.mkdir(exist_ok=True)
    with atomic_path(path) as part:
        part.write_text(written(made), encoding="utf-8")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
