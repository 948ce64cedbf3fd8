"""A run that another machine began, from its copy in S3 into an empty run folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..datasets.format.manifest import MANIFEST, open_manifest
from ..datasets.places.lock import locked
from ..datasets.places.scratch import Scratch
from ..datasets.places.storage import atomic_path, make_folder, read_json, write_json
from ..datasets.places.store import Store, below, is_remote, safe, store_of
from ..datasets.progress import Progress, silent
from ..datasets.transfer import beside, fetch_dataset, told
from .mirror import FOLDERS, RemoteConfig
from .report.page import build_report
from .run_folder import RESTORING, RUN, require_ours

MOVED = "moved"  # in a run's record: another machine began it
MAX_RECORD = 64 * 2**20
LARGE = ("bad-steps/",)  # as large as a checkpoint, and needed by people alone


def restore(remote: RemoteConfig, settings: str, run_dir: Path, progress: Progress) -> bool:
    """Bring the run in `remote` into `run_dir`, if another machine has begun it, or gone on with it, since; whether it did. The record
    comes last, so what was cut off is taken up again.

    Raises:
        ValueError: the run there has other settings, or is not the one in the run folder; the folder holds something else; the store does
            not answer.
    """
    if not remote.uri:
        return False
    with (
        told("remote.uri", remote.uri, "lost a file while it was read; does another machine work on this run?"),
        store_of(remote.uri) as store,
    ):
        record = remote_record(store)
        if record is None:
            return False
        if record.get("settings") != settings:
            raise ValueError(f"remote.uri={remote.uri!r}: holds a run of another configuration; choose another folder, or remove it")
        if (run_dir / RUN).is_file() and not _is_ahead(record, run_dir, remote.uri):
            return False
        make_folder("run", run_dir)
        require_ours(run_dir)
        with locked("run folder", run_dir):
            (run_dir / RESTORING).touch()
            fetch_files(store, run_dir, progress)
            _fetch_data(remote, record, run_dir, progress)
            _begin_tracking_again(record, run_dir)
            write_json(run_dir / RUN, record | {MOVED: True})
            (run_dir / RESTORING).unlink()
    return True


def _is_ahead(record: dict[str, Any], run_dir: Path, uri: str) -> bool:
    """Whether the run has been trained for longer elsewhere than here.

    Raises:
        ValueError: it is not the run that is here.
    """
    mine = read_json(run_dir / RUN, "run")
    if mine.get("created") != record.get("created"):
        raise ValueError(f"remote.uri={uri!r}: holds another run than {str(run_dir)!r}; choose another folder for one of them")
    return record.get("total_seconds", 0.0) > mine.get("total_seconds", 0.0)


def remote_record(store: Store) -> dict[str, Any] | None:
    """The record of the run in a store; None where there is none.

    Raises:
        ValueError: it is no record.
    """
    try:
        path = store.fetch(RUN)
    except FileNotFoundError:
        return None
    record = read_json(path, f"run {store.uri!r}") if path.stat().st_size <= MAX_RECORD else None
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ValueError(f"run {store.uri!r}: its {RUN} holds no configuration; choose another folder, or remove it")
    return record


def fetch_files(store: Store, run_dir: Path, progress: Progress = silent) -> None:
    """All of a run but its record, data and checkpoints, and what is as large.

    Raises:
        ValueError: a name leads elsewhere, or there is no room.
        OSError: the store does not answer.
    """
    sizes = {name: size for folder in FOLDERS for name, size in store.names(f"{folder}/").items() if not name.startswith(LARGE)}
    if sum(sizes.values()) > (free := shutil.disk_usage(run_dir).free):
        raise ValueError(f"run {store.uri!r}: takes {sum(sizes.values()) / 1e9:.2g} GB, {free / 1e9:.2g} GB are free; make room")
    for done, name in enumerate(sizes):
        progress("fetch the run", done, len(sizes))
        path = run_dir / safe(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            store.receive(name, temporary)
    progress("fetch the run", len(sizes), len(sizes))


def _fetch_data(remote: RemoteConfig, record: dict[str, Any], run_dir: Path, progress: Progress) -> None:
    with store_of(remote.data) as store:
        if MANIFEST in store.names():  # else it was not all sent, or came from elsewhere: it is prepared, or fetched from there
            fetch_dataset(store, make_folder("run", run_dir / "data"), progress, record.get("dataset", ""))


def _begin_tracking_again(record: dict[str, Any], run_dir: Path) -> None:
    """A tracking store in files stayed on the other machine: the metrics go into a new run of a new one."""
    if str(record.get("mlflow", {}).get("tracking_uri", "")).startswith(("sqlite:", "file:", "/", ".")):
        record["mlflow"] = {}
        (run_dir / "metrics" / "mlflow.json").unlink(missing_ok=True)


def report_again(uri: str, progress: Progress) -> str:
    """Write the report of a run in S3 again; returns where it is.

    Raises:
        ValueError: there is no run, or the store does not answer.
    """
    with told("run", uri, "lost a file while it was read; give the command again"), store_of(uri) as store, Scratch() as folder:
        record = remote_record(store)
        if record is None:
            raise ValueError(f"run {uri!r}: holds no {RUN}; give the remote.uri of a run")
        fetch_files(store, folder, progress)
        (folder / "data").mkdir()
        prepared = str(record["config"].get("data", {}).get("prepared", ""))
        with store_of(prepared if is_remote(prepared) else below(uri, "data")) as data:
            there = data.names()
            if MANIFEST in there:
                data.receive(MANIFEST, folder / "data" / MANIFEST)
                for name in there.keys() & set(beside(open_manifest(folder / "data" / MANIFEST))):
                    data.receive(name, folder / "data" / name)
        write_json(folder / RUN, record)
        store.send(build_report(folder, progress), "report.html")
    return below(uri, "report.html")
