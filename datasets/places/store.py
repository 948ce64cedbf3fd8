"""A folder on a disk or in S3, behind one interface: files come into being whole or not at all, and are listed as they are now.

A name is a path below the folder, with slashes. S3 has no rename and no folders, so nothing here needs them.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ..redaction import NO_USER, has_user, redacted, without_secrets
from .fault_switch import may_fail
from .scratch import Scratch
from .storage import atomic_path, s3, sync

T = TypeVar("T")

ATTEMPTS = 7  # of a request to S3, with 16 to 32 s of pauses between them
INCURABLE = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")  # of the client: another try changes nothing
NO_BUCKET = "there is no such bucket; correct its name, or make it"
FIRST_PAUSE = 0.5  # seconds before the second attempt; twice as long before each next one


class NoBucket(OSError):
    """There is no such bucket: an answer like that of an empty one, if it is taken for a missing object."""


class Store(Protocol):
    """See the module docstring. Errors of a disk or of S3 are OSErrors. What `fetch` brings here stays until `close`, the end of a `with`
    block, or that of the process.
    """

    def __enter__(self) -> Store: ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def uri(self) -> str:
        """The folder, as a user writes it."""
        ...

    def writing(self, name: str) -> Any:
        """A context: a path to write to, which becomes the file `name` when the block ends well."""
        ...

    def fetch(self, name: str) -> Path:
        """A local file with the content of `name`, to be read before `close`. Raises FileNotFoundError where there is none."""
        ...

    def send(self, path: Path, name: str) -> None:
        """Make a file that nobody changes meanwhile the file `name`."""
        ...

    def receive(self, name: str, path: Path) -> None:
        """Write the content of `name` to `path`, which is not there yet. Raises FileNotFoundError where there is none."""
        ...

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """`length` bytes of a file from byte `start` on, all of them: fewer are an error. Raises FileNotFoundError where there is none."""
        ...

    def names(self, prefix: str = "") -> dict[str, int]:
        """Names that begin with `prefix`, which ends with a slash or is empty, and their sizes in bytes."""
        ...

    def changed(self, name: str) -> float:
        """When a file was written, in seconds since 1970; 0 where there is none any more."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...

    def close(self) -> None:
        """Give back the room that `fetch` took."""
        ...


def is_remote(uri: str) -> bool:
    """Whether a user's word for a folder names one in S3."""
    return uri.startswith("s3://")


def require_no_user(uri: str) -> str:
    """The URI, if its bucket is written without a user and a password, which S3 would not read, and every record of a run would keep.

    Raises:
        ValueError: it is not; the line shows neither.
    """
    if is_remote(uri) and has_user(uri):
        raise ValueError(f"{redacted(uri)!r}: {NO_USER}")
    return uri


def below(uri: str, name: str) -> str:
    """The folder `name` in the folder `uri`."""
    return f"{uri.rstrip('/')}/{name}"


def store_of(uri: str | Path) -> Store:
    """The store of a local path or an s3:// URI.

    Raises:
        ValueError: a URI of another kind.
    """
    text = str(uri)
    if is_remote(text):
        return S3Store(text)
    if "://" in text:
        raise ValueError(f"{text!r}: neither a local path nor s3://BUCKET/FOLDER; give one of the two")
    return LocalStore(Path(text))


def safe(name: str) -> str:
    """The name, if it is one below a folder: it may come from a file that a stranger wrote.

    Raises:
        ValueError: it leads elsewhere.
    """
    if not name or any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
        raise ValueError(f"name {name!r}: leads out of its folder; nothing there is read or written")
    return name


def write_bytes(store: Store, name: str, content: bytes) -> None:
    """Write a small file."""
    with store.writing(name) as path:
        path.write_bytes(content)


def _whole(content: bytes, length: int, name: str) -> bytes:
    if len(content) != length:
        raise OSError(errno.EIO, f"gave {len(content)} of {length} bytes", name)
    return content


