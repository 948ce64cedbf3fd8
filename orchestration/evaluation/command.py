"""The verb `evaluate`: what it is told, its table on the terminal, and what of it MLflow gets."""

from __future__ import annotations

import json
import math
import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..command import Debug, Json, console, run_verb
from ..progress import plain_console, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from ...workers.evaluation.clip import About
    from ...workers.evaluation.figures import Figure
    from ...workers.evaluation.gathering import Window
    from ...workers.evaluation.intervals import Estimate
    from .result import Evaluation

JUDGE = (
    "A metric with weights, NAME=WHERE, of wer (or wer:LANGUAGE), lse, clap, audio_fd, audio_kl, dino, clip, aesthetics, audiobox, fvd; "
    "WHERE: a folder, s3://BUCKET/FOLDER or hf://OWNER/NAME@COMMIT (repeatable; docs/evaluation.md)."
)


def evaluate(
    checkpoints: Annotated[list[str], typer.Argument(metavar="CHECKPOINT...", help="RUN, RUN@best or RUN@STAGE; several with --compare.")],
    out: Annotated[str, typer.Option("--out", help="Folder to make: evaluation.json, evaluation.html, figures.png, clips/.")],
    data: Annotated[str | None, typer.Option("--data", help="Prepared dataset (folder or s3://) (default: the run's own).")] = None,
    windows: Annotated[str, typer.Option("--windows", help="Spans of a clip in seconds.")] = "0-5,5-15,15-25",
    compare: Annotated[bool, typer.Option("--compare", help="Several runs side by side, with differences to the first.")] = False,
    clips: Annotated[int, typer.Option("--clips", help="How many held-out clips are prompts.")] = 16,
    mode: Annotated[str, typer.Option("--mode", help="few or multi.")] = "few",
    moves: Annotated[int | None, typer.Option("--moves", help="Moves (few) or Euler steps (multi) a chunk (default: the run's).")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale of mode multi (default: the run's).")] = None,
    metrics: Annotated[str, typer.Option("--metrics", help="Groups of figures, comma-separated (default: all that need no weights).")] = "",
    judge: Annotated[list[str] | None, typer.Option("--judge", help=JUDGE)] = None,
    seed: Annotated[int, typer.Option("--seed", help="Noise seed.")] = 0,
    device: Annotated[str, typer.Option("--device", help="What the network runs on: cpu or cuda.")] = "cpu",
    show: Annotated[int, typer.Option("--show", help="How many clips the page plays.")] = 4,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Judge what runs generate, in windows, next to real clips: figures with intervals, plots and a page."""

    def work() -> None:
        from ..launch import command_line
        from ..progress import Terminal
        from .evaluate import Wish
        from .evaluate import evaluate as judged

        if compare != (len(checkpoints) > 1):
            raise ValueError(f"CHECKPOINT: {len(checkpoints)} given; --compare takes two or more, and without it one is evaluated")
        names = tuple(name.strip() for name in metrics.split(",") if name.strip())
        words = (mode, moves, guidance, names, tuple(judge or ()), seed, device, show, command_line())
        wish = Wish(tuple(checkpoints), out, data, windows, clips, *words)
        with Terminal(console) as terminal, _quiet_networks():
            found = judged(wish, terminal.progress, lambda evaluation, folder: _log(evaluation, folder, terminal.warn), terminal.warn)
        if as_json:
            typer.echo(json.dumps(found.json()))
            return
        for table in tables(found):
            plain_console().print(table)
        for line in reasons(found):
            typer.echo(printable(line))
        typer.echo(f"{out}/evaluation.html shows all of it; evaluation.json has every clip's values")

    run_verb(work, debug, "nothing was written; give the command again")


def tables(evaluation: Evaluation) -> list[Table]:
    """One run: its windows side by side. Several: a table a window, and one of the differences to the first that are decided."""
    windows, runs = evaluation.windows, evaluation.runs
    if len(runs) > 1:
        return [*(_beside(evaluation, window) for window in windows), *_decided(evaluation)]
    table = Table("figure", "real", *(w.name for w in windows), *(["last - first"] if len(windows) > 1 else []))
    change = runs[0].degradation()
    for about in evaluation.metrics:
        cells = [_cell(runs[0].windows[w].get(about.name)) for w in windows]
        last = [_apart(about, change.get(about.name))] if len(windows) > 1 else []
        table.add_row(about.name, _cell(evaluation.real.get(about.name)), *cells, *last)
    return [table]


def _beside(evaluation: Evaluation, window: Window) -> Table:
    """What all runs have in a window."""
    table = Table("figure", "real", *(printable(run.name) for run in evaluation.runs), title=window.name)
    for about in evaluation.metrics:
        cells = [_cell(run.windows[window].get(about.name)) for run in evaluation.runs]
        table.add_row(about.name, _cell(evaluation.real.get(about.name)), *cells)
    return table


def _decided(evaluation: Evaluation) -> list[Table]:
    """Differences whose interval excludes 0; nothing where there are none."""
    from .result import verdict

    table = Table(
        "run", "window", "figure", "difference", title=f"minus {printable(evaluation.runs[0].name)}, where the interval excludes 0"
    )
    for run, _, window, found in evaluation.differences():
        for about in evaluation.metrics:
            apart = found.get(about.name)
            if apart is not None and verdict(about, apart):
                table.add_row(printable(run), window.name, about.name, _apart(about, apart))
    return [table] if table.row_count else []


def reasons(evaluation: Evaluation) -> list[str]:
    """Why figures do not apply, or not to all clips: a line a reason, with the figures that it stands for."""
    told: dict[str, list[str]] = {}
    for name, figure in evaluation.real.items():
        if figure.why:
            told.setdefault(f"real: {figure.why}", []).append(name)
    for run in evaluation.runs:
        for window, found in run.windows.items():
            for name, figure in found.items():
                if figure.why:
                    whose = "" if len(evaluation.runs) == 1 else f"{run.name}, "
                    told.setdefault(f"{whose}{window.name}: {figure.why}", []).append(name)
    return [f"{', '.join(names)}: {why}" for why, names in told.items()]


@contextmanager
def _quiet_networks() -> Iterator[None]:
    """What libraries of judges' networks say while they are opened and used is no part of what this verb says: bars, warnings."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # also of transformers, which reads both when it is imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(torch|transformers)\.")
        yield


def _cell(figure: Figure | None) -> str:
    if figure is None or figure.estimate is None:
        return "-"
    return _number(figure.estimate.value)


def _apart(about: About, apart: Estimate | None) -> str:
    from .result import verdict

    if apart is None:
        return "-"
    interval = f" [{_number(apart.low)}, {_number(apart.high)}]" if math.isfinite(apart.low) else ""
    return f"{_number(apart.value)}{interval} {verdict(about, apart)}".rstrip()


def _number(value: float) -> str:
    return f"{value:.3g}"


def _log(evaluation: Evaluation, folder: Path, warn: Callable[[str], None]) -> None:
    """Every run's figures to MLflow, beside the run itself; a store that does not answer costs a warning, and nothing else."""
    from ...datasets.places.storage import local_path
    from ..run_record import read_record
    from ..tracking import log_evaluation

    files = [folder / name for name in ("evaluation.json", "evaluation.html", "figures.png")]
    for run in evaluation.runs:
        run_dir = local_path("CHECKPOINT", run.about["run"])
        parent = (read_record(run_dir).get("mlflow") or {}).get("run_id")
        figures = {
            f"eval/{window.name.removesuffix(' s')}/{name}": figure.estimate.value
            for window, found in run.windows.items()
            for name, figure in found.items()
            if figure.estimate is not None
        }
        tags = {key: str(value) for key, value in run.about.items()} | {"clips": str(len(evaluation.settings["prompts"]))}
        try:
            log_evaluation(run_dir, parent, f"evaluate {run.name}", tags, figures, files)
        except ValueError as error:
            warn(f"{error}; the figures stay in {folder}")
