"""`mutual-forcing evaluate`: clips from held-out prompts, judged in windows next to real ones, as JSON, pictures and one page.

    prompts, reference -> real clips ------------------------------+
    each run -> Subject -> clips -> Gathered (judged as they come) -+-> figures -> Evaluation -> JSON, PNG, page, MLflow

All is written into a temporary folder beside the wanted one, which gets its name when it is whole.
"""

from __future__ import annotations

import datetime
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...datasets.ffmpeg.media import write_media
from ...datasets.format.manifest import Manifest
from ...datasets.places.storage import local_path, make_folder, write_json
from ...datasets.progress import Progress, silent
from ...workers.evaluation.builtin import chosen, judges
from ...workers.evaluation.clip import EvalClip
from ...workers.evaluation.figures import Figure, fewest_features, figures
from ...workers.evaluation.gathering import WHOLE, Gathered, Metric, Window, parse_windows
from ...workers.evaluation.intervals import LEAST
from ..generation.provenance import tags_of
from ..machine import git_state
from .network import Subject, data_folder, open_subject
from .page import write_page
from .plots import plot
from .prompts import Prompts, choose_prompts
from .result import Evaluation, Judged, Shown

FIGURES, PAGE, PICTURE = "evaluation.json", "evaluation.html", "figures.png"
MOST_RUNS, MOST_CLIPS = 8, 10_000
REAL = "/real"  # no run is called so


@dataclass(frozen=True)
class Wish:
    """What is asked for. data: a prepared dataset, None for the first run's own. metrics: names, none for all; judges: NAME=WHERE. moves,
    guidance: None for the run's own. shown: clips that are kept to look at.
    """

    runs: tuple[str, ...]
    out: str
    data: str | None = None
    windows: str = "0-5,5-15,15-25"
    clips: int = 16
    mode: str = "few"
    moves: int | None = None
    guidance: float | None = None
    metrics: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    seed: int = 0
    device: str = "cpu"
    shown: int = 4
    command: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.runs) <= MOST_RUNS:
            raise ValueError(f"CHECKPOINT: {len(self.runs)} runs; give 1 to {MOST_RUNS}")
        if twice := next((run for run in self.runs if self.runs.count(run) > 1), None):
            raise ValueError(f"CHECKPOINT: {twice!r} stands {self.runs.count(twice)} times; give each run once")
        if not 1 <= self.clips <= MOST_CLIPS:
            raise ValueError(f"--clips={self.clips}: from 1 to {MOST_CLIPS}")
        if self.moves is not None and not 1 <= self.moves <= 1000:
            raise ValueError(f"--moves={self.moves}: from 1 to 1000 a chunk")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"--seed={self.seed}: from 0 to 2^63 - 1")


