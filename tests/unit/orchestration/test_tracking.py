"""What reaches MLflow: each line of a spool once an attempt, broken ones counted, and never from two forwarders at once."""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mutual_forcing.orchestration import tracking
from mutual_forcing.orchestration.alerts import RULES
from mutual_forcing.orchestration.recipes import RECIPES
from mutual_forcing.orchestration.report.losses import DIRECTIONS, LOSSES, PROBES, SHARES
from mutual_forcing.orchestration.spool_reader import SpoolReader
from mutual_forcing.orchestration.tracking import Tracker
from mutual_forcing.orchestration.tracking_names import flatten, safe_name
from mutual_forcing.workers.metrics import MetricSpool


class Store:
    """A client that keeps what it gets, and can be slow or away."""

    def __init__(self) -> None:
        self.metrics: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.ends: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.away = False
        self.inside = self.most_inside = 0

    def log_batch(self, run_id: str, metrics: Any) -> None:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        self.gate.wait(20)
        self.inside -= 1
        if self.away:
            raise MlflowException("away")
        self.metrics[run_id] += [(m.step, m.value) for m in metrics]

    def set_terminated(self, run_id: str, status: str) -> None:
        self.ends[run_id] = status


class Stubbed(Tracker):
    """A tracker of two stages with a store in this process."""

    def __init__(self, run_dir: Path, store: Store) -> None:
        self.warnings: list[str] = []
        self.ended: set[str] = set()
        super().__init__(run_dir, "tiny", ["joint", "mutual"], self.ended.__contains__, self.warnings.append)
        client: Any = store
        self._client, self.run_id = client, "parent"
        self._opened = self._wanted = True

    def _join(self, stage: str, reader: SpoolReader, ended: bool) -> None:
        assert stage not in self._closed
        self._stages[stage] = stage


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def tracker(tmp_path: Path, store: Store) -> Stubbed:
    return Stubbed(tmp_path, store)


def write(run_dir: Path, steps: range, loss: float, spool: MetricSpool | None = None, stage: str = "joint") -> MetricSpool:
    spool = spool or MetricSpool(run_dir / "metrics", stage)
    for step in steps:
        spool.write(step, {"loss": loss})
    return spool


def test_each_step_is_sent_once_whatever_is_done_again(tmp_path: Path, store: Store, tracker: Stubbed) -> None:
    write(tmp_path, range(3), 1.0)
    tracker._forward()
    restarted = write(tmp_path, range(2), 2.0)
    tracker._forward()
    write(tmp_path, range(2, 5), 2.0, restarted)
    tracker._forward()
    tracker.finish("FINISHED")
    assert store.metrics["joint"] == [(s, 1.0) for s in range(3)] + [(s, 2.0) for s in range(3, 5)]
    assert tracker.warnings == []


def test_what_the_store_refused_is_sent_again_and_nothing_twice(tmp_path: Path, store: Store, tracker: Stubbed, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "BATCH", 2)
    write(tmp_path, range(5), 1.0)
    store.away = True
    with pytest.raises(MlflowException):
        tracker._forward()
    store.away = False
    tracker._forward()
    assert store.metrics["joint"] == [(s, 1.0) for s in range(5)]


def test_the_run_of_a_stage_ends_with_the_stage(tmp_path: Path, store: Store, tracker: Stubbed) -> None:
    write(tmp_path, range(3), 1.0)
    tracker._forward()
    assert store.ends == {}
    tracker.ended.add("joint")
    for _ in range(2):
        tracker._forward()
        assert store.ends == {"joint": "FINISHED"}
    write(tmp_path, range(1), 1.0, stage="mutual")
    tracker.finish("KILLED")
    assert store.ends == {"joint": "FINISHED", "mutual": "KILLED", "parent": "KILLED"}


@pytest.mark.parametrize("broken", [b"{\n", b"[]\n", b'{"step": 1}\n', b"\xff\xfe\n", b'{"step": "x", "time": 1, "metrics": {}}\n', b"\n"])
def test_a_broken_line_is_skipped_and_counted(tmp_path: Path, store: Store, tracker: Stubbed, broken: bytes) -> None:
    write(tmp_path, range(1), 1.0).close()
    path = tmp_path / "metrics" / "joint.jsonl"
    good = path.read_bytes()
    path.write_bytes(good + broken + good.replace(b'"step": 0', b'"step": 1'))
    store.away = True
    with pytest.raises(MlflowException):
        tracker._forward()  # counting it again when it is read again would be wrong
    store.away = False
    tracker.finish("FINISHED")
    assert store.metrics["joint"] == [(0, 1.0), (1, 1.0)]
    assert ["1 broken lines" in line for line in tracker.warnings] == [True]


