"""Ctrl-C and SIGTERM in the middle of everything a run does: one line, no process left, and the same command finishes the run."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from command_material import Running, command
from mlflow.tracking import MlflowClient

from mutual_forcing.orchestration.recipes import recipe

pytestmark = pytest.mark.timeout(600)

STAGES = [s.name for s in recipe("tiny").stages]


@dataclass(frozen=True)
class Point:
    """A moment of a run: `reached` sees it come, `absent` is what the run folder must still lack after the stop, or it came too late."""

    reached: Callable[[Running, Path], bool]
    absent: str
    stretch: tuple[str, ...] = ()


def has(name: str) -> Callable[[Running, Path], bool]:
    return lambda _, folder: any(folder.glob(name))


def said(words: str) -> Callable[[Running, Path], bool]:
    return lambda running, _: words in running.said().error


def trained(stage: str) -> Callable[[Running, Path], bool]:
    return lambda _, folder: (spool := folder / "metrics" / f"{stage}.jsonl").is_file() and spool.read_bytes().count(b"\n") >= 2


def in_stage(stage: str, steps: int) -> Point:
    """Steps enough for ten seconds and more on an idle machine: training goes on until Ray has heard of the stop."""
    return Point(trained(stage), f"checkpoints/{stage}/*/COMMIT", (f"stages.{stage}.steps={steps}",))


POINTS = {
    "open the tracking store": Point(has("run.json"), "data"),
    "start Ray": Point(has("mlflow.db"), "data"),
    "draw characters": Point(has("media/character-*"), "data/manifest.json", ("data.synthetic_count=40",)),
    "look into sources": Point(said("draw talking characters: "), "data/manifest.json"),
    "encode clips": Point(said("look into sources: "), "data/manifest.json"),
    "start workers": Point(has("ray"), "metrics"),
    "pretrain-video": in_stage("pretrain-video", 600),
    "pretrain-audio": in_stage("pretrain-audio", 900),
    "joint": in_stage("joint", 400),
    "mutual": in_stage("mutual", 60),
    "generate clips": Point(has("samples"), "samples/samples.json", ("samples.multi_steps=200",)),
    "write the report": Point(has("samples/samples.json"), "report.html"),
    "log artifacts": Point(has("report.html"), "mlartifacts/*/*/artifacts/samples"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def words_of(point: Point, folder: Path) -> list[str]:
    return ["train", "tiny", "--out", str(folder), *(word for setting in point.stretch for word in ("--set", setting))]


def stop(point: Point, folder: Path, send: Callable[[Running], None], code: int) -> None:
    """Run to the point, stop there, and look at what is left."""
    with Running(*words_of(point, folder)) as running:
        running.until(lambda: point.reached(running, folder), 200)
        send(running)
        answer = running.wait(60)
        assert not running.left_behind(5)
    assert answer.code == code, answer.error
    assert answer.error.splitlines()[-1].startswith("stopped: "), answer.error
    # Progress, and what the training says about itself: so small a model is never healthy.
    for line in answer.error.splitlines()[:-1]:
        assert line.endswith(" done") or re.match(r"warning: (mutual, step |told to stop: )|[a-z-]+ +\d+/\d+ .* loss ", line), answer.error
    assert not list(folder.glob(point.absent)), f"the run was past {point.absent} when it was stopped: stretch the stage"
    assert "RUNNING" not in {run.info.status for run in tracked(folder)}


def tracked(folder: Path) -> list:
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def assert_finishes(point: Point, folder: Path) -> None:
    """The same command again ends well, and what it leaves is as whole as if nothing had happened."""
    again = command(*words_of(point, folder))
    assert again.code == 0, again.error
    assert (folder / "report.html").is_file()
    record = json.loads((folder / "run.json").read_text())
    assert [stage["name"] for stage in record["stages"]] == STAGES
    finished = [run for run in tracked(folder) if run.info.status == "FINISHED"]
    assert Counter(run.info.run_name for run in finished) == Counter(["tiny", *(f"tiny {stage}" for stage in STAGES)])
    assert [run.info.run_id for run in finished if run.info.run_name == "tiny"] == [record["mlflow"]["run_id"]]
    client = MlflowClient(tracking_uri=record["mlflow"]["tracking_uri"])
    for stage in record["stages"]:
        lines = [json.loads(line) for line in (folder / "metrics" / f"{stage['name']}.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(stage["steps"]))
        (run,) = [run for run in finished if run.info.run_name == f"tiny {stage['name']}"]
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [(m.step, m.value) for m in history] == [(line["step"], line["metrics"]["loss"]) for line in lines]
    assert {artifact.path for artifact in client.list_artifacts(record["mlflow"]["run_id"])} >= {"report.html", "data", "samples"}
    assert not [path for path in folder.rglob("*.tmp") if path.is_relative_to(folder / "data")]


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS)
def test_ctrl_c_stops_it_and_the_same_command_finishes(folder: Path, name: str) -> None:
    stop(POINTS[name], folder, Running.interrupt, 128 + signal.SIGINT)
    assert_finishes(POINTS[name], folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["start Ray", "look into sources", "start workers", "generate clips"])
def test_sigterm_stops_it_and_the_same_command_finishes(folder: Path, name: str) -> None:
    stop(POINTS[name], folder, Running.terminate, 128 + signal.SIGTERM)
    assert_finishes(POINTS[name], folder)


@pytest.mark.slow
def test_sigterm_in_training_has_a_checkpoint_written_first(folder: Path) -> None:
    point = Point(trained("mutual"), "samples", ("stages.mutual.steps=60",))
    stop(point, folder, Running.terminate, 128 + signal.SIGTERM)
    steps = (folder / "metrics/mutual.jsonl").read_bytes().count(b"\n")
    assert steps < 60
    assert [int(commit.parent.name.split("-")[0]) for commit in folder.glob("checkpoints/mutual/*/COMMIT")] == [steps]
    assert_finishes(point, folder)


def raylet_gone(running: Running) -> bool:
    """The middle of Ray's shutdown: the raylet ends before the rest of it."""
    return not [pid for pid in running.processes() if name_of(pid).startswith("raylet")]