def evaluate(
    wish: Wish,
    progress: Progress = silent,
    log: Callable[[Evaluation, Path], None] = lambda *_: None,
    warn: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Do it, and write the folder `wish.out`; `log` is told of it when it is there, `warn` hears what is done otherwise than asked.

    Raises:
        ValueError: a wish cannot be met; nothing was written.
    """
    windows, metrics = parse_windows(wish.windows), [*chosen(wish.metrics), *judges(wish.judges, wish.device)]
    out = local_path("--out", wish.out)
    if out.exists():
        raise ValueError(f"--out={wish.out!r}: is there already; choose another folder, or remove it")
    data = data_folder(wish.data)
    with _whole(out) as folder:
        shown, runs, world = _Clips(folder, wish.shown), list[tuple[str, dict[str, Any], Gathered]](), None
        for run, name in zip(wish.runs, _names(wish.runs), strict=True):
            subject = open_subject(run, name, data, wish.mode, wish.moves, wish.guidance, wish.seed, wish.device)
            if world is None:
                data = subject.data
                world = _world(subject, wish, metrics, shown, progress, warn)
            gathered = _made(subject, world.prompts, windows, metrics, shown, progress)
            runs.append((name, subject.about(), gathered))
        assert world is not None
        evaluation = _evaluation(wish, world, runs, windows, shown, progress)
        write_json(folder / FIGURES, evaluation.json())
        plot(evaluation, folder / PICTURE)
        write_page(evaluation, folder, PAGE)
    log(evaluation, out)
    return evaluation


@dataclass(frozen=True)
class _World:
    """What all runs are held against. manifest: of the dataset that prompts and real clips are of."""

    manifest: Manifest
    prompts: Prompts
    real: Gathered
    reference: Gathered


def _world(
    subject: Subject, wish: Wish, metrics: Sequence[Metric], shown: _Clips, progress: Progress, warn: Callable[[str], None]
) -> _World:
    dataset = subject.generator.dataset
    prompts = choose_prompts(dataset, wish.clips)
    for note in _notes(wish, prompts):
        warn(note)
    real, reference = Gathered(metrics, [WHOLE]), Gathered(metrics, [WHOLE])
    _gather(real, shown.kept(REAL, subject.real(prompts.records)), progress, "judge real clips", len(prompts.records))
    _gather(reference, subject.real(prompts.reference), progress, "judge other real clips", len(prompts.reference))
    return _World(dataset.manifest, prompts, real, reference)


def _made(
    subject: Subject, prompts: Prompts, windows: Sequence[Window], metrics: Sequence[Metric], shown: _Clips, progress: Progress
) -> Gathered:
    """The clips of one run, judged."""
    gathered, stage, count = Gathered(metrics, windows), f"generate chunks, {subject.name}", 0
    seconds = max(window.end for window in windows)
    total = len(prompts.records) * subject.chunks(seconds)

    def told(clips: int) -> None:
        nonlocal count
        count += clips
        progress(stage, count, total)

    progress(stage, 0, total)
    tags = tags_of(subject.generator.identity)
    for clip in shown.kept(subject.name, subject.made(prompts.records, seconds, told), tags):
        gathered.add(clip)
    return gathered


def _gather(into: Gathered, clips: Iterable[EvalClip], progress: Progress, stage: str, total: int) -> None:
    progress(stage, 0, total)
    for done, clip in enumerate(clips, start=1):
        into.add(clip)
        progress(stage, done, total)


def _evaluation(
    wish: Wish,
    world: _World,
    gathered: Sequence[tuple[str, dict[str, Any], Gathered]],
    windows: Sequence[Window],
    shown: _Clips,
    progress: Progress,
) -> Evaluation:
    per_clip = fewest_features([world.real, world.reference, *(one for _, _, one in gathered)])
    runs, total = list[Judged](), len(gathered) * len(windows)
    for name, about, one in gathered:
        found: dict[Window, dict[str, Figure]] = {}
        for window in windows:
            progress("intervals", len(runs) * len(windows) + len(found), total)
            found[window] = figures(one, window, world.reference, per_clip, same=world.real)
        runs.append(Judged(name, about, found))
    progress("intervals", total, total)
    manifest, prompts = world.manifest, world.prompts
    counted = {metric.about[0].name: count for metric, count in zip(world.real.metrics, per_clip, strict=True) if count}
    settings: dict[str, Any] = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **git_state(),
        "command": wish.command,
        "data": {"uri": wish.data, "version": manifest.version, "contents": manifest.contents(), "synthetic": manifest.synthetic},
        "notes": _notes(wish, prompts),
        "prompts": [record.clip_id for record in prompts.records],
        "reference": {"clips": len(prompts.reference), "trained_on": prompts.seen, "features_a_clip": counted},
        "seed": wish.seed,
    }
    metrics = [about for metric in world.real.metrics for about in metric.about]
    return Evaluation(settings, metrics, figures(world.real, WHOLE, world.reference, per_clip), runs, shown.clips())


def _notes(wish: Wish, prompts: Prompts) -> list[str]:
    """What was not done as it was asked for."""
    found = len(prompts.records)
    if found == wish.clips:
        return []
    none = f"; intervals need {LEAST}" if found < LEAST else ""
    return [f"--clips={wish.clips}: the dataset holds out {found}, and figures are of those{none}; prepare more, or give --clips {found}"]


def _names(runs: Sequence[str]) -> list[str]:
    """The last part of each, where that tells them apart."""
    short = [run.rstrip("/").rsplit("/", 1)[-1] for run in runs]
    return short if len(set(short)) == len(short) else list(runs)


class _Clips:
    """Writes the first clips of every set, to look at."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count = make_folder("--out", folder / "clips"), count
        self._files: dict[str, list[str]] = {}
        self._real: list[EvalClip] = []

    def kept(self, name: str, clips: Iterable[EvalClip], tags: Mapping[str, str] | None = None) -> Iterator[EvalClip]:
        """The clips as they come; the first are written. tags: what the files of generated ones say of themselves."""
        files = self._files.setdefault(name, [])
        number = len(self._files)
        for clip in clips:
            if len(files) < self._count:
                file = f"clips/{number - 1:02d}-{len(files):02d}.mp4"
                write_media(self._folder.parent / file, clip.frames, round(clip.fps), clip.samples, clip.sample_rate, tags)
                files.append(file)
                if name == REAL:
                    self._real.append(clip)
            yield clip

    def clips(self) -> list[Shown]:
        """What there is to look at."""
        others = [name for name in self._files if name != REAL]
        return [
            Shown(c.id, c.caption, " ".join(w for w, _, _ in c.words), self._files[REAL][i], {n: self._files[n][i] for n in others})
            for i, c in enumerate(self._real)
        ]


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder that is called `out` when the block ends well, and is gone when it does not."""
    make_folder("--out", out.parent)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield folder
        folder.chmod(0o755)
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