def test_a_slow_store_gets_no_second_forwarder(tmp_path: Path, store: Store, tracker: Stubbed, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "LOCAL_PATIENCE", 0.2)
    store.gate.clear()
    write(tmp_path, range(3), 1.0)
    tracker.follow()
    while not store.inside:
        threading.Event().wait(0.05)
    tracker.finish("FINISHED")
    store.gate.set()
    tracker._calls.thread.join(20)
    assert store.most_inside == 1
    assert store.metrics == {"parent": [(s, 1.0) for s in range(3)]}, "the call that was under way, and none after it"
    assert ["is slow" in line for line in tracker.warnings] == [True]


class Commands:
    """Commands that go on with one run, one after the other, at a real store in files."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.said: list[str] = []
        self.client = MlflowClient(tracking_uri=f"sqlite:///{run_dir / 'mlflow.db'}")

    def run(self, first: int, end: int, settings: dict[str, Any] | None = None, dies: bool = False) -> str:
        """Train steps `first` to `end`, a checkpoint of the steps before being there. One that dies makes no call after its last step."""
        tracker = Tracker(self.run_dir, "tiny", ["joint"], lambda stage: not dies, self.said.append)
        tracker.open(settings or {"seed": 1}, {"config_hash": "abc"})
        spool = MetricSpool(self.run_dir / "metrics", "joint", first)
        for step in range(first, end):
            spool.write(step, {"loss": float(step), "lr": 0.1})
        spool.note(end, "look")
        tracker._forward()
        if dies:
            tracker._calls.end()
        else:
            tracker.finish("FINISHED")
            assert tracker.complete
        assert tracker.run_id is not None
        return tracker.run_id

    def runs(self) -> list[Run]:
        return list(self.client.search_runs([e.experiment_id for e in self.client.search_experiments()]))

    def sent(self) -> list[tuple[int, float]]:
        """What the store has of the loss: the same in the stage's run and in the parent."""
        runs = {r.info.run_name: r.info.run_id for r in self.runs()}
        own = [(m.step, m.value) for m in self.client.get_metric_history(runs["tiny joint"], "loss")]
        assert [(m.step, m.value) for m in self.client.get_metric_history(runs["tiny"], "joint.loss")] == own
        return own


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def commands(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path)
    return Commands(tmp_path)


def test_a_command_that_goes_on_with_a_run_sends_what_is_missing_and_nothing_twice(commands: Commands) -> None:
    """The first command dies with steps 0 to 4 sent; the second goes on from a checkpoint after step 2."""
    run_id = commands.run(0, 5, dies=True)
    assert commands.run(3, 9) == run_id
    assert sorted((r.info.run_name, r.info.status) for r in commands.runs()) == [("tiny", "FINISHED"), ("tiny joint", "FINISHED")]
    assert commands.sent() == [(s, float(s)) for s in range(9)]
    assert commands.run(9, 9) == run_id  # finished: only samples are made again
    assert commands.sent() == [(s, float(s)) for s in range(9)]
    assert commands.said == []


