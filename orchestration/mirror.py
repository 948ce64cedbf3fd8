"""A run folder kept in S3 while the run goes on, in the background: what another machine needs to go on with it, and what people look at.

    run.json  report.html  metrics/  samples/  course/  stacks/  bad-steps/  logs/     when they have changed
    data/                                                                              once, the manifest last; not if it came from S3
    checkpoints/                                                                       not from here: training processes write them there

A file is sent whole. One that grows is sent again after `INTERVAL` seconds, or, if that is more, after one second for each `RATE` bytes
that it has: it costs `RATE` bytes a second at most, however long the run, and what a machine takes with it is the metrics of that time.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..datasets.format.manifest import MANIFEST
from ..datasets.places.scratch import Scratch
from ..datasets.places.store import Store, below, store_of
from ..datasets.redaction import without_secrets
from ..datasets.streamed.stream_account import STREAMED
from ..datasets.transfer import send_dataset
from ..workers.checkpoint_writer import one_line
from .run_folder import COURSE, RUN

FILES = (RUN, "report.html", STREAMED)
FOLDERS = ("metrics", "samples", COURSE, "stacks", "bad-steps", "logs")
WRITTEN_ONCE = "bad-steps/"  # large files that nobody changes: sent from where they are, and not again by the next command
INTERVAL = 10.0  # seconds between two looks
RATE = 2**20  # bytes a second of a file that grows
PAUSE = 60.0  # seconds without a request after the store did not answer
PATIENCE = 60.0  # seconds that a run waits at its end
KEEP_TRYING = 2.0  # seconds between two tries during that time

Version = tuple[int, int, int]


@dataclass(frozen=True)
class RemoteConfig:
    """A run's copy in S3. uri: s3://BUCKET/FOLDER, where a copy of the run is kept, and its checkpoints unless `checkpoint.uri` names
    another place. Another machine with an empty run folder goes on from there. Empty: none.
    """

    uri: str = ""

    def __post_init__(self) -> None:
        if self.uri and not re.fullmatch(r"s3://[^/]+(/[^/]+)+", self.uri):
            raise ValueError(f"remote.uri={without_secrets(self.uri)!r}: must be s3://BUCKET/FOLDER, a folder of this run alone; or empty")

    @property
    def checkpoints(self) -> str:
        return below(self.uri, "checkpoints") if self.uri else ""

    @property
    def data(self) -> str:
        return below(self.uri, "data") if self.uri else ""


@contextmanager
def mirrored(remote: RemoteConfig, run_dir: Path, with_data: bool, warn: Callable[[str], None]) -> Iterator[None]:
    """Keep a copy of the run folder in `remote` during the block, and complete it after the block. with_data: the dataset too.

    Nothing that S3 does stops the block or waits in its way: one warning tells of it, and it is tried again; another one tells what is
    missing at the end.
    """
    if not remote.uri:
        yield
        return
    mirror = Mirror(store_of(remote.uri), store_of(remote.data) if with_data else None, run_dir, warn)
    mirror.start()
    try:
        yield
    finally:
        mirror.finish()


class Mirror:
    """See `mirrored`. One thread makes all requests."""

    def __init__(self, store: Store, data: Store | None, run_dir: Path, warn: Callable[[str], None]) -> None:
        self._store, self._data, self._run_dir, self._warn = store, data, run_dir, warn
        self._sent: dict[str, Version] = {}
        self._next: dict[str, float] = {}
        self._failed: set[str] = set()
        self._warned = False
        self._ending = threading.Event()
        self._end = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True, name="mirror")

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        """Send what is left, for as long as the patience lasts."""
        self._end = time.monotonic() + PATIENCE
        self._ending.set()
        self._thread.join(PATIENCE + KEEP_TRYING)
        if missing := self._missing():
            self._warn(
                f"remote.uri={self._store.uri!r}: {len(missing)} files of the run were not sent ({', '.join(missing[:3])}); they are in "
                f"{str(self._run_dir)!r}, and the same command sends them"
            )

    def _work(self) -> None:
        pause = 0.0
        while not self._ending.wait(pause):
            pause = INTERVAL if self._look(everything=False) else PAUSE
        while not self._look(everything=True) and time.monotonic() + KEEP_TRYING < self._end:
            time.sleep(KEEP_TRYING)

    def _look(self, everything: bool) -> bool:
        """Send what has changed, and is due; whether all of that is there now."""
        good = self._files(everything)
        if self._data is not None and (self._run_dir / "data" / MANIFEST).is_file():
            data = self._data
            if self._tried("data/", lambda: send_dataset(self._run_dir / "data", data, self._between)):
                self._data = None
            else:
                good = False
        return good

    def _between(self, stage: str, done: int, total: int) -> None:
        """Of a dataset's shards: the other files do not wait for all of them."""
        self._files(everything=False)

    def _files(self, everything: bool) -> bool:
        changed, now = self._changed(), time.monotonic()
        due = [name for name in changed if everything or now >= self._next.get(name, 0.0)]
        # What failed before comes last: a file that cannot be sent must not keep the others back.
        return all(self._tried(name, partial(self._send, name, changed[name])) for name in sorted(due, key=self._failed.__contains__))

    def _tried(self, name: str, send: Callable[[], None]) -> bool:
        try:
            send()
        except (OSError, ValueError) as error:
            self._failed.add(name)
            if not self._warned:
                self._warned = True
                self._warn(f"remote.uri={self._store.uri!r}: {name} could not be sent ({one_line(error)[:300]}); it is tried again")
            return False
        self._failed.discard(name)
        return True

    def _send(self, name: str, version: Version) -> None:
        path, size = self._run_dir / name, version[2]
        if name.startswith(WRITTEN_ONCE):
            if self._store.names(WRITTEN_ONCE).get(name) != size:
                self._store.send(path, name)
        else:
            with Scratch() as folder:  # it may grow meanwhile
                try:
                    shutil.copyfile(path, folder / "file")
                except FileNotFoundError:
                    return  # it was removed meanwhile
                size = (folder / "file").stat().st_size
                self._store.send(folder / "file", name)
        self._sent[name] = version
        self._next[name] = time.monotonic() + size / RATE

    def _missing(self) -> list[str]:
        data = [f"data/{MANIFEST}"] if self._data is not None and (self._run_dir / "data" / MANIFEST).is_file() else []
        return [*self._changed(), *data]

    def _changed(self) -> dict[str, Version]:
        """Files that the store has not as they are now; the run's own record first."""
        found = {}
        for name in (*FILES, *(name for folder in FOLDERS for name in _below(self._run_dir, folder))):
            path = self._run_dir / name
            try:
                about = path.lstat()
            except FileNotFoundError:
                continue
            version = (about.st_ino, about.st_mtime_ns, about.st_size)
            if path.is_file() and not path.is_symlink() and self._sent.get(name) != version:
                found[name] = version
        return found


def _below(run_dir: Path, folder: str) -> list[str]:
    """Files without those that are being written, and those that start with a dot."""
    paths = sorted((run_dir / folder).rglob("*"))
    return [p.relative_to(run_dir).as_posix() for p in paths if not any(part.startswith(".") for part in p.relative_to(run_dir).parts)]
