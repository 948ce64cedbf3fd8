"""An MLflow server that is away or silent: bounded time, one warning, no calls for a while."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from dead_servers import KINDS, refusing
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from mutual_forcing.orchestration import tracking, tracking_calls
from mutual_forcing.orchestration.tracking import Tracker
from mutual_forcing.workers.metrics import MetricSpool

BOUND = 60.0  # seconds of all calls of a run together, with the patience that users get

# MLflow's own reading of the environment.
ASK = """
from mutual_forcing.orchestration import tracking
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES, MLFLOW_HTTP_REQUEST_TIMEOUT
print(MLFLOW_HTTP_REQUEST_MAX_RETRIES.get(), MLFLOW_HTTP_REQUEST_TIMEOUT.get())
"""


@pytest.mark.parametrize(("own", "answer"), [({}, "1 10"), ({"MLFLOW_HTTP_REQUEST_TIMEOUT": "44"}, "1 44")])
def test_mlflow_is_impatient_unless_the_user_says_otherwise(own: dict[str, str], answer: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_HTTP")}
    done = subprocess.run([sys.executable, "-c", ASK], env=kept | own, capture_output=True, text=True, timeout=200, check=True)
    assert done.stdout.split("\n")[0] == answer


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the patience."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setattr(tracking_calls, "INTERVAL", 0.1)


def tracked(run_dir: Path, uri: str, monkeypatch: pytest.MonkeyPatch, steps: int = 3) -> tuple[list[str], float]:
    """A run's calls of the tracker: its warnings, and the seconds that the run waited for it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    warnings: list[str] = []
    tracker = Tracker(run_dir, "tiny", ["joint"], lambda _: True, warnings.append)
    start = time.monotonic()
    tracker.open({"seed": 1}, {})
    tracker.follow()
    spool = MetricSpool(run_dir / "metrics", "joint")
    for step in range(steps):
        spool.write(step, {"loss": 1.0})
    report = run_dir / "report.html"
    report.touch()
    for _ in range(5):
        tracker.artifact(report)
    tracker.finish("FINISHED")
    return warnings, time.monotonic() - start


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", KINDS)
def test_a_dead_server_costs_little_and_one_line(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    with KINDS[kind]() as uri:
        warnings, seconds = tracked(tmp_path, uri, monkeypatch)
    assert seconds < 15
    assert len(warnings) == 1
    assert f"MLflow at {uri} cannot be reached (" in warnings[0]
    assert f"training goes on, metrics stay in {tmp_path / 'metrics'}" in warnings[0]
    assert (tmp_path / "metrics" / "joint.jsonl").read_bytes().count(b"\n") == 3
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_with_the_patience_that_users_get(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with KINDS[kind]() as uri:
        warnings, seconds = tracked(tmp_path, uri, monkeypatch)
    assert seconds < BOUND
    assert len(warnings) == 1


def test_a_store_that_hangs_in_its_opening_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no timeout reaches, such as a look-up of a name."""
    gate, calls = threading.Event(), []

    def hang(*_: Any, **__: Any) -> None:
        calls.append(None)
        gate.wait(30)

    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", hang)
    monkeypatch.setattr(MlflowClient, "create_experiment", hang)
    monkeypatch.setattr(tracking, "PATIENCE", 0.3)
    warnings, seconds = tracked(tmp_path, "http://127.0.0.1:9", monkeypatch)
    gate.set()
    assert seconds < 10
    assert ["does not answer; training goes on without it, metrics stay in" in line for line in warnings] == [True]
    time.sleep(0.2)
    assert len(calls) == 1, "a thread that came back late went on"


class Refused(ConnectionError):
    """As `requests` raises it."""

    response = None


class Flaky:
    """A server that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.calls = 0
        self.sent: list[int] = []
        self.ends: list[str] = []

    def log_batch(self, run_id: str, metrics: Any) -> None:
        self._call()
        if run_id == "stage":
            self.sent += [m.step for m in metrics]

    def set_terminated(self, run_id: str, status: str) -> None:
        self._call()
        self.ends.append(run_id)

    def log_artifact(self, *_: Any) -> None:
        self._call()

    def _call(self) -> None:
        self.calls += 1
        if self.away:
            raise MlflowException("away") from Refused()


@pytest.fixture
def server() -> Flaky:
    return Flaky()


class Opened(Tracker):
    """A tracker of one stage, with its run open at a server."""

    def __init__(self, run_dir: Path, server: Flaky) -> None:
        self.warnings: list[str] = []
        super().__init__(run_dir, "tiny", ["joint"], lambda _: False, self.warnings.append)
        client: Any = server
        self._client, self.run_id, self._opened, self._wanted, self._stages = client, "parent", True, True, {"joint": "stage"}


@pytest.fixture
def tracker(tmp_path: Path, server: Flaky, monkeypatch: pytest.MonkeyPatch) -> Opened:
    monkeypatch.setattr(tracking_calls, "INTERVAL", 0.02)
    return Opened(tmp_path, server)


def until(reached: Any) -> None:
    deadline = time.monotonic() + 20
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_went_away_is_not_called_on_the_way_of_the_run(tmp_path: Path, server: Flaky, tracker: Opened) -> None:
    MetricSpool(tmp_path / "metrics", "joint").write(0, {"loss": 1.0})
    server.away = True
    tracker.follow()
    until(lambda: tracker._calls.away)
    tracker.artifact(tmp_path / "report.html")
    time.sleep(0.2)
    tracker.finish("FINISHED")
    assert server.calls == 1


def test_a_server_that_comes_back_gets_everything(tmp_path: Path, server: Flaky, tracker: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_calls, "PAUSE", 0.2)
    spool = MetricSpool(tmp_path / "metrics", "joint")
    spool.write(0, {"loss": 1.0})
    server.away = True
    tracker.follow()
    until(lambda: server.calls >= 2)
    server.away = False
    spool.write(1, {"loss": 1.0})
    until(lambda: server.sent == [0, 1])
    spool.write(2, {"loss": 1.0})
    tracker.finish("FINISHED")
    assert server.sent == [0, 1, 2]
    assert server.ends == ["stage", "parent"]
    assert len(tracker.warnings) == 1


def test_artifacts_leave_time_to_the_end(tmp_path: Path, server: Flaky, tracker: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "LOCAL_PATIENCE", 3.0)
    monkeypatch.setattr(tracking, "LAST", 2.5)
    monkeypatch.setattr(server, "log_artifact", lambda *_: time.sleep(1.0))
    start = time.monotonic()
    for _ in range(20):
        tracker.artifact(tmp_path / "report.html")
    tracker.finish("FINISHED")
    assert time.monotonic() - start < 3.5
    assert server.ends == ["stage", "parent"]
    assert ["is slow: not all files" in line for line in tracker.warnings] == [True]


def test_a_run_that_never_opened_its_store_makes_none(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, "tiny", ["joint"], lambda _: False, pytest.fail)
    tracker.finish("FAILED")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://host:5000", "http://host:5000"),
        ("https://host/base", "https://host/base"),
        ("http://user:p@ss@host", "http://host"),
        ("http://u:pa/ss@host:5/base", "http://host:5/base"),
        ("http://host?token=s3cret", "http://host"),
        ("http://host/base#s3cret", "http://host/base"),
        ("http://u:a?ss@host", "http://..."),
        ("http://host?token=a@s3cret", "http://..."),
        ("sqlite:////home/me@work/a?b#c/mlflow.db", "sqlite:////home/me@work/a?b#c/mlflow.db"),
        ("/runs/mlruns", "/runs/mlruns"),
    ],
)
def test_no_secret_of_an_address_is_shown(uri: str, shown: str) -> None:
    assert tracking_calls.redacted(uri) == shown


def test_a_refusal_is_told_in_a_line_without_secrets() -> None:
    said = "\nfor url: /api?tok=s3cret&x=1 of http://u:p@ss@host/x?tok=s3cret: no\nmore"
    assert tracking_calls.first_line(MlflowException(said)) == "for url: /api of http://host/x no"
    assert len(tracking_calls.first_line(MlflowException("x" * 9999))) == tracking_calls.LONGEST


def test_a_server_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing(b'{"error_code": "PERMISSION_DENIED", "message": "token expired"}') as port:
        warnings, _ = tracked(tmp_path, f"http://user:p@ss@127.0.0.1:{port}", monkeypatch)
    assert len(warnings) == 1
    assert f"MLflow at http://127.0.0.1:{port} failed (" in warnings[0]
    assert "token expired" in warnings[0]