def test_a_run_that_was_made_twice_because_an_answer_was_lost_is_one(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    make = MlflowClient.create_run

    def lost(*given: Any, **named: Any) -> Any:
        make(*given, **named)
        return make(*given, **named)

    monkeypatch.setattr(MlflowClient, "create_run", lost)
    run_id = commands.run(0, 3, dies=True)
    monkeypatch.undo()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert commands.run(1, 5) == run_id
    assert sorted(len(commands.client.get_metric_history(r.info.run_id, "loss")) for r in commands.runs()) == [0, 0, 0, 5]


def test_a_command_that_dies_between_two_calls_for_the_same_steps_leaves_neither_twice(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent has the losses of steps 0 to 4, the stage's run nothing."""
    send = MlflowClient.log_batch

    def dies(self: MlflowClient, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        if any(m.key == "lr" for m in metrics):
            raise MlflowException("killed")
        send(self, run_id, metrics=metrics, params=params, tags=tags)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", dies)
        with pytest.raises(MlflowException):
            commands.run(0, 5, dies=True)
    commands.run(3, 9)
    assert commands.sent() == [(s, float(s)) for s in range(9)]


def test_settings_that_changed_are_tags_because_parameters_cannot_change(commands: Commands) -> None:
    def about(every: int, uri: str) -> tuple[dict[str, str], dict[str, str]]:
        run_id = commands.run(0, 1, {"checkpoint": {"every": every, "uri": uri}, "stages": [{"name": "joint", "steps": 2}]})
        data = commands.client.get_run(run_id).data
        return data.params, {k: v for k, v in data.tags.items() if k.startswith("changed.") or k == "config_hash"}

    logged = {"checkpoint.every": "0", "checkpoint.uri": "", "stages.joint.name": "joint", "stages.joint.steps": "2"}
    assert about(0, "") == (logged, {"config_hash": "abc"})
    assert about(5, "") == (logged, {"config_hash": "abc", "changed.checkpoint.every": "5"})
    long = "/x" * 400
    params, tags = about(0, long)  # back again, and another
    assert (params, tags.keys()) == (logged, {"config_hash", "changed.checkpoint.uri"})
    assert tags["changed.checkpoint.uri"] != about(0, long + "y")[1]["changed.checkpoint.uri"], "two that differ beyond the limit"
    assert commands.said == []


def test_our_own_names_stay_readable() -> None:
    settings = {name for recipe in RECIPES.values() for name in flatten(asdict(recipe()))}
    metrics = {*LOSSES, *PROBES, *DIRECTIONS, *SHARES, *(rule.metric for rule in RULES), "age/0", "lr", "rollout_wait_s", "samples_per_s"}
    assert {safe_name(name) for name in settings} == settings
    assert {safe_name(name) for name in metrics} == {name.replace("/", ".") for name in metrics}


HOSTILE = [
    "loss",
    "loss/fm_video",
    "age/12",
    "probe/loss",
    "health/mode_disagreement",
    "",
    ".",
    "..",
    "../x",
    "/a",
    "a//b",
    "a\nb",
    "läuft ✓",
]
HOSTILE += ["a:b;'c`\"", "x" * 300, "x" * 301, "system/node-1.example.org/cpu_percent", "CON", " a ", "\ud800", "a/./b"]


def test_names_are_what_mlflow_takes_and_stay_apart(commands: Commands) -> None:
    assert len({safe_name(raw) for raw in HOSTILE}) == len(HOSTILE)
    tracker = Tracker(commands.run_dir, "tiny", ["joint"], lambda _: True, commands.said.append)
    tracker.open(dict.fromkeys(HOSTILE, "x" * 9000), {})
    MetricSpool(commands.run_dir / "metrics", "joint").write(0, dict.fromkeys(HOSTILE, 1.0))
    tracker.finish("FINISHED")
    assert commands.said == []
    parent, child = sorted(commands.runs(), key=lambda r: r.info.run_name or "")
    assert {name for name in map(safe_name, HOSTILE) if "/" in name} == {"system/node-1.example.org.cpu_percent"}
    assert parent.data.params.keys() == child.data.metrics.keys() == {safe_name(raw) for raw in HOSTILE}


def test_a_line_that_no_store_can_hold_stops_no_other(commands: Commands) -> None:
    spool = MetricSpool(commands.run_dir / "metrics", "joint")
    spool.write(0, {"loss": 0.0, "lr": 0.1})
    spool._append(10**30, {"metrics": {"loss": 1.0}})
    spool.close()
    tracker = Tracker(commands.run_dir, "tiny", ["joint"], lambda _: True, commands.said.append)
    tracker.open({}, {})
    tracker.finish("FINISHED")
    assert commands.sent() == [(0, 0.0)]
    assert ["1 broken lines" in line for line in commands.said] == [True]


def test_a_sheet_that_was_removed_before_it_was_sent_holds_up_no_other(commands: Commands) -> None:
    (commands.run_dir / "there.png").write_bytes(b"png")
    tracker = Tracker(commands.run_dir, "tiny", ["joint"], lambda _: True, commands.said.append)
    tracker.open({}, {})
    for name in ("gone.png", "there.png"):
        tracker.later(commands.run_dir / name, "course")
    tracker.finish("FINISHED")
    assert (tracker.complete, commands.said) == (True, [])
    assert tracker.run_id is not None
    assert [file.path for file in commands.client.list_artifacts(tracker.run_id, "course")] == ["course/there.png"]