def name_of(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.NoSuchProcess:  # it has ended between the list and the question
        return ""


SENT = {"Ctrl-C": (Running.interrupt, 128 + signal.SIGINT), "SIGTERM": (Running.terminate, 128 + signal.SIGTERM)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("Ctrl-C", "Ctrl-C", 128 + signal.SIGINT),
        ("Ctrl-C", "SIGTERM", 128 + signal.SIGTERM),
        ("SIGTERM", "Ctrl-C", 128 + signal.SIGTERM),
        ("SIGTERM", "SIGTERM", 128 + signal.SIGTERM),
    ],
)
def test_a_second_stop_does_not_break_the_clean_up(folder: Path, first: str, second: str, code: int) -> None:
    def twice(running: Running) -> None:
        SENT[first][0](running)
        running.until(lambda: raylet_gone(running), 30)
        SENT[second][0](running)

    stop(POINTS["joint"], folder, twice, code)
    assert_finishes(POINTS["joint"], folder)


@pytest.mark.slow
@pytest.mark.parametrize("sent", SENT)
def test_a_stop_during_the_clean_up_of_a_training_that_ended_well(folder: Path, sent: str) -> None:
    send, code = SENT[sent]
    point = Point(lambda running, _: any(folder.glob("checkpoints/mutual/*/COMMIT")) and raylet_gone(running), "samples/samples.json")
    stop(point, folder, send, code)
    assert_finishes(point, folder)


@pytest.mark.slow
def test_an_interrupted_save_and_old_attempts_leave_nothing(folder: Path) -> None:
    point = POINTS["joint"]
    stop(point, folder, Running.interrupt, SENT["Ctrl-C"][1])
    torn = folder / "checkpoints" / "joint" / "00000003-deadbeef" / "live.00000.safetensors"
    torn.parent.mkdir(parents=True, exist_ok=True)
    torn.write_bytes(b"torn")
    (attempt,) = (folder / "ray").glob("fit-*")
    assert_finishes(point, folder)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == sorted(STAGES)
    assert not torn.parent.exists()
    (left,) = (folder / "ray").glob("fit-*")
    assert left != attempt
