"""Pieces of files far away, kept on this machine's disk up to a number of bytes; what was not used for longest goes first.

Several processes share a folder. A piece is a file that is renamed into its place, so it is there whole or not at all; its room is counted
before it is written, under a lock, so all of them together never hold more than the limit. What a killed process counted or left is set
right when room is made the next time. Whether a piece is what it was is for its reader to check: it knows the size and the checksums.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from ..places.lock import alone
from ..places.storage import make_folder

TOTAL = ".total"
LEFT = 600.0  # seconds after which a piece that is still not whole belongs to a killed process
SPARE = 0.05  # of the limit that is made free at once, so that not every piece looks through the folder


class PieceCache:
    """Pieces of up to `limit` bytes altogether in a folder.

    Raises:
        ValueError: the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = make_folder("cache", folder), limit

    def get(self, name: str, size: int) -> pa.Buffer | None:
        """A piece, mapped into memory, or None: it is not there, or has another size."""
        path = self._folder / name
        try:
            if path.stat().st_size != size:
                path.unlink(missing_ok=True)
                return None
            os.utime(path)
            return pa.memory_map(str(path)).read_buffer() if size else pa.py_buffer(b"")  # stays readable when it is removed meanwhile
        except FileNotFoundError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Keep a piece, unless it is larger than all room.

        Raises:
            ValueError: the disk is full.
        """
        if len(content) > self._limit:
            return
        temporary = self._folder / f".{name}.{os.getpid()}.{time.monotonic_ns()}.tmp"
        try:
            with alone(self._folder):
                self._count(len(content))
                with temporary.open("wb") as file:  # of its size from the beginning, for those who count meanwhile
                    file.truncate(len(content))
            with temporary.open("r+b") as file:
                file.write(content)
            with alone(self._folder):  # who looks through the folder meanwhile could miss both names
                os.replace(temporary, self._folder / name)
        except OSError as error:
            raise ValueError(
                f"cache {str(self._folder)!r}: cannot keep {len(content)} bytes ({error.strerror}); make room, or lower data.cache_gb"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        """Remove a piece that is damaged."""
        (self._folder / name).unlink(missing_ok=True)

    def _count(self, more: int) -> None:
        """Add to what is counted as there; where it would be too much, make room."""
        note = self._folder / TOTAL
        try:
            total = int(note.read_text())
        except (FileNotFoundError, ValueError):
            total = self._limit  # not known: look
        if total + more > self._limit:
            total = self._make_room(int(self._limit * (1 - SPARE)) - more)
        note.write_text(str(total + more))

    def _make_room(self, most: int) -> int:
        """Remove pieces until no more than `most` bytes are there; returns how many are."""
        found = list[tuple[float, int, str]]()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # removed or renamed meanwhile
                    about = entry.stat()
                    if entry.name.endswith(".tmp") and time.time() - about.st_mtime > LEFT:
                        os.unlink(entry.path)
                    elif not entry.name.startswith(".") or entry.name.endswith(".tmp"):
                        found.append((about.st_mtime, about.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= most:
                break
            if not path.endswith(".tmp"):
                Path(path).unlink(missing_ok=True)
                total -= size
        return total