class _Closing:
    """The `with` of a store."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError


class LocalStore(_Closing):
    """A folder on a disk that all processes share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def uri(self) -> str:
        return str(self._folder)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        path = self._folder / safe(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            yield temporary
        sync(path.parent)

    def fetch(self, name: str) -> Path:
        path = self._folder / safe(name)
        if not path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return path

    def send(self, path: Path, name: str) -> None:
        with self.writing(name) as made:
            shutil.copyfile(path, made)

    def receive(self, name: str, path: Path) -> None:
        shutil.copyfile(self.fetch(name), path)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        with self.fetch(name).open("rb") as file:
            file.seek(start)
            return _whole(file.read(length), length, f"{self.uri}/{name}")

    def names(self, prefix: str = "") -> dict[str, int]:
        found = {}
        for folder, _, files in os.walk(self._folder / prefix):
            for file in files:
                path = Path(folder, file)
                try:
                    found[path.relative_to(self._folder).as_posix()] = path.stat().st_size
                except FileNotFoundError:
                    continue  # removed meanwhile
        return found

    def changed(self, name: str) -> float:
        try:
            return (self._folder / safe(name)).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def remove(self, name: str) -> None:
        path = self._folder / safe(name)
        path.unlink(missing_ok=True)
        for folder in path.parents:  # a folder without files is no folder in S3 either
            if folder == self._folder or not folder.is_relative_to(self._folder):
                break
            try:
                folder.rmdir()
            except OSError:
                break

    def close(self) -> None:
        pass


class S3Store(_Closing):
    """A prefix of a bucket. Uploads are one request, or parts that count when the last request completes them: nothing is seen before."""

    def __init__(self, uri: str) -> None:
        self._root = require_no_user(uri).removeprefix("s3://").strip("/")
        if not self._root:
            raise ValueError(f"{uri!r}: names no bucket; give s3://BUCKET/FOLDER")
        self._fs = s3(attempts=1)
        self._fetched: Scratch | None = None

    @property
    def uri(self) -> str:
        return f"s3://{self._root}"

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with Scratch() as folder:
            yield folder / "file"
            self.send(folder / "file", name)

    def fetch(self, name: str) -> Path:
        if self._fetched is None:
            self._fetched = Scratch()
        path = self._fetched.folder / safe(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.receive(name, path)
        return path

    def send(self, path: Path, name: str) -> None:
        size = path.stat().st_size

        def put() -> None:
            self._fs.put_file(str(path), self._at(name))
            if (found := self._fs.info(self._at(name))["size"]) != size:
                raise OSError(errno.EIO, f"has {found} of {size} bytes after the upload", f"{self.uri}/{name}")

        self._tried(put)

    def receive(self, name: str, path: Path) -> None:
        self._tried(lambda: self._fs.get_file(self._at(name), str(path)))

    def read_range(self, name: str, start: int, length: int) -> bytes:
        def get() -> bytes:
            return _whole(self._fs.cat_file(self._at(name), start=start, end=start + length), length, f"{self.uri}/{name}")

        return self._tried(get) if length else b""

    def names(self, prefix: str = "") -> dict[str, int]:
        at = f"{self._root}/{prefix}".rstrip("/")
        try:
            found = self._tried(lambda: self._fs.find(at, detail=True))
        except FileNotFoundError:
            return {}
        return {key.removeprefix(f"{self._root}/"): int(about["size"]) for key, about in found.items()}

    def changed(self, name: str) -> float:
        try:
            return self._tried(lambda: self._fs.info(self._at(name)))["LastModified"].timestamp()
        except FileNotFoundError:
            return 0.0

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._tried(lambda: self._fs.rm_file(self._at(name)))

    def close(self) -> None:
        """Remove what was fetched."""
        if self._fetched is not None:
            self._fetched.close()
            self._fetched = None

    def _at(self, name: str) -> str:
        return f"{self._root}/{safe(name)}"

    def _tried(self, request: Callable[[], T]) -> T:
        return tried(request, self.uri)


def tried(request: Callable[[], T], uri: str) -> T:
    """What S3 answers, at the latest to the last attempt. That an object is missing or forbidden is an answer the second time: once, it may
    be on its way, or the credentials that were just changed.

    Raises:
        OSError: it does not answer, or there is no such object (FileNotFoundError), it is forbidden (PermissionError), or there is no such
            bucket (NoBucket).
    """
    answers, last = 0, ATTEMPTS - 1
    for attempt in range(ATTEMPTS):
        try:
            may_fail(uri)
            return request()
        except OSError as error:
            if code_of(error) == "NoSuchBucket":
                raise NoBucket(errno.ENXIO, NO_BUCKET, uri) from error
            answers += isinstance(error, FileNotFoundError | PermissionError)
            if answers > 1 or attempt == last:
                raise
        except Exception as error:
            if attempt == last or type(error).__name__ in INCURABLE:
                why = without_secrets(f"{type(error).__name__}: {error}")
                raise OSError(errno.EIO, f"S3 does not answer ({why})", uri) from error
        time.sleep(FIRST_PAUSE * 2**attempt * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")


def code_of(error: OSError) -> str:
    """S3's own word for what is wrong; s3fs keeps it in the cause."""
    answer = getattr(error.__cause__, "response", None)
    return str(answer.get("Error", {}).get("Code", "")) if isinstance(answer, dict) else ""
