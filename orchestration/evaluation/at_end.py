"""The evaluation with which a training ends: clips longer than those of its data, in windows, which tell its report whether they drift."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

from ...datasets.progress import Progress
from ..config import SamplesConfig
from .evaluate import Wish, evaluate

PLACE = "evaluation/end"  # in the run folder, where the report looks for evaluations
METRICS = ("drift", "sync")


def judge_at_end(samples: SamplesConfig, run_dir: Path, progress: Progress, warn: Callable[[str], None]) -> None:
    """Judge FEW of the run's last stage, and leave that in `PLACE`. What stands against it is told; the report says what is unknown."""
    out = run_dir / PLACE
    shutil.rmtree(out, ignore_errors=True)  # of a training that has gone on since
    if not samples.windows:
        return
    words = ("evaluate", str(run_dir), "--windows", samples.windows, "--clips", str(samples.window_clips), "--metrics", ",".join(METRICS))
    command = shlex.join(("mutual-forcing", *words, "--out", str(out)))
    wish = Wish((str(run_dir),), str(out), windows=samples.windows, clips=samples.window_clips, metrics=METRICS, shown=1, command=command)
    try:
        evaluate(wish, progress, warn=warn)
    except ValueError as error:
        warn(f"samples.windows={samples.windows!r}: clips were not judged, so the report does not tell whether they drift: {error}")
