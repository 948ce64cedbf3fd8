"""`train --profile`: a trace of a few steps of each stage on every rank, for https://ui.perfetto.dev or chrome://tracing."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch.profiler import profile, record_function

from .step_clock import activities

FOLDER = "profile"
MOST = 20  # steps: a trace holds every operation of each
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProfileConfig:
    """Traces for perfetto. steps: of each stage that are traced (0 = none); after: steps of a stage, or since it was resumed, before the
    first of them; stages: their names (empty = all).
    """

    steps: int = 0
    after: int = 3
    stages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.steps <= MOST or self.after < 0:
            raise ValueError(
                f"profile.steps={self.steps}, profile.after={self.after}: from 0 to {MOST} steps can be traced, after 0 or more others"
            )


class StageProfile:
    """Traces some steps of one stage on one rank into `folder`. first, end: the stage's steps that are to be done."""

    def __init__(self, config: ProfileConfig, folder: Path, stage: str, rank: int, first: int, end: int) -> None:
        steps = config.steps if not config.stages or stage in config.stages else 0
        start = max(first, min(first + config.after, end - steps))  # a short stage has no time to warm up
        self._steps = range(start, min(start + steps, end))
        self._path, self._profiler = folder / f"{stage}-rank{rank}.json.gz", None if not self._steps else profile(activities=activities())

    def covers(self, step: int) -> bool:
        return step in self._steps

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Stands around every step, and writes the trace behind the last that it covers."""
        if self._profiler is None or not self.covers(step):
            yield
            return
        if step == self._steps.start:
            self._profiler.start()
        with record_function(f"step {step}"):
            yield
        if step + 1 == self._steps.stop:
            self._profiler.stop()
            self._write(self._profiler)
            self._profiler = None

    def _write(self, profiler: profile) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._path.parent) as folder:
                whole = Path(folder) / self._path.name  # its name says that it is to be compressed
                profiler.export_chrome_trace(str(whole))
                os.replace(whole, self._path)
            log.info("steps %d to %d are traced in %s", self._steps.start, self._steps.stop - 1, self._path)
        except OSError as error:  # a full disk must not end a training that can go on
            log.warning("the trace could not be written (%s)", error)
