"""Evaluations of checkpoints while training goes on: each that is due, the best of them kept, and nothing that fails ends the run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from math import nan
from pathlib import Path

import pytest
import ray
import torch
from checkpoint_material import ATTEMPT, save_checkpoint
from PIL import Image
from ray.exceptions import RayActorError
from run_material import untrained_run

from mutual_forcing.datasets.places.storage import write_json
from mutual_forcing.datasets.progress import silent
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.orchestration.config import RunConfig
from mutual_forcing.orchestration.course_config import CourseConfig
from mutual_forcing.orchestration.evaluation import course as course_module
from mutual_forcing.orchestration.evaluation.course import MOST_FAILURES, Course, course_of
from mutual_forcing.orchestration.evaluation.examiner import Examined
from mutual_forcing.orchestration.generation.opened_model import open_model, weights_identity
from mutual_forcing.orchestration.generation.samples import open_generator
from mutual_forcing.orchestration.preflight import examine
from mutual_forcing.orchestration.report.course import course_section
from mutual_forcing.orchestration.run_reader import UnavailableError
from mutual_forcing.orchestration.run_record import loop_config, open_run
from mutual_forcing.workers.checkpoint import found_in
from mutual_forcing.workers.evaluation.intervals import Estimate
from mutual_forcing.workers.loop_config import TrainLoopConfig
from mutual_forcing.workers.retention import kept_for_course
from mutual_forcing.workers.standing import read_standing

STEPS, BY = 6, "drift"
pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    untrained_run(folder)
    return folder


@dataclass
class Run:
    """A run of one stage; weights: of its checkpoints, by step. Every second one is due."""

    folder: Path
    config: RunConfig
    loop: TrainLoopConfig
    weights: dict[int, dict[str, torch.Tensor]]
    warned: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    @property
    def stage(self) -> str:
        return self.config.stages[-1].name

    def course(self, **changed: float | str) -> Course:
        config = replace(self.config, course=replace(self.config.course, **changed))
        return Course(config, self.loop, self.folder, self.warned.append, self.say, lambda path, _: self.shown.append(path.name))

    def say(self, parts: list[str]) -> None:
        self.said.append("  ".join(parts))

    def judged(self) -> dict[int, float]:
        found = [json.loads(path.read_text()) for path in sorted((self.folder / "course").glob("*.json"))]
        return {one["step"]: one["figures"][BY]["value"] for one in found}


@pytest.fixture
def run(material: Path, tmp_path: Path) -> Run:
    config = open_run(material)
    stage = replace(config.stages[-1], steps=STEPS)
    course = CourseConfig(every=2, clips=2, metrics=("latents", "drift", "motion"), best=BY)
    config = replace(config, stages=(stage,), course=course, checkpoint=replace(config.checkpoint, every=1))
    write_json(tmp_path / "run.json", {"config": asdict(config)})
    (tmp_path / "data").symlink_to(material / "data")
    loop = loop_config(config, tmp_path)
    found = Run(tmp_path, config, loop, {})
    for step in (2, 3, 4):
        torch.manual_seed(step)
        found.weights[step] = AVTransformer(loop.network, loop.timeline).state_dict()
        save_checkpoint(loop.checkpoints, stage.name, step, STEPS, loop.architecture(), {"ema": found.weights[step]})
    return found


def until(there: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_checkpoints_that_are_due_are_judged_and_the_best_of_them_is_known(run: Run) -> None:
    with course_of(run.config, run.loop, run.folder, silent, run.warned.append, run.say, lambda path, _: run.shown.append(path.name)):
        until(lambda: 4 in run.judged())
        torch.manual_seed(6)
        run.weights[6] = AVTransformer(run.loop.network, run.loop.timeline).state_dict()
        save_checkpoint(run.loop.checkpoints, run.stage, 6, STEPS, run.loop.architecture(), {"ema": run.weights[6]})
    judged = run.judged()
    assert run.warned == []
    assert list(judged) == [4, 6], "the newest of those that wait; 3 is not due; that of the block's end is waited for"
    best = min(judged, key=judged.__getitem__)
    standing = read_standing(run.loop.checkpoints, run.stage)
    assert standing is not None
    assert (standing.judged, standing.step, standing.value, standing.trying) == (6, best, judged[best], "")
    lines = [json.loads(line) for line in (run.folder / "metrics" / "evaluation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 6]
    assert all(line["metrics"][f"{run.stage}/{BY}"] == judged[line["step"]] for line in lines)
    assert run.shown == [f"{run.stage}-{step:08d}.png" for step in judged]
    for name in run.shown:
        with Image.open(run.folder / "course" / name) as sheet:
            assert sheet.info["Comment"].startswith("Generated by")
    assert [line.split("  ")[0] for line in run.said] == [f"{run.stage} {step}/{STEPS} evaluated" for step in judged]
    opened = open_model(f"{run.folder}@best")
    assert (opened.step, opened.identity) == (best, weights_identity(run.weights[best]))
    assert open_generator(run.loop, run.config, "best").identity == opened.identity
    section = course_section(run.folder, (run.stage,))
    assert section is not None
    assert [(s.count, s.first.step, s.best.step, s.last.step) for s in section.stages] == [(2, 4, best, 6)]
    again = run.course()
    again.start()
    again.finish(silent)
    assert run.judged() == judged
    assert len(run.said) == 2, "what was judged is not judged again"


def test_a_damaged_checkpoint_is_passed_over(run: Run) -> None:
    (file,) = (run.folder / "checkpoints" / run.stage / f"00000004-{ATTEMPT}").glob("ema.*")
    file.write_bytes(b"torn")
    course = run.course()
    course.start()
    course.finish(silent)
    assert [f"{run.stage}, step 4: not evaluated (" in text and "damaged" in text for text in run.warned] == [True]
    assert run.judged() == {}
    standing = read_standing(run.loop.checkpoints, run.stage)
    assert standing is not None
    assert (standing.judged, standing.path) == (4, "")
    with pytest.raises(ValueError, match=r"none was evaluated, so none is the best; train with course\.every"):
        open_model(f"{run.folder}@best")


@pytest.mark.slow
def test_an_actor_that_dies_is_replaced(run: Run) -> None:
    course = run.course()
    course.start()
    until(lambda: course._actor is not None)
    ray.kill(course._actor)
    course.finish(silent)
    assert [text.partition(":")[0] for text in run.warned] == [f"{run.stage}, step 4"]
    assert "it is tried again" in run.warned[0]
    assert list(run.judged()) == [4]


@pytest.mark.slow
def test_a_figure_that_does_not_apply_is_told(run: Run) -> None:
    course = run.course(best="frechet_latent_joint")
    course.start()
    course.finish(silent)
    (warned,) = run.warned
    assert warned.startswith(f"{run.stage}, step 4: course.best='frechet_latent_joint' does not apply (")
    assert "()" not in warned
    with pytest.raises(UnavailableError, match="frechet_latent_joint"):
        course_section(run.folder, (run.stage,))


@pytest.fixture
def at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations whose figure is the step, without an actor: the question is what becomes of them."""

    def examined(_: Course, path: str) -> Examined:
        step = int(path.rpartition("/")[2][:8])
        return Examined(run.stage, step, {BY: Estimate(float(step), nan, nan)}, {}, {}, b"", 0.0)

    monkeypatch.setattr(Course, "_examined", examined)
    monkeypatch.setattr(course_module, "LOOK", 0.01)


