"""One job at a time writes below a prefix in S3: an object tells who, which its holder renews, and which counts no more when it is not.

    none --put, if there is none--> mine --put, if it is still mine, every BEAT seconds--> mine --> removed
                                     |
                                     its holder was killed: the same for LEASE seconds --put, if it is still that--> another's

S3 itself decides who was first (If-None-Match and If-Match of a PUT; Amazon's since November 2024). A server that minds neither may let two
jobs begin that ask at the very same moment: one of them finds the other out when it renews, at the latest before it writes the manifest.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from ..intake.prefixes import bucket_and_key
from ..places.lock import LOCK
from ..places.storage import s3
from ..places.store import below, code_of, tried
from ..progress import Progress, silent

BEAT = 15.0  # seconds between two renewals
LEASE = 90.0  # seconds without one after which another job may take over
LOOK, PATIENCE = 1.0, 5.0
WAIT = "see whether another job still writes there"
MAX_BYTES = 4096
TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey")
UNMINDED = "NotImplemented"  # by a server that knows no conditions


@dataclass(frozen=True)
class Holder:
    """A job: its token, its process, and how often it has renewed. numbers: within what the process has its number; empty: not known."""

    token: str
    process: int
    host: str
    numbers: str = ""
    renewed: int = 0

    def __str__(self) -> str:
        return f"process {self.process} on {self.host!r}"

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended: it would be a process here, and is none."""
        return bool(self.numbers) and self.numbers == _numbers() and not _lives(self.process)


class Lease:
    """A prefix that is this job's, until `close`; see `leased`."""

    def __init__(self, uri: str, holder: Holder) -> None:
        self._uri, self._object, self._holder = uri, _Object(uri), holder
        self._lock, self._ended, self._lost = threading.Lock(), threading.Event(), ""
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Renew it now.

        Raises:
            ValueError: another job has taken over.
            OSError: S3 does not answer.
        """
        with self._lock:
            there = self._object.read()  # its state too: of an earlier renewal the answer may have been lost
            renewed = replace(self._holder, renewed=self._holder.renewed + 1)
            if there is None or not there.is_of(self._holder) or not self._object.put(renewed, there):
                self._lost = (
                    f"data.out={self._uri!r}: another job has taken it over, as this one gave no sign of life for {LEASE:g} s; "
                    "what was made is kept, and the same command goes on when that job has ended"
                )
                raise ValueError(self._lost)
            self._holder = renewed

    def check(self) -> None:
        """Without asking S3: raises ValueError if the last renewal found that another job has taken over."""
        if self._lost:
            raise ValueError(self._lost)

    def close(self) -> None:
        """Give it back; where that fails it ends by itself."""
        self._ended.set()
        self._thread.join(PATIENCE)
        with suppress(OSError):
            if not self._thread.is_alive() and (there := self._object.read()) and there.is_of(self._holder):
                self._object.remove()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                self.require()
            except OSError:
                continue  # S3 may answer again before the lease is over
            except ValueError:
                return  # `check` says so, and `require` once more before anything is removed


@contextmanager
def leased(uri: str, progress: Progress = silent) -> Iterator[Lease]:
    """Nobody else writes below the prefix `uri` during the block. Waits where another job gives no sign of life, until that is sure.

    Raises:
        ValueError: another job writes there, or an object of ours' name is none of ours.
        OSError: S3 does not answer.
    """
    lease = _taken(uri, progress)
    try:
        yield lease
    finally:
        lease.close()


def _taken(uri: str, progress: Progress) -> Lease:
    here = Holder(secrets.token_hex(8), os.getpid(), socket.gethostname(), _numbers())
    at, first = _Object(uri), None
    while True:
        found = at.read()
        if found is None:
            if at.put(here, None):
                return Lease(uri, here)
            continue
        if found.holder is None:
            raise ValueError(f"data.out={uri!r}: holds an object {LOCK!r} that is no lock of ours; remove it, or choose another prefix")
        if first is not None and found.etag != first.etag:
            raise ValueError(f"data.out={uri!r}: {found.holder} is writing there; wait for its end, or choose another prefix with --out")
        if first is None:
            first, since = found, time.monotonic()
        waited = first.age_s + time.monotonic() - since
        if (found.holder.is_gone or waited > LEASE) and at.put(here, found):
            return Lease(uri, here)
        progress(WAIT, int(min(waited, LEASE)), int(LEASE))
        time.sleep(LOOK)


@dataclass(frozen=True)
class _Found:
    """What is there: whose (None: it is no lock of ours), which state of it, and for how many seconds by the clock of S3."""

    holder: Holder | None
    etag: str
    age_s: float

    def is_of(self, holder: Holder) -> bool:
        return self.holder is not None and self.holder.token == holder.token


class _Object:
    """The object that tells who writes below a prefix."""

    def __init__(self, uri: str) -> None:
        self._uri = below(uri, LOCK)
        self._bucket, self._key = bucket_and_key(self._uri)
        self._fs: Any = s3(attempts=1)

    def read(self) -> _Found | None:
        """What is there, None if there is nothing."""
        try:
            head = tried(lambda: self._fs.call_s3("head_object", Bucket=self._bucket, Key=self._key), self._uri)
            content = b""
            if 0 < head["ContentLength"] <= MAX_BYTES:
                content = tried(lambda: self._fs.cat_file(f"{self._bucket}/{self._key}", start=0, end=MAX_BYTES), self._uri)
        except FileNotFoundError:
            return None
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])  # by the clock that its time is of
        return _Found(_holder(content), head["ETag"], max(0.0, (now - head["LastModified"]).total_seconds()))

    def put(self, holder: Holder, instead_of: _Found | None) -> bool:
        """Write it in the place of what was found, or of nothing; whether it is there then."""
        content = json.dumps(asdict(holder)).encode()
        condition = {"IfNoneMatch": "*"} if instead_of is None else {"IfMatch": instead_of.etag}

        def asked(**conditions: str) -> None:
            try:
                self._fs.call_s3("put_object", Bucket=self._bucket, Key=self._key, Body=content, **conditions)
            except OSError as error:
                if conditions and code_of(error) == UNMINDED:
                    asked()
                elif code_of(error) not in TAKEN:
                    raise

        tried(lambda: asked(**condition), self._uri)
        there = self.read()  # rather than the answer: that of a first attempt may have been lost, and the second finds itself
        return there is not None and there.holder == holder

    def remove(self) -> None:
        tried(lambda: self._fs.rm_file(f"{self._bucket}/{self._key}"), self._uri)


def _holder(content: bytes) -> Holder | None:
    """What `put` wrote."""
    try:
        data = json.loads(content)
        found = Holder(**data)
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = ((found.token, str), (found.process, int), (found.host, str), (found.numbers, str), (found.renewed, int))
    return found if all(isinstance(value, kind) for value, kind in kinds) and 0 < found.process < 2**31 else None


def _numbers() -> str:
    """Within what a process has its number: this start of this machine, and in it this container. Empty where no system tells."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    return True
