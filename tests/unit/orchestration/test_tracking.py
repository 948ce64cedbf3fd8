"""What reaches MLflow: each line of a spool once an attempt, broken ones counted, and never from two forwarders at once."""

from __future__ import annotations

import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mutual_forcing.orchestration import tracking
from mutual_forcing.orchestration.tracking import Tracker
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
        super().__init__(run_dir, "tiny", ["joint", "mutual"], self.ended.__contains__, self.warnings.append, "parent")
        client: Any = store
        self._client = client
        self._opened = self._wanted = True

    def _stage(self, stage: str) -> str:
        assert stage not in self._closed
        self._stages[stage] = stage
        return stage


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
    tracker._thread.join(20)
    assert store.most_inside == 1
    assert store.metrics["joint"] == [(s, 1.0) for s in range(3)]
    assert ["is slow" in line for line in tracker.warnings] == [True]


def test_a_command_that_goes_on_with_a_run_sends_what_is_missing_and_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real store in files. The first command dies with steps 0 to 4 sent; the second goes on from a checkpoint after step 2."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said: list[str] = []

    def command(first: int, end: int, run_id: str | None, dies: bool) -> str:
        tracker = Tracker(tmp_path, "tiny", ["joint"], lambda stage: not dies, said.append, run_id)
        tracker.open({"seed": 1})
        spool = MetricSpool(tmp_path / "metrics", "joint", first)
        for step in range(first, end):
            spool.write(step, {"loss": float(step), "lr": 0.1})
        spool.note(end, "look")
        tracker._forward()
        if dies:
            tracker._over.set()  # as after `kill -9`: no call ever again
        else:
            tracker.finish("FINISHED")
        assert tracker.run_id is not None
        return tracker.run_id

    run_id = command(0, 5, None, dies=True)
    assert command(3, 9, run_id, dies=False) == run_id
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert sorted((r.info.run_name, r.info.status) for r in runs) == [("tiny", "FINISHED"), ("tiny joint", "FINISHED")]
    (joint,) = [r for r in runs if r.info.run_name == "tiny joint"]
    sent = client.get_metric_history(joint.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in sent) == [(s, float(s)) for s in range(9)]
    assert said == []
