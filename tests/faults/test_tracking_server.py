"""A real MLflow server over HTTP, with sqlite and artifacts in S3: killed in the middle of a run, and away for the whole of one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_material import command
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from mlflow_server import MlflowServer, mlflow_server
from s3_server import S3, s3_server
from safetensors.torch import load

from mutual_forcing.datasets.places.store import store_of
from mutual_forcing.orchestration import tracking_calls
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.tracking import Tracker
from mutual_forcing.workers.metrics import MetricSpool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = recipe("tiny").stages


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def s3(patch: pytest.MonkeyPatch) -> Iterator[S3]:
    with s3_server(patch) as place:
        yield place


@pytest.fixture
def server(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    with mlflow_server(folder, f"{s3.uri}/{tmp_path.name}") as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        yield server


def runs_of(server: MlflowServer) -> dict[str, Run]:
    """All runs there, by name: no two have the same."""
    client = MlflowClient(tracking_uri=server.uri)
    found = client.search_runs([e.experiment_id for e in client.search_experiments()])
    named = {run.info.run_name or "": run for run in found}
    assert len(named) == len(found)
    return named


def losses(server: MlflowServer, run: Run, name: str = "loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient(tracking_uri=server.uri).get_metric_history(run.info.run_id, name)]


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_killed_in_mid_run_gets_every_step_once(server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_calls, "PAUSE", 1.0)
    monkeypatch.setattr(tracking_calls, "INTERVAL", 0.05)
    run_dir, said, ended = tmp_path / "run", list[str](), set[str]()
    report = tmp_path / "report.html"
    report.write_text("<h1>all of it</h1>")
    server.start()

    tracker = Tracker(run_dir, "made", ["joint", "mutual"], ended.__contains__, said.append)
    tracker.open({"seed": 1, "checkpoint": {"every": 0, "uri": ""}}, {"config_hash": "abc"})
    tracker.follow()
    first, last = MetricSpool(run_dir / "metrics", "joint"), MetricSpool(run_dir / "metrics", "mutual")
    stop = threading.Event()

    def train() -> None:
        step = 0
        while not stop.wait(0.004):
            first.write(step, {"loss": float(step), "lr": 0.1})
            step += 1

    training = threading.Thread(target=train)
    training.start()
    until(lambda: "made joint" in runs_of(server) and len(losses(server, runs_of(server)["made joint"])) > 50)
    for _ in range(3):
        server.kill()  # in the middle of whatever it writes
        until(lambda: tracker._calls.away)
        server.start()
        until(lambda: not tracker._calls.away)
    stop.set()
    training.join()
    ended.add("joint")
    server.kill()
    until(lambda: tracker._calls.away)
    for step in range(3):
        last.write(step, {"loss": float(step), "lr": 0.1})
    tracker.artifact(report)
    tracker.finish("KILLED")  # while the server is away
    assert not tracker.complete
    assert ["cannot be reached" in line for line in said] == [True]

    server.start()
    run_id = tracker.run_id or ""
    tracker = Tracker(run_dir, "made", ["joint", "mutual"], {"joint", "mutual"}.__contains__, said.append)
    tracker.open({"seed": 1, "checkpoint": {"every": 5, "uri": ""}}, {"config_hash": "abc"})
    MetricSpool(run_dir / "metrics", "mutual", 2).write(2, {"loss": 2.0, "lr": 0.1})
    tracker.artifact(report)
    tracker.finish("FINISHED")
    assert tracker.complete
    assert len(said) == 1
    runs = runs_of(server)
    assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(("made", "made joint", "made mutual"), "FINISHED")
    assert runs["made"].info.run_id == tracker.run_id == run_id
    steps = (run_dir / "metrics" / "joint.jsonl").read_bytes().count(b"\n")
    for stage, count in (("joint", steps), ("mutual", 3)):
        sent = [(s, float(s)) for s in range(count)]
        assert losses(server, runs[f"made {stage}"]) == losses(server, runs["made"], f"{stage}.loss") == sent
    data = runs["made"].data
    assert data.params == {"seed": "1", "checkpoint.every": "0", "checkpoint.uri": ""}
    assert (data.tags["config_hash"], data.tags["changed.checkpoint.every"]) == ("abc", "5")
    assert [a.path for a in MlflowClient(tracking_uri=server.uri).list_artifacts(run_id)] == ["report.html"]


def test_a_run_that_ended_while_the_server_was_away_is_sent_by_the_same_command_and_registered(
    server: MlflowServer, s3: S3, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    words = ("train", "tiny", "--out", str(folder))
    trained = command(*words, environment={"MLFLOW_TRACKING_URI": server.uri})
    assert trained.code == 0, trained.error
    weights = {p: p.stat().st_mtime_ns for p in (folder / "checkpoints").rglob("*")}
    assert json.loads((folder / "run.json").read_text())["tracked"] is False

    server.start()
    for _ in range(2):
        again = command(*words, environment={"MLFLOW_TRACKING_URI": server.uri})
        assert again.code == 0, again.error
        assert "nothing to do" in again.error
    assert {p: p.stat().st_mtime_ns for p in (folder / "checkpoints").rglob("*")} == weights
    record = json.loads((folder / "run.json").read_text())
    assert record["tracked"] is True
    runs, client = runs_of(server), MlflowClient(tracking_uri=server.uri)
    assert {name: run.info.status for name, run in runs.items()} == {"tiny": "FINISHED"} | {f"tiny {s.name}": "FINISHED" for s in STAGES}
    parent = runs["tiny"]
    assert parent.info.run_id == record["mlflow"]["run_id"]
    assert parent.data.params["stages.mutual.steps"] == str(STAGES[-1].steps)
    assert parent.data.tags["config_hash"] == record["settings"]
    for stage in STAGES:
        lines = [json.loads(line) for line in (folder / "metrics" / f"{stage.name}.jsonl").read_text().splitlines()]
        assert losses(server, runs[f"tiny {stage.name}"]) == [(line["step"], line["metrics"]["loss"]) for line in lines]
        readings = {name.rpartition(".")[2] for name in runs[f"tiny {stage.name}"].data.metrics if name.startswith("system/")}
        assert readings >= {"cpu_percent", "disk_percent", "memory_percent"}
    shown = {a.path for place in ("", "data", "samples") for a in client.list_artifacts(parent.info.run_id, place)}
    assert shown >= {"report.html", "data/contact.png", "samples/contact.png", "samples/samples.json", "samples/few4-000.mp4"}

    told = command(
        "checkpoint", "export", str(folder), "--out", str(tmp_path / "weights"), "--register", "tiny", "--json",
        environment={"MLFLOW_TRACKING_URI": server.uri},
    )  # fmt: skip
    assert told.code == 0, told.error
    assert told.error == ""
    version = client.get_model_version("tiny", json.loads(told.out)["registered"]["version"])
    assert (version.tags["recipe"], version.tags["config_hash"]) == ("tiny", record["settings"])
    assert client.get_run(version.run_id or "").data.tags["mlflow.parentRunId"] == parent.info.run_id
    store = store_of(f"{s3.uri}/{tmp_path.name}")  # what lies in the bucket, not what the server says of it
    (name,) = [name for name in store.names() if name.endswith(f"{version.run_id}/artifacts/model/video.safetensors")]
    sent = load(store.fetch(name).read_bytes())
    own = load((tmp_path / "weights" / "video.safetensors").read_bytes())
    assert sent.keys() == own.keys()
    assert all((sent[key] == own[key]).all() for key in own)
