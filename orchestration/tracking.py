"""MLflow, the only file that imports it: stages as nested runs of one parent, fed from the metric spool in the background.

Tracking can fail, and a store can be away or silent: training goes on, one warning says so, and the run's own files stay complete.
One thread makes all calls, in order; a run waits for it at its start and at its end, and no longer than its patience. Runs of the store
carry a key that is kept beside the spools: a command that goes on with a run finds them by it, whatever became of an answer, a command or
the store before, and sends what they lack.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read by MLflow itself; whoever has set them keeps them. Its own patience is 7 retries of 120 s with pauses between, for every call.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # where --json prints
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")

from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from ..datasets.places.fault_switch import may_fail, tracker_of
from ..datasets.places.storage import sha256_file
from ..datasets.redaction import redacted
from .run_folder import EVALUATED, kept_key
from .spool_reader import SpoolReader
from .tracking_calls import Calls, first_line, unreachable
from .tracking_names import flatten, safe_name, safe_value

EXPERIMENT = "mutual-forcing"
KEY, STAGE = "mutual_forcing.run", "mutual_forcing.stage"  # tags: whose a run of the store is, and of which stage
MODEL = "model"  # the folder of a version's files among its run's artifacts
WHOLE = "*"  # the stage of the parent run
BATCH = 500
PATIENCE = 30.0  # seconds that a run waits at its start, and again at its end for all artifacts and the last metrics together
LOCAL_PATIENCE = 120.0  # the same for a store in files: it cannot be away, and a busy machine takes its time to make one
UPLOAD = 600  # seconds that an answer may take while weights are sent
LAST = 10.0  # seconds of that patience which artifacts leave to the end of the run


class Tracker:
    """One parent run: `open` it, `follow` forwards the spools of `stages`, and that of evaluations, until `finish`. An earlier command's
    runs are gone on with. `finished` tells whether a stage has ended well: its own run then ends too, whatever becomes of the others.
    `warn` is called with one line when the tracker cannot be reached. `complete`: after `finish`, whether the store has everything.
    """

    def __init__(
        self, run_dir: Path, name: str, stages: Sequence[str], finished: Callable[[str], bool], warn: Callable[[str], None]
    ) -> None:
        _quiet()
        self.uri = tracking_uri(run_dir)
        self.run_id: str | None = None
        self.complete = False
        self._warn, self._name = warn, name
        self._finished = lambda stage: stage != EVALUATED and finished(stage)  # evaluations end with the run
        self._run_dir = run_dir
        self._spools = run_dir / "metrics"
        self._readers = {stage: SpoolReader(self._spools / f"{stage}.jsonl") for stage in (*stages, EVALUATED)}
        self._broken: set[bytes] = set()
        self._key = ""
        self._stages: dict[str, str] = {}
        self._closed: set[str] = set()
        self._shown: dict[str, int] = {}  # by stage, the last step whose loss the parent's page has
        self._params: dict[str, Any] = {}
        self._tags: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._wanted = self._opened = False
        self._files: deque[tuple[Path, str]] = deque()  # to send when there is time
        self._lost = False  # something that is not sent again by this command
        self._deadline = 0.0
        where = redacted(self.uri)
        self._calls = Calls(self._forward, lambda what: warn(f"MLflow at {where} {what}, metrics stay in {self._spools}"))

    def open(self, params: dict[str, Any], tags: dict[str, str]) -> None:
        """Open the store, and in it the run. Where an earlier command logged another parameter, a tag `changed.NAME` has the new one."""
        self._params, self._tags, self._wanted = flatten(params), tags, True
        if not self._calls.ask(self._open, self._patience()):
            self._calls.end()
            self._calls.complain("does not answer; training goes on without it")

    def follow(self) -> None:
        """Start to forward metrics in the background."""
        self._wanted = True
        self._calls.follow()

    def later(self, path: Path, folder: str) -> None:
        """Log a file with the parent run in the background, as metrics are."""
        self._files.append((path, folder))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file with the parent run."""
        seconds = self._left() - LAST
        if self._calls.away or self._calls.over or seconds <= 0:
            self._lost = True
        elif not self._calls.ask(lambda: self._upload(path, folder), seconds):
            self._lost = True
            self._calls.complain(f"is slow: not all files of {self._run_dir} were sent")

    def finish(self, status: str) -> None:
        """Forward what is left and close the parent run, and those of stages that did not end well, with FINISHED, FAILED or KILLED."""
        in_time = not self._wanted or self._calls.ask(lambda: self._end(status), self._left())
        self._calls.end()
        if not in_time:
            self._calls.complain("is slow: its last metrics were not sent")
        if self._broken:
            self._warn(f"{len(self._broken)} broken lines of the metric spools in {self._spools} were not sent to MLflow")

    def _patience(self) -> float:
        return LOCAL_PATIENCE if self.uri.startswith(("sqlite:", "file:", "/", ".")) else PATIENCE

    def _left(self) -> float:
        """What is left of the patience at the end of a run, which begins with the first question."""
        self._deadline = self._deadline or time.monotonic() + self._patience()
        return max(0.0, self._deadline - time.monotonic())

    def _open(self) -> None:
        self._client = MlflowClient(tracking_uri=self.uri)
        self._experiment = _experiment(self._use, self._run_dir)
        self._key = self._key or kept_key(self._spools / "mlflow.json")
        parent = self._run_of(WHOLE, self._name, {})
        self.run_id = parent.info.run_id
        self._describe(parent)
        self._opened = True

    def _describe(self, run: Run) -> None:
        """Log the parameters that the run has not, and as tags, in which it differs from those that it has: they cannot be changed."""
        params = {safe_name(name): safe_value(value) for name, value in self._params.items()}
        logged, run_id = run.data.params, run.info.run_id
        changed = {safe_name(f"changed.{name}"): value for name, value in params.items() if logged.get(name, value) != value}
        new = [Param(name, value) for name, value in params.items() if name not in logged]
        self._use().log_batch(run_id, params=new, tags=[RunTag(*tag) for tag in (self._tags | changed).items()])
        for name in run.data.tags:
            if name.startswith("changed.") and name not in changed:
                self._use().delete_tag(run_id, name)
        if run.info.status != "RUNNING":
            self._use().update_run(run_id, status="RUNNING")

    def _ours(self) -> dict[str, Run]:
        """The runs of this run folder in the store, by stage; the first of each, where an answer was lost and it was made twice."""
        found = self._use().search_runs([self._experiment], f"tags.`{KEY}` = '{self._key}'")
        return {r.data.tags[STAGE]: r for r in sorted(found, key=lambda r: (r.info.start_time, r.info.run_id), reverse=True)}

    def _run_of(self, stage: str, name: str, tags: dict[str, str]) -> Run:
        """An earlier command's run, or a new one."""
        if stage not in (ours := self._ours()):
            self._use().create_run(self._experiment, run_name=name, tags={KEY: self._key, STAGE: stage, **tags})
            ours = self._ours()
        return ours[stage]

    def _upload(self, path: Path, folder: str | None) -> None:
        sent = False
        try:
            self._use().log_artifact(self._require(), str(path), folder)
            sent = True
        finally:
            self._lost |= not sent

    def _end(self, status: str) -> None:
        done = self._calls.guard(self._forward)
        for stage in self._stages:
            ended = self._finished(stage)
            if done or not ended:  # FINISHED says that the store has all of it
                done &= self._calls.guard(lambda s=stage, ended=ended: self._close(s, "FINISHED" if ended else status))
        done &= self._calls.guard(lambda: self._use().set_terminated(self._require(), status))
        self.complete = done and not self._lost

    def _forward(self) -> None:
        if not self._opened:
            self._open()
        for stage, reader in self._readers.items():
            ended = self._finished(stage)  # asked first: whatever comes after the answer is read below
            if stage not in self._closed and reader.pending():
                self._forward_stage(stage, reader, ended)
            if ended and stage in self._stages:
                self._close(stage, "FINISHED")
        while self._files:
            if self._files[0][0].is_file():  # who removed it does not want it sent
                self._use().log_artifact(self._require(), *map(str, self._files[0]))
            self._files.popleft()  # when it is there: what fails is tried again

    def _forward_stage(self, stage: str, reader: SpoolReader, ended: bool) -> None:
        if stage not in self._stages:
            self._join(stage, reader, ended)
        lines: list[bytes] = []
        metrics: list[Metric] = []
        for line in reader.pending() if stage not in self._closed else ():
            made = self._metrics(line)
            if len(metrics) + len(made) > BATCH:
                self._send(stage, metrics)
                reader.confirm(lines)
                lines, metrics = [], []
            lines.append(line)
            metrics += made
        self._send(stage, metrics)
        reader.confirm(lines)

    def _join(self, stage: str, reader: SpoolReader, ended: bool) -> None:
        """Make the stage's run, or take up that of an earlier command: what it has is not sent again."""
        run = self._run_of(stage, f"{self._name} {stage}", {"mlflow.parentRunId": self._require()})
        run_id, status = run.info.run_id, run.info.status
        if ended and status == "FINISHED":
            self._closed.add(stage)
        else:
            reader.skip(self._last_step(run_id, "evaluation_s" if stage == EVALUATED else "lr"))  # every step has one
            self._shown[stage] = self._last_step(self._require(), _curve(stage))
            if status != "RUNNING":
                self._use().update_run(run_id, status="RUNNING")
        self._stages[stage] = run_id

    def _last_step(self, run_id: str, metric: str) -> int:
        return max((m.step for m in self._use().get_metric_history(run_id, metric)), default=-1)

    def _close(self, stage: str, status: str) -> None:
        if stage not in self._closed:
            self._use().set_terminated(self._stages[stage], status)
            self._closed.add(stage)

    def _send(self, stage: str, metrics: list[Metric]) -> None:
        """All of them to the stage's run; its loss to the parent's too, whose page shows no others."""
        if not metrics:
            return
        shown = self._shown.get(stage, -1)
        losses = [Metric(_curve(stage), m.value, m.timestamp, m.step) for m in metrics if m.key == "loss" and m.step > shown]
        if losses:
            self._use().log_batch(self._require(), metrics=losses)
            self._shown[stage] = losses[-1].step
        self._use().log_batch(self._stages[stage], metrics=metrics)

    def _metrics(self, line: bytes) -> list[Metric]:
        """A line's metrics; a broken line is counted and has none."""
        try:
            record = json.loads(line)
            at, step = int(record["time"] * 1000), int(record["step"])
            if not (0 <= at < 2**63 and 0 <= step < 2**63):  # a store would refuse it, and everything that is sent with it
                raise ValueError
            if "note" in record:
                return []
            return [Metric(safe_name(k), float(v), at, step) for k, v in record["metrics"].items() if v is not None]
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
            self._broken.add(line)
            return []

    def _use(self) -> MlflowClient:
        if self._client is None or self._calls.over:
            raise MlflowException("the tracking store is not open")
        may_fail(tracker_of(self._run_dir))
        return self._client

    def _require(self) -> str:
        if self.run_id is None:
            raise MlflowException("the run could not be created")
        return self.run_id


