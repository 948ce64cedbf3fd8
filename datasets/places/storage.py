"""The one place that turns a user's words into paths, and the one way that files come into being: whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..redaction import NO_USER, has_user, redacted

CONNECT_S, READ_S = 10, 60  # seconds that S3 may take to be reached, and between two parts of an answer


def local_path(name: str, uri: str | Path) -> Path:
    """An absolute local path. `name` is the field or argument it came from.

    Raises:
        ValueError: the value is a URL; only local folders are supported so far.
    """
    text = str(uri)
    if "://" in text:
        raise ValueError(f"{name}={text!r}: only local paths are supported; copy the data here and give its folder")
    if not text:
        raise ValueError(f"{name} is empty: give a path")
    return Path(os.path.abspath(os.path.expanduser(text)))


def user_cache() -> Path:
    """Where copies of remote files are kept for this user of this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mutual-forcing"


def make_folder(name: str, path: Path) -> Path:
    """Create a folder that can be written to.

    Raises:
        ValueError: it is a file, or writing is not permitted.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{name}={str(path)!r}: cannot create this folder ({error.strerror}); choose another") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise ValueError(f"{name}={str(path)!r}: no permission to write there; choose another folder or change its mode")
    return path


def s3(attempts: int = 3) -> Any:
    """S3 as a filesystem, with credentials and endpoint of the environment. Listings are always fresh: kept ones hide new objects.

    attempts: of each request inside the client; 1 where the caller makes them itself.

    Raises:
        ValueError: the endpoint is given with a user or a password.
    """
    import s3fs

    patience = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"max_attempts": attempts}}
    name = "AWS_ENDPOINT_URL_S3" if os.environ.get("AWS_ENDPOINT_URL_S3") else "AWS_ENDPOINT_URL"
    endpoint = os.environ.get(name)
    if endpoint and has_user(endpoint):  # the client would sign in with both, fail, and name the address in each of its errors
        raise ValueError(f"{name}={redacted(endpoint)!r}: {NO_USER}")
    made = s3fs.S3FileSystem(endpoint_url=endpoint, use_listings_cache=False, config_kwargs=patience)  # one a thread: making one is slow
    made.retries = min(attempts, made.retries)
    return made


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk before anything that comes after."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that is synced and renamed to it when the block ends well, and removed when it does not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, what: str) -> Any:
    """Read a JSON file; `what` names it in the error.

    Raises:
        ValueError: it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{what}: {path} does not exist") from error
    except OSError as error:  # among them: a part of the path is a file
        raise ValueError(f"{what}: {path} cannot be read ({error.strerror}); check the path and its permissions") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of 5,000 digits, 100,000 brackets
        raise ValueError(f"{what}: {path} is not JSON ({error}); make it again") from error


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
