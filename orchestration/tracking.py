"""MLflow, the only file that imports it: stages as nested runs of one parent, fed from the metric spool in the background.

Tracking can fail, and a store can be away or silent: training goes on, one warning says so, and the run's own files stay complete.
One thread makes all calls, in order; a run waits for it at its start and at its end, and no longer than its patience. Which runs of the
store are whose is written beside the spools, so a command that goes on with a run goes on with them, after the last step that they have.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Read by MLflow itself; whoever has set them keeps them. Its own patience is 7 retries of 120 s with pauses between, for every call.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ..datasets.storage import write_json
from .spool_reader import SpoolReader

PARAM_LIMIT = 500
BATCH = 500
INTERVAL = 2.0  # seconds between two looks at the spools
PAUSE = 60.0  # seconds without any call after the store could not be reached
PATIENCE = 30.0  # seconds that a run waits at its start, and again at its end for all artifacts and the last metrics together
LOCAL_PATIENCE = 120.0  # the same for a store in files: it cannot be away, and a busy machine takes its time to make one
LAST = 10.0  # seconds of that patience which artifacts leave to the end of the run


class Tracker:
    """One parent run: `open` it, `follow` forwards the spools of `stages` until `finish`. `run_id` continues an interrupted run, whose
    finished stages are there already. `finished` tells whether a stage has ended well: its own run then ends too, whatever becomes of the
    others. `warn` is called with one line when the tracker cannot be reached.
    """

    def __init__(
        self,
        run_dir: Path,
        name: str,
        stages: Sequence[str],
        finished: Callable[[str], bool],
        warn: Callable[[str], None],
        run_id: str | None = None,
    ) -> None:
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails here is said once, in one line, by _guard
        logging.getLogger("urllib3").setLevel(logging.ERROR)
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir / 'mlflow.db'}"
        self.run_id: str | None = run_id
        self._warn, self._name, self._warned = warn, name, False
        self._finished = finished
        self._run_dir = run_dir
        self._spools = run_dir / "metrics"
        self._readers = {stage: SpoolReader(self._spools / f"{stage}.jsonl") for stage in stages}
        self._broken: set[bytes] = set()
        self._notes = self._spools / "mlflow.json"
        known = _known(self._notes) if run_id is not None else {}
        self._stages: dict[str, str] = {stage: known[stage] for stage in stages if stage in known}
        self._resumed = set(self._stages)  # whose last step the store has not been asked for yet
        self._closed: set[str] = set()
        self._params: dict[str, Any] = {}
        self._params_sent = run_id is not None
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._wanted = self._opened = False
        self._away = False  # the store could not be reached: no calls before `_again`
        self._again = self._deadline = 0.0
        self._over = threading.Event()  # no calls ever again, not even by a thread that comes back late
        self._following = threading.Event()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")

    def open(self, params: dict[str, Any]) -> None:
        """Open the store, and in it the run."""
        self._params, self._wanted = flatten(params), True
        if not self._ask(self._open, self._patience()):
            self._over.set()
            self._complain("does not answer; training goes on without it")

    def follow(self) -> None:
        """Start to forward metrics in the background."""
        self._wanted = True
        self._following.set()
        self._start()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file with the parent run."""
        seconds = self._left() - LAST
        if seconds > 0 and not self._ask(lambda: self._use().log_artifact(self._require(), str(path), folder), seconds):
            self._complain(f"is slow: not all files of {self._run_dir} were sent")

    def finish(self, status: str) -> None:
        """Forward what is left and close the parent run, and those of stages that did not end well, with FINISHED, FAILED or KILLED."""
        in_time = not self._wanted or self._ask(lambda: self._end(status), self._left())
        self._over.set()
        if not in_time:
            self._complain("is slow: its last metrics were not sent")
        if self._broken:
            self._warn(f"{len(self._broken)} broken lines of the metric spools in {self._spools} were not sent to MLflow")

    def _patience(self) -> float:
        return LOCAL_PATIENCE if self.uri.startswith(("sqlite:", "file:", "/", ".")) else PATIENCE

    def _left(self) -> float:
        """What is left of the patience at the end of a run, which begins with the first question."""
        self._deadline = self._deadline or time.monotonic() + self._patience()
        return max(0.0, self._deadline - time.monotonic())

    def _ask(self, action: Callable[[], None], seconds: float) -> bool:
        """Have the thread do it; whether it is done, or need not be waited for, within `seconds`."""
        if self._away or self._over.is_set():
            return True  # that was said when it happened
        done = threading.Event()

        def job() -> None:
            try:
                self._guard(action)
            finally:
                done.set()

        self._jobs.put(job)
        self._start()
        return done.wait(seconds)

    def _start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()

    def _work(self) -> None:
        while not self._over.is_set():
            try:
                job = self._jobs.get(timeout=INTERVAL)
            except queue.Empty:
                if self._following.is_set() and (not self._away or time.monotonic() >= self._again):
                    self._away = False
                    self._guard(self._forward)
            else:
                job()

    def _open(self) -> None:
        self._client = MlflowClient(tracking_uri=self.uri)
        experiment = self._client.get_experiment_by_name("mutual-forcing")
        artifacts = None if os.environ.get("MLFLOW_TRACKING_URI") else (self._run_dir / "mlartifacts").as_uri()
        self._experiment = experiment.experiment_id if experiment else self._use().create_experiment("mutual-forcing", artifacts)
        if self.run_id is None:
            self.run_id = self._use().create_run(self._experiment, run_name=self._name).info.run_id
        if not self._params_sent:
            self._use().log_batch(self.run_id, params=[Param(k, str(v)[:PARAM_LIMIT]) for k, v in self._params.items()])
            self._params_sent = True
        self._opened = True

    def _end(self, status: str) -> None:
        self._guard(self._forward)
        for stage in self._stages:
            self._guard(lambda s=stage: self._close(s, "FINISHED" if self._finished(s) else status))
        self._guard(lambda: self._use().set_terminated(self._require(), status))

    def _forward(self) -> None:
        if not self._opened:
            self._open()
        for stage in sorted(self._resumed):
            self._continue(stage)
        for stage, reader in self._readers.items():
            ended = self._finished(stage)  # asked first: whatever comes after the answer is read below
            lines: list[bytes] = []
            metrics: list[Metric] = []
            for line in reader.pending():
                made = self._metrics(line)
                if len(metrics) + len(made) > BATCH:
                    self._send(stage, metrics)
                    reader.confirm(lines)
                    lines, metrics = [], []
                lines.append(line)
                metrics += made
            self._send(stage, metrics)
            reader.confirm(lines)
            if ended and stage in self._stages:
                self._close(stage, "FINISHED")

    def _continue(self, stage: str) -> None:
        """Take up the stage's run of an earlier command: what it has is not sent again."""
        run_id = self._stages[stage]
        history = self._use().get_metric_history(run_id, "lr")  # every step has one
        self._readers[stage].skip(max((m.step for m in history), default=-1))
        self._use().update_run(run_id, status="RUNNING")
        self._resumed.discard(stage)

    def _close(self, stage: str, status: str) -> None:
        if stage not in self._closed:
            self._use().set_terminated(self._stages[stage], status)
            self._closed.add(stage)

    def _send(self, stage: str, metrics: list[Metric]) -> None:
        if metrics:
            self._use().log_batch(self._stage(stage), metrics=metrics)

    def _metrics(self, line: bytes) -> list[Metric]:
        """A line's metrics; a broken line is counted and has none."""
        try:
            record = json.loads(line)
            at, step = int(record["time"] * 1000), int(record["step"])
            if "note" in record:
                return []
            return [Metric(k.replace("/", "."), float(v), at, step) for k, v in record["metrics"].items() if v is not None]
        except (ValueError, TypeError, KeyError, AttributeError):
            self._broken.add(line)
            return []

    def _stage(self, stage: str) -> str:
        if stage not in self._stages:
            tags = {"mlflow.parentRunId": self._require()}
            self._stages[stage] = self._use().create_run(self._experiment, run_name=f"{self._name} {stage}", tags=tags).info.run_id
            self._spools.mkdir(parents=True, exist_ok=True)
            write_json(self._notes, _known(self._notes) | self._stages)
        return self._stages[stage]

    def _use(self) -> MlflowClient:
        if self._client is None or self._over.is_set():
            raise MlflowException("the tracking store is not open")
        return self._client

    def _require(self) -> str:
        if self.run_id is None:
            raise MlflowException("the run could not be created")
        return self.run_id

    def _guard(self, action: Callable[[], object]) -> None:
        if self._away:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001  clients of stores raise anything; none may stop a training
            if cause := unreachable(error):
                self._away, self._again = True, time.monotonic() + PAUSE
            if not self._over.is_set():  # else it has been said
                what = f"cannot be reached ({cause})" if cause else f"failed ({type(error).__name__})"
                self._complain(f"{what}; training goes on")

    def _complain(self, what: str) -> None:
        """One warning a run, whatever else comes after it."""
        if not self._warned:
            self._warned = True
            self._warn(f"MLflow at {redacted(self.uri)} {what}, metrics stay in {self._spools}")


def _known(notes: Path) -> dict[str, str]:
    """Runs of the store by stage, as an earlier command wrote them down."""
    try:
        found = json.loads(notes.read_text())
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def unreachable(error: BaseException | None) -> str:
    """The name of the failed connection, or of the silence on it, behind an error; empty where a store answered, or a file failed."""
    while error is not None:
        # What `requests` raises is an OSError with a response, which is None where no server gave one.
        if isinstance(error, OSError) and getattr(error, "response", error) is None:
            return type(error).__name__
        error = error.__cause__ or error.__context__
    return ""


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as `section.key` names; lists of named records by their name."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            for item in value:
                flat |= flatten(item, f"{prefix}{key}.{item['name']}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def redacted(uri: str) -> str:
    """A URI without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)
