"""MLflow, the only file that imports it: stages as nested runs of one parent, fed from the metric spool in the background.

Tracking can fail, training goes on: every failure here is printed once and the run's own files stay complete.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from .spool_reader import SpoolReader

PARAM_LIMIT = 500
BATCH = 500
PATIENCE = 30.0


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
        self.uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir / 'mlflow.db'}"
        self.run_id: str | None = run_id
        self._warn, self._name, self._warned = warn, name, False
        self._finished = finished
        self._run_dir = run_dir
        self._spools = run_dir / "metrics"
        self._readers = {stage: SpoolReader(self._spools / f"{stage}.jsonl") for stage in stages}
        self._broken: set[bytes] = set()
        self._stages: dict[str, str] = {}
        self._closed: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._forward_until_stopped, daemon=True, name="mlflow")
        self._client: MlflowClient | None = None
        self._experiment = ""

    def open(self, params: dict[str, Any]) -> None:
        """Open the store, and in it the run."""
        self._guard(lambda: self._open(params))

    def follow(self) -> None:
        """Start to forward metrics in the background."""
        self._thread.start()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file with the parent run."""
        self._guard(lambda: self._use().log_artifact(self._require(), str(path), folder))

    def finish(self, status: str) -> None:
        """Forward what is left and close the parent run, and those of stages that did not end well, with FINISHED, FAILED or KILLED."""
        if self._client is None:  # it was not opened, or said so already
            return
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        if self._thread.is_alive():  # a second forwarder would send the same lines
            self._warn(f"MLflow at {redacted(self.uri)} is slow: its last metrics were not sent, they stay in {self._spools}")
        else:
            self._guard(self._forward)
        if self._broken:
            self._warn(f"{len(self._broken)} broken lines of the metric spools in {self._spools} were not sent to MLflow")
        for stage in self._stages:
            self._guard(lambda s=stage: self._close(s, "FINISHED" if self._finished(s) else status))
        self._guard(lambda: self._use().set_terminated(self._require(), status))

    def _open(self, params: dict[str, Any]) -> None:
        self._client = MlflowClient(tracking_uri=self.uri)
        experiment = self._client.get_experiment_by_name("mutual-forcing")
        artifacts = None if os.environ.get("MLFLOW_TRACKING_URI") else (self._run_dir / "mlartifacts").as_uri()
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment("mutual-forcing", artifacts)
        if self.run_id is None:
            self.run_id = self._client.create_run(self._experiment, run_name=self._name).info.run_id
            flat = [Param(k, str(v)[:PARAM_LIMIT]) for k, v in flatten(params).items()]
            self._client.log_batch(self.run_id, params=flat)

    def _forward_until_stopped(self) -> None:
        while not self._stop.wait(2.0):
            self._guard(self._forward)

    def _forward(self) -> None:
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
            return [Metric(k.replace("/", "."), float(v), at, step) for k, v in record["metrics"].items() if v is not None]
        except (ValueError, TypeError, KeyError, AttributeError):
            self._broken.add(line)
            return []

    def _stage(self, stage: str) -> str:
        if stage not in self._stages:
            tags = {"mlflow.parentRunId": self._require()}
            self._stages[stage] = self._use().create_run(self._experiment, run_name=f"{self._name} {stage}", tags=tags).info.run_id
        return self._stages[stage]

    def _use(self) -> MlflowClient:
        if self._client is None:
            raise MlflowException("the tracking store could not be opened")
        return self._client

    def _require(self) -> str:
        if self.run_id is None:
            raise MlflowException("the run could not be created")
        return self.run_id

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  clients of stores raise anything; none may stop a training
            if not self._warned:
                self._warned = True
                self._warn(
                    f"MLflow at {redacted(self.uri)} failed ({type(error).__name__}); training goes on, metrics stay in {self._spools}"
                )


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
