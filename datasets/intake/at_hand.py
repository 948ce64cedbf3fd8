"""A source's bytes as a local file, and pieces of files and objects: what S3 does not give at once is asked for again, piece by piece.

a local file      itself
an object         a copy in the scratch folder, 16 MiB a request
a tar's member    a copy of its stretch of the tar, wherever the tar is
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..places.store import is_remote
from .prefixes import Bucket, bucket_and_key
from .sources import Place, Source, file_of, is_member

CHUNK = 16 << 20
SPARE = 64 << 20  # bytes of a disk that stay free


@contextmanager
def at_hand(source: Source, scratch: Path) -> Iterator[Path]:
    """A local file with the content of a source; a copy below `scratch` goes when the block ends.

    Raises:
        OSError: it cannot be read now, is no longer what was listed, or the scratch folder has no room. Nothing is said of the source.
    """
    assert not source.refused
    place = source.place
    if not is_remote(place.path) and not is_member(place.path):
        yield Path(source.path)
        return
    free = shutil.disk_usage(scratch).free
    if source.size + SPARE > free:
        raise OSError(errno.ENOSPC, f"takes {source.size} bytes, {free} are free: make room or set TMPDIR", str(scratch))
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        copy = folder / f"media{os.path.splitext(source.path)[1][:16]}"
        _copy(place, source.size, copy)
        yield copy
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_place(place: Place, most: int) -> bytes:
    """Its bytes, or the first `most` of them.

    Raises:
        OSError: it cannot be read, or is no file (a pipe would never end).
    """
    count = most if place.size < 0 else min(most, place.size)
    with reading(place.path) as read:
        return read(place.first, count)


@contextmanager
def reading(path: str) -> Iterator[Callable[[int, int], bytes]]:
    """A file or object, open: a function of first byte and count that reads it; fewer bytes come where it ends."""
    path = file_of(path)
    if is_remote(path):
        name, key = bucket_and_key(path)
        bucket = Bucket(name)
        yield lambda first, count: bucket.read(key, first, count)
        return
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(errno.EINVAL, "no file but a folder, a pipe or a device", path)
        yield lambda first, count: os.pread(file, max(0, count), first)
    finally:
        os.close(file)


def _copy(place: Place, size: int, to: Path) -> None:
    """Write the `size` bytes of a place to a file; one byte more is asked for of what should end there."""
    whole = place.size < 0
    mark = _mark(place.path) if size > CHUNK else ""
    with reading(place.path) as read, to.open("xb") as file:
        done = 0
        while done < size:
            asked = min(CHUNK, size - done)
            piece = read(place.first + done, min(CHUNK, asked + whole))
            file.write(piece)
            done += len(piece)
            if len(piece) < asked or done > size:
                raise OSError(errno.EIO, f"has {done} bytes, and had {size} when it was listed: give the command again", place.path)
    if mark and _mark(place.path) != mark:
        raise OSError(errno.EIO, "was written while it was read: give the command again", place.path)


def _mark(path: str) -> str:
    """What changes with an object's content; nothing of a local file."""
    if not is_remote(path):
        return ""
    name, key = bucket_and_key(file_of(path))
    return Bucket(name).etag(key)