@pytest.mark.usefixtures("at_once")
def test_what_was_judged_counts_when_it_is_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        """A command that is killed while it writes figures."""

    def killed(*_: object) -> None:
        raise KilledError

    course = run.course()
    with monkeypatch.context() as patched:
        patched.setattr(Course, "_keep", killed)
        with pytest.raises(KilledError):
            course._next()
    assert run.judged() == {}
    again = run.course()
    again.start()
    again.finish(silent)
    assert list(run.judged()) == [4], "the next command judges it again"


@pytest.mark.usefixtures("at_once")
def test_figures_without_room_are_told_and_not_judged_again(run: Run) -> None:
    (run.folder / "course").write_bytes(b"in the way")
    course = run.course()
    course.start()
    course.finish(silent)
    assert [text.startswith(f"{run.stage}, step 4: its figures were not kept (") for text in run.warned] == [True]
    standing = read_standing(run.loop.checkpoints, run.stage)
    assert standing is not None
    assert (standing.judged, standing.step) == (4, 4)


@pytest.mark.usefixtures("at_once")
def test_a_store_that_is_away_is_asked_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError("the store is away")

    course = run.course()
    write, written = course_module.write_standing, list[int]()

    def unsteady(*given: object) -> None:
        written.append(given[2].judged)  # pyright: ignore[reportAttributeAccessIssue]
        if written == [0, 0, 4]:
            refused()
        write(*given)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patched:
        patched.setattr(course_module, "write_standing", unsteady)
        course.start()
        course.finish(silent)
    assert (run.warned, len(run.said)) == ([], 1), "judged once, whatever became of its note"
    assert written[:4] == [0, 0, 4, 4]
    standing = read_standing(run.loop.checkpoints, run.stage)
    assert standing is not None
    assert standing.judged == 4
    monkeypatch.setattr(course_module, "read_standing", refused)
    course = run.course()
    course.start()
    course.finish(silent)
    (warned,) = run.warned
    assert "cannot be read or written (OSError: the store is away)" in warned


