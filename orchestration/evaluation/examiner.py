"""Evaluates a checkpoint while training goes on: a Ray actor that holds the prompts and the real clips, and reads weights where they lie.

checkpoint -> averaged weights -> Subject -> clips from fixed prompts and noise -> Gathered -> figures, and a sheet of the first clips
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ...datasets.reading.loader import LatentDataset
from ...datasets.transfer import dataset_here
from ...datasets.views.contact_sheet import SheetClip, contact_sheet
from ...workers.checkpoint import Checkpoint, Missing
from ...workers.evaluation.builtin import chosen
from ...workers.evaluation.clip import About, EvalClip
from ...workers.evaluation.figures import fewest_features, figures
from ...workers.evaluation.gathering import WHOLE, Gathered, Window
from ...workers.evaluation.intervals import Estimate
from ...workers.loop_config import TrainLoopConfig
from ..config import RunConfig
from ..course_config import CourseConfig
from ..generation.provenance import sheet_tags_of
from ..generation.samples import Generator, generator_of
from .network import Subject
from .prompts import Prompts, choose_prompts, latents_of

SHOWN = 3  # clips of the sheet, each below the real one


@dataclass(frozen=True)
class Examined:
    """What an evaluation found. figures: by name; why: of those that do not apply, the reason; real: those of the real clips. sheet: PNG of
    the first clips beside the real ones.
    """

    stage: str
    step: int
    figures: dict[str, Estimate]
    why: dict[str, str]
    real: dict[str, Estimate]
    sheet: bytes
    seconds: float


class Examiner:
    """See the module. All evaluations of a run are of the same prompts and the same noise, so that their figures can be compared."""

    def __init__(self, config: RunConfig, loop: TrainLoopConfig) -> None:
        torch.set_num_threads(config.course.threads)
        self._config, self._loop = config, loop
        self._device = "cuda" if config.course.gpus else "cpu"
        self._metrics = chosen(config.course.metrics)
        self._dataset = LatentDataset(dataset_here(loop.data, loop.source), loop.network.text)
        self._real: tuple[Gathered, Gathered] | None = None
        self._shown: list[EvalClip] = []

    def examine(self, path: str) -> Examined:
        """Evaluate the averaged weights of a checkpoint of the run's store.

        Raises:
            ValueError: it is gone or damaged.
        """
        began, course = time.monotonic(), self._config.course
        try:
            checkpoint = Checkpoint(self._loop.checkpoints, path)
            generator = generator_of(checkpoint, self._loop, self._config, self._dataset, self._device)
        except Missing as error:
            raise ValueError(str(error)) from None  # one that can travel
        subject = self._subject(generator)
        real, reference = self._judged_real(subject)
        window = Window(0.0, course.seconds) if course.seconds else WHOLE
        made, first = Gathered(self._metrics, [window]), list[EvalClip]()
        for clip in subject.made(self._prompts.records, course.seconds or self._longest, lambda _: None):
            made.add(clip)
            first += [clip] if len(first) < SHOWN else []
        per_clip = fewest_features([real, reference, made])
        found = figures(made, window, reference, per_clip, same=real)
        known, why = (
            {name: f.estimate for name, f in found.items() if f.estimate},
            {name: f.why for name, f in found.items() if not f.estimate},
        )
        theirs = {name: f.estimate for name, f in figures(real, WHOLE, reference, per_clip).items() if f.estimate}
        sheet = _sheet(list(zip(self._shown, first, strict=True)), checkpoint.step, generator.identity)
        return Examined(checkpoint.stage, checkpoint.step, known, why, theirs, sheet, time.monotonic() - began)

    def _subject(self, generator: Generator) -> Subject:
        """Clips as the stage makes them: in few moves once it has learned to, guided before."""
        config, mutual = self._config, {s.name: s.objective == "mutual" for s in self._config.stages}[generator.stage]
        few = generator.few(config.objective.few.moves)
        sampler = few if mutual else generator.multi(config.samples.multi_steps, config.samples.multi_guidance)
        return Subject(config.name, self._loop.run_dir, self._loop.data, generator, sampler, config.seed, self._device)

    @cached_property
    def _prompts(self) -> Prompts:
        return choose_prompts(self._dataset, self._config.course.clips)

    @cached_property
    def _longest(self) -> float:
        timeline = self._dataset.manifest.timeline
        return max(timeline.seconds(latents_of(self._dataset, record)[1]) for record in self._prompts.records)

    def _judged_real(self, subject: Subject) -> tuple[Gathered, Gathered]:
        """The real clips of the prompts, and others: once, they stay the same."""
        if self._real is None:
            real, reference = Gathered(self._metrics, [WHOLE]), Gathered(self._metrics, [WHOLE])
            shown = list[EvalClip]()
            for clip in subject.real(self._prompts.records):
                real.add(clip)
                shown += [clip] if len(shown) < SHOWN else []
            for clip in subject.real(self._prompts.reference):
                reference.add(clip)
            self._real, self._shown = (real, reference), shown
        return self._real


def best_figure(course: CourseConfig) -> About:
    """The figure by which checkpoints are ranked.

    Raises:
        ValueError: the metrics of `course` have none of that name, or it has no better side.
    """
    known = {about.name: about for metric in chosen(course.metrics) for about in metric.about}
    sided = sorted(name for name, about in known.items() if about.higher_is_better is not None)
    if course.best not in sided:
        why = "has no better side" if course.best in known else f"is no figure of course.metrics={list(course.metrics)}"
        raise ValueError(f"course.best={course.best!r}: {why}; choose from {', '.join(sided)}")
    return known[course.best]


def _sheet(pairs: list[tuple[EvalClip, EvalClip]], step: int, identity: str) -> bytes:
    rows = [
        SheetClip(title, clip.frames, clip.samples, clip.fps, clip.sample_rate, clip.words, clip.caption)
        for number, (real, made) in enumerate(pairs)
        for title, clip in ((f"real {number}", real), (f"step {step}, clip {number}", made))
    ]
    with tempfile.TemporaryDirectory() as folder:
        contact_sheet(rows, Path(folder) / "sheet.png", tags=sheet_tags_of(identity))
        return (Path(folder) / "sheet.png").read_bytes()
