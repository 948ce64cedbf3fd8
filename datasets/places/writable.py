"""Whether a place takes what is written to it and gives it back, tried before anything starts: no setting and no listing can tell."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .store import NO_BUCKET, NoBucket, Store, is_remote, store_of, write_bytes

PROBE = ".preflight-"
RIGHTS = "grant s3:ListBucket on the bucket and s3:GetObject, s3:PutObject, s3:DeleteObject below that prefix, or choose another"


def require_writable(field: str, uri: str) -> None:
    """Write a small file below a folder or an s3:// prefix, read it, and remove it.

    Raises:
        ValueError: that fails; one line names the field, the place, the cause and the remedy.
    """
    try:
        with store_of(uri) as store:
            _write_and_read_back(store)
    except NoBucket as error:
        raise ValueError(f"{field}={uri!r}: {NO_BUCKET}") from error
    except PermissionError as error:
        remedy = RIGHTS if is_remote(uri) else "change its permissions, or choose another"
        raise ValueError(f"{field}={uri!r}: no permission to write there and read it back ({_why(error)}); {remedy}") from error
    except OSError as error:
        raise ValueError(f"{field}={uri!r}: cannot be written to and read back ({_why(error)}); check it, or choose another") from error


def _why(error: OSError) -> str:
    return " ".join((error.strerror or str(error)).split())[:300]


def _write_and_read_back(store: Store) -> None:
    name, content = f"{PROBE}{secrets.token_hex(4)}", secrets.token_bytes(64)
    with _no_new_folders(store):
        try:
            write_bytes(store, name, content)
            if store.fetch(name).read_bytes() != content:
                raise OSError("what was read back differs from what was written")
        except OSError as error:
            if isinstance(error, PermissionError) or not is_remote(store.uri):  # a store that is away is not asked once more
                with suppress(OSError):
                    store.remove(name)
            raise
        store.remove(name)


@contextmanager
def _no_new_folders(store: Store) -> Iterator[None]:
    """What the block had to create on a disk, and left empty, goes again: a run that does not start leaves nothing."""
    path = Path(store.uri)
    new = [] if "://" in store.uri else [p for p in (path, *path.parents) if not p.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for folder in new:
                folder.rmdir()