@pytest.mark.usefixtures("at_once")
def test_what_waits_to_be_judged_stays_no_longer_than_it_is_judged(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stays() -> list[int]:
        found = found_in(run.loop.checkpoints, run.stage)
        kept = kept_for_course(run.loop.checkpoints, run.stage, found, STEPS)
        return [f.step for f in found if f.path in kept]

    def failed(*_: object) -> None:
        raise RayActorError

    monkeypatch.setattr(course_module, "PAUSE", 0.01)
    with monkeypatch.context() as patched:
        patched.setattr(Course, "_examined", failed)
        course = run.course()
        assert course._due(run.config.stages[-1]) is not None
        assert stays() == [4]
        course.start()
        course._thread.join()
        assert (len(run.warned), stays()) == (MOST_FAILURES, []), "there are no more evaluations"
    assert judge(run) == (4, 4)
    save(run, 6)
    assert course_module.is_left(run.config, run.loop)
    without = replace(run.config, course=replace(run.config.course, every=0))
    with course_of(without, run.loop, run.folder, silent, run.warned.append, run.say):
        assert stays() == [4], "the best one, and none that nobody will judge"


@ray.remote(num_cpus=0)
def away() -> None:
    raise OSError("S3 does not answer")


@pytest.mark.usefixtures("at_once")
def test_what_is_away_for_the_actor_is_waited_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tried, examined = list[str](), Course._examined

    def at_last(course: Course, path: str) -> Examined:
        tried.append(path)
        if len(tried) <= MOST_FAILURES + 1:
            ray.get(away.remote())
        return examined(course, path)

    monkeypatch.setattr(Course, "_examined", at_last)
    monkeypatch.setattr(course_module, "PAUSE", 0.01)
    course = run.course()
    course.start()
    until(lambda: 4 in run.judged())
    course.finish(silent)
    (warned,) = run.warned
    assert warned.startswith(f"{run.stage}, step 4: what its evaluation needs is away (OSError: S3 does not answer); it is tried again")


def judge(run: Run, **changed: float | str) -> tuple[int, int]:
    """Go on with evaluations: the last step that was judged, and the best one."""
    course = run.course(**changed)
    course.start()
    course.finish(silent)
    standing = read_standing(run.loop.checkpoints, run.stage)
    assert standing is not None
    return standing.judged, standing.step


def save(run: Run, step: int) -> None:
    save_checkpoint(run.loop.checkpoints, run.stage, step, STEPS, run.loop.architecture(), {"ema": run.weights[4]})


@pytest.mark.usefixtures("at_once")
def test_values_of_other_clips_are_not_compared(run: Run) -> None:
    assert judge(run) == (4, 4)
    save(run, 6)
    assert judge(run) == (6, 4), "the lower one"
    assert judge(run, clips=3) == (6, 0), "of three clips none was judged yet"
    assert list(run.judged()) == [4, 6]


@pytest.mark.usefixtures("at_once")
def test_steps_that_are_trained_again_are_judged_again(run: Run) -> None:
    save(run, 6)
    assert judge(run) == (6, 6)
    shutil.rmtree(run.folder / "checkpoints" / run.stage / f"00000006-{ATTEMPT}")
    assert judge(run) == (4, 0), "the best one is gone"
    save(run, 6)
    assert judge(run) == (6, 6)


@pytest.mark.slow
def test_evaluations_that_never_end_are_given_up_and_the_run_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course_module, "PAUSE", 0.01)
    course = run.course(deadline_s=0.05)
    course.start()
    course.finish(silent)
    assert [("there will be no more" in text, "GetTimeoutError" in text) for text in run.warned] == [(False, True)] * 2 + [(True, True)]
    assert run.judged() == {}


def test_a_run_that_is_stopped_does_not_wait_for_an_evaluation(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt), course_of(run.config, run.loop, run.folder, silent, run.warned.append, run.say):
        raise KeyboardInterrupt
    assert (run.warned, run.judged()) == ([], {})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"best": "motion"}, "has no better side; choose from"),
        ({"best": "sharpness"}, "is no figure of course.metrics"),
        ({"metrics": ("latent",)}, "course.metrics: 'latent' is unknown"),
    ],
)
def test_a_figure_that_cannot_choose_is_told_before_the_run(run: Run, changed: dict, words: str) -> None:
    config = replace(run.config, course=replace(run.config.course, **changed))
    assert [words in finding.text for finding in examine(config, run.folder) if "course." in finding.text] == [True]