def tracking_uri(run_dir: Path) -> str:
    """Where a run is tracked: what MLFLOW_TRACKING_URI names, or a store in its own folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run_dir / 'mlflow.db'}"


def _quiet() -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what fails here is said once, in one line, by who asked
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def _experiment(use: Callable[[], MlflowClient], run_dir: Path) -> str:
    found = use().get_experiment_by_name(EXPERIMENT)
    artifacts = None if os.environ.get("MLFLOW_TRACKING_URI") else (run_dir / "mlartifacts").as_uri()
    return found.experiment_id if found else use().create_experiment(EXPERIMENT, artifacts)


def _curve(stage: str) -> str:
    return safe_name(f"{stage}/loss")


def register(run_dir: Path, folder: Path, name: str, tags: dict[str, str], figures: dict[str, float], parent: str | None) -> dict[str, str]:
    """Make the files of `folder` a version of the registered model `name`, with a run of their own that has the figures, nested in
    `parent` where the store knows it. The files are read back, and their hashes are tags. Returns name, version, run_id, tracking_uri.

    Raises:
        ValueError: it failed.
    """
    _quiet()
    uri = tracking_uri(run_dir)
    try:
        client = MlflowClient(tracking_uri=uri)
        experiment = _experiment(lambda: client, run_dir)
        hashes = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
        tags = {safe_name(k): safe_value(v) for k, v in (tags | {f"sha256.{file}": sha for file, sha in hashes.items()}).items()}
        with _beside(client, experiment, f"export {name}", tags, parent, figures) as run_id:
            _upload(client, run_id, folder, hashes)
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL}"
            told = tags | {safe_name(k): f"{v:.6g}" for k, v in figures.items()}  # the page of a version shows its tags, and no metrics
            version = client.create_model_version(name, source, run_id, tags=told).version
    except Exception as error:  # clients of stores raise anything
        cause = unreachable(error)
        why = f"cannot be reached ({cause})" if cause else f"failed ({first_line(error)})"
        raise ValueError(
            f"--register={name!r}: MLflow at {redacted(uri)} {why}; no version was made, the export in {str(folder)!r} stands; cure it and "
            "give the command again with another --out"
        ) from error
    return {"name": name, "version": str(version), "run_id": run_id, "tracking_uri": redacted(uri)}


def log_evaluation(
    run_dir: Path, parent: str | None, name: str, tags: dict[str, str], figures: dict[str, float], files: list[Path]
) -> None:
    """Log figures and files of an evaluation as a run of its own, nested in `parent` where the store knows it.

    Raises:
        ValueError: MLflow cannot be reached, or did not take it.
    """
    _quiet()
    uri = tracking_uri(run_dir)
    try:
        client = MlflowClient(tracking_uri=uri)
        tags = {safe_name(k): safe_value(v) for k, v in tags.items()}
        with _beside(client, _experiment(lambda: client, run_dir), name, tags, parent, figures) as run_id, _long_calls():
            for path in files:
                client.log_artifact(run_id, str(path))
    except Exception as error:  # clients of stores raise anything
        cause = unreachable(error)
        why = f"cannot be reached ({cause})" if cause else f"failed ({first_line(error)})"
        raise ValueError(f"MLflow at {redacted(uri)} {why}") from error


@contextmanager
def _beside(
    client: MlflowClient, experiment: str, name: str, tags: dict[str, str], parent: str | None, figures: dict[str, float]
) -> Iterator[str]:
    """A run of its own with these figures, nested in `parent` where the store knows it; FAILED if the block does not end well."""
    nested = {"mlflow.parentRunId": parent} if parent and client.search_runs([experiment], f"attributes.run_id = '{parent}'") else {}
    run_id, status = client.create_run(experiment, run_name=name, tags=tags | nested).info.run_id, "FAILED"
    try:
        metrics = [Metric(safe_name(k), v, int(time.time() * 1000), 0) for k, v in figures.items()]
        for first in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[first : first + BATCH])
        yield run_id
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)


def _upload(client: MlflowClient, run_id: str, folder: Path, hashes: dict[str, str]) -> None:
    """Send the files, and compare what the store gives back."""
    with _long_calls():
        client.log_artifacts(run_id, str(folder), MODEL)
        for file, sha in hashes.items():
            with tempfile.TemporaryDirectory(prefix=".verify-", dir=folder.parent) as temporary:
                if sha256_file(Path(client.download_artifacts(run_id, f"{MODEL}/{file}", temporary))) != sha:
                    raise MlflowException(f"{file} came back from the artifact store with another hash")


@contextmanager
def _long_calls() -> Iterator[None]:
    """A server answers the upload of weights when it has passed them on."""
    before = os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(int(before), UPLOAD))
    try:
        yield
    finally:
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = before
