"""The course of a run: its checkpoints are evaluated while it trains on, and the best one is kept.

    store of checkpoints <--looks-- Course (a thread of the driver) --path--> Examiner (a Ray actor) --figures, sheet--> Course
      STAGE/best.json  <-------------------------------------------------------------------------------------------------+
      metrics/evaluation.jsonl, course/STAGE-STEP.png and .json, a line on the terminal  <-------------------------------+

Training takes no part in it: no step waits for an evaluation, and nothing that fails here ends a run. When evaluations are slower than
checkpoints, those between are left out.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from ...datasets.places.storage import atomic_path, make_folder, write_json
from ...datasets.progress import Progress
from ...model.types import MODALITIES
from ...workers.checkpoint import Found, found_in
from ...workers.checkpoint_writer import one_line
from ...workers.evaluation.intervals import Estimate
from ...workers.loop_config import StageConfig, TrainLoopConfig
from ...workers.metrics import MetricSpool
from ...workers.standing import Standing, read_standing, write_standing
from ..config import RunConfig
from ..root_cause import root_cause
from ..run_folder import COURSE, EVALUATED
from ..spool_watcher import Say
from .examiner import Examined, Examiner, best_figure

LOOK, LOOK_REMOTE = 1.0, 10.0  # seconds between two looks into the store
MOST_LOOKS = 3  # at a store that is away, at the end
MOST_FAILURES, PAUSE = 3, 5.0  # actors one after the other, and seconds after the first of them


@contextmanager
def course_of(
    config: RunConfig,
    loop: TrainLoopConfig,
    run_dir: Path,
    progress: Progress,
    warn: Callable[[str], None],
    say: Say,
    show: Callable[[Path, str], None] = lambda *_: None,
) -> Iterator[None]:
    """Evaluate checkpoints during the block, and after it those that are left; Ray must be running. show: is given each file to look at,
    with the folder for it.
    """
    if not config.course.every:
        _let_go(config, loop)
        yield
        return
    course = Course(config, loop, run_dir, warn, say, show)
    course.start()
    try:
        yield
        course.finish(progress)
    finally:
        course.close()


def is_left(config: RunConfig, loop: TrainLoopConfig) -> bool:
    """Whether checkpoints wait to be evaluated: an earlier command may have ended between its training and that.

    Raises:
        OSError: the store is away.
    """
    if not config.course.every:
        return False
    fresh = Standing(config.course.every, config.course.best)
    for stage in _judged_stages(config):
        found = found_in(loop.checkpoints, stage.name)
        standing = replace((read_standing(loop.checkpoints, stage.name) or fresh).among(found), every=fresh.every)
        if any(standing.is_due(f, stage.steps) for f in found):
            return True
    return False


def _let_go(config: RunConfig, loop: TrainLoopConfig) -> None:
    """No checkpoint stays any longer because it is still to be judged; the best ones do."""
    with suppress(OSError):  # the store is away: a few checkpoints too many stay
        for stage in _judged_stages(config):
            standing = read_standing(loop.checkpoints, stage.name)
            if standing is not None and (standing.every or standing.trying):
                write_standing(loop.checkpoints, stage.name, replace(standing, every=0, trying=""))


def _judged_stages(config: RunConfig) -> list[StageConfig]:
    """Those of which clips can be made."""
    return [stage for stage in config.stages if set(stage.modalities) == set(MODALITIES)]


class Course:
    """See the module. Stages of one modality are passed over: no clip can be made of them."""

    def __init__(
        self,
        config: RunConfig,
        loop: TrainLoopConfig,
        run_dir: Path,
        warn: Callable[[str], None],
        say: Say,
        show: Callable[[Path, str], None],
    ) -> None:
        self._config, self._loop, self._run_dir, self._warn, self._say, self._show = config, loop, run_dir, warn, say, show
        self._about = best_figure(config.course)
        self._before: dict[str, int] = {}  # steps of all stages before
        for stage in config.stages:
            self._before[stage.name] = sum(s.steps for s in config.stages[: len(self._before)])
        self._standings: dict[str, Standing] = {}
        self._unwritten: set[str] = set()  # stages whose standing the store lacks
        self._spool: MetricSpool | None = None
        self._actor: Any = None
        self._failures, self._told_away = 0, ""
        self._ending, self._closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="course")

    def start(self) -> None:
        self._thread.start()

    def finish(self, progress: Progress) -> None:
        """Wait for what is being evaluated, and what is still to be."""
        self._ending.set()
        while self._thread.is_alive():
            progress("evaluate the last checkpoints", 0, 1)
            self._thread.join(1.0)
        progress("evaluate the last checkpoints", 1, 1)

    def close(self) -> None:
        """End it, whatever is under way."""
        self._ending.set()
        self._closed.set()
        self._end_actor()
        self._thread.join(5.0)

    def _work(self) -> None:
        pause, away = LOOK if "://" not in self._loop.checkpoints.uri else LOOK_REMOTE, 0
        try:
            while not self._closed.is_set() and self._failures < MOST_FAILURES:
                ending = self._ending.is_set()  # asked first: what was committed before it is seen below
                try:
                    more, away = self._next(), 0
                except OSError as error:  # the store is away: later
                    more, away = False, away + 1
                    if ending and away == MOST_LOOKS:
                        what = "not all of them were judged, or which is the best is not noted there"
                        self._warn(f"checkpoints {self._loop.checkpoints.uri}: cannot be read or written ({one_line(error)}); {what}")
                if more:
                    continue
                if not ending:
                    self._ending.wait(pause)
                elif 0 < away < MOST_LOOKS:
                    self._closed.wait(pause)
                else:
                    return
        except Exception as error:  # noqa: BLE001  no mistake of ours here ends a run, and none is kept silent
            self._warn(f"course.every={self._config.course.every}: no more evaluations ({type(error).__name__}: {error}); training goes on")
        finally:
            if not self._closed.is_set():  # an end of its own, not that of the command
                _let_go(self._config, self._loop)
            if self._spool is not None:
                self._spool.close()

    def _next(self) -> bool:
        """Evaluate one checkpoint, if there is one to be.

        Raises:
            OSError: the store is away.
        """
        for stage in sorted(self._unwritten):
            self._stand(stage, self._standings[stage])
        for stage in _judged_stages(self._config):
            if (found := self._due(stage)) is not None:
                self._evaluate(stage, found)
                return True
        return False

    def _due(self, stage: StageConfig) -> Found | None:
        """The newest checkpoint of a stage that is to be evaluated; the standing is written first, by which it stays."""
        standing = self._standing(stage.name)
        found = [f for f in found_in(self._loop.checkpoints, stage.name) if standing.is_due(f, stage.steps)]
        return found[-1] if found else None

    def _standing(self, stage: str) -> Standing:
        if stage not in self._standings:
            course, store = self._config.course, self._loop.checkpoints
            known, new = read_standing(store, stage), Standing(course.every, course.best, way_of(self._config))
            if known is not None:
                known = known.among(found_in(store, stage))
                alike = (known.figure, known.way) == (new.figure, new.way)  # other values cannot be compared
                new = replace(known if alike else new, every=course.every, judged=known.judged, trying="")
            self._stand(stage, new)
        return self._standings[stage]

    def _stand(self, stage: str, standing: Standing) -> None:
        self._standings[stage] = standing
        self._unwritten.add(stage)
        write_standing(self._loop.checkpoints, stage, standing)
        self._unwritten.discard(stage)

    def _evaluate(self, stage: StageConfig, found: Found) -> None:
        self._stand(stage.name, replace(self._standings[stage.name], trying=found.path))
        try:
            examined = self._examined(found.path)
        except RayError as error:
            if self._closed.is_set():
                return
            cause = root_cause(error)
            self._end_actor()
            if isinstance(cause, OSError) and not isinstance(cause, RayError) and not self._ending.is_set():
                if self._told_away != found.path:
                    why = f"what its evaluation needs is away ({one_line(cause)})"
                    self._warn(f"{stage.name}, step {found.step}: {why}; it is tried again, training goes on")
                self._told_away = found.path
                self._ending.wait(PAUSE)
                return  # training is as patient: no failure of the actor
            if isinstance(cause, ValueError):  # of this checkpoint: it is gone, or damaged
                self._warn(f"{stage.name}, step {found.step}: not evaluated ({cause})")
                self._judged(stage.name, found, None)
                return
            self._failures += 1
            after = "there will be no more" if self._failures == MOST_FAILURES else "it is tried again"
            self._warn(f"{stage.name}, step {found.step}: its evaluation failed ({one_line(cause)}); {after}, training goes on")
            self._closed.wait(PAUSE * self._failures)
            return
        self._failures = 0
        value = examined.figures.get(by := self._config.course.best)
        best = self._is_best(stage.name, value)
        try:
            self._keep(examined, best)  # before it counts as judged: what a killed command did not keep is judged again
        except (OSError, ValueError) as error:
            self._warn(f"{stage.name}, step {found.step}: its figures were not kept ({one_line(error)})")
        if value is None:
            why = examined.why.get(by, "")
            self._warn(f"{stage.name}, step {found.step}: course.best={by!r} does not apply ({why}); choose another figure")
        self._say(self._line(stage, examined, best))
        self._judged(stage.name, found, value if best else None)

    def _examined(self, path: str) -> Examined:
        """What the actor finds.

        Raises:
            RayError: it failed, or took longer than the deadline.
        """
        if self._actor is None:
            maker: Any = ray.remote(Examiner).options(**self._config.course.options)
            self._actor = maker.remote(self._config, self._loop)
        return ray.get(self._actor.examine.remote(path), timeout=self._config.course.deadline_s)

    def _judged(self, stage: str, found: Found, best: Estimate | None) -> None:
        """Note it. best: its value, if that is the best so far."""
        standing = replace(self._standings[stage], judged=found.step, trying="")
        if best is not None:
            standing = replace(standing, path=found.path, step=found.step, value=best.value)
        self._stand(stage, standing)

    def _is_best(self, stage: str, value: Estimate | None) -> bool:
        """So far."""
        than = self._standings[stage].value
        if value is None or not math.isfinite(value.value) or than is None:
            return value is not None and math.isfinite(value.value)
        return value.value > than if self._about.higher_is_better else value.value < than

    def _keep(self, examined: Examined, best: bool) -> None:
        """In the run folder: figures of all evaluations as a spool, which a tracker follows, and of each as JSON beside its sheet."""
        step = self._before[examined.stage] + examined.step
        folder = make_folder("run", self._run_dir / COURSE)
        name = f"{examined.stage}-{examined.step:08d}"
        with atomic_path(folder / f"{name}.png") as path:
            path.write_bytes(examined.sheet)
        self._show(folder / f"{name}.png", COURSE)
        about = {"stage": examined.stage, "step": examined.step, "by": self._config.course.best, "best_so_far": best}
        told = {"figures": _plain(examined.figures), "real": _plain(examined.real), "seconds": round(examined.seconds, 2)}
        write_json(folder / f"{name}.json", about | told)
        if self._spool is None:
            self._spool = MetricSpool(self._run_dir / "metrics", EVALUATED, step)
        figures = {f"{examined.stage}/{name}": figure.value for name, figure in examined.figures.items()}
        self._spool.write(step, figures | {"evaluation_s": examined.seconds})

    def _line(self, stage: StageConfig, examined: Examined, best: bool) -> list[str]:
        chosen = examined.figures.get(self._config.course.best)
        figures = [f"{self._config.course.best} {chosen.value:.4g}{', the best so far' if best else ''}"] if chosen else []
        if "sync_gap" in examined.figures and self._config.course.best != "sync_gap":
            figures.append(f"sync_gap {examined.figures['sync_gap'].value:.3f}")
        return [f"{stage.name} {examined.step}/{stage.steps} evaluated", *figures, f"{examined.seconds:.0f} s"]

    def _end_actor(self) -> None:
        if self._actor is not None:
            with suppress(Exception):  # it may be gone already
                ray.kill(self._actor)
            self._actor = None


def way_of(config: RunConfig) -> str:
    """How clips are made for a figure, besides what a run cannot change."""
    course, samples = config.course, config.samples
    return f"{course.clips} clips of {course.seconds:g} s, {samples.multi_steps} steps guided by {samples.multi_guidance:g}"


def _plain(found: dict[str, Estimate]) -> dict[str, dict[str, float | None]]:
    return {name: {key: x if math.isfinite(x) else None for key, x in asdict(estimate).items()} for name, estimate in found.items()}
