"""One process at a time works in a folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".lock"


@contextmanager
def locked(what: str, folder: Path) -> Iterator[None]:
    """Nobody else works in the folder during the block; `what` names it in the error. The system frees the lock of a process that dies.

    Raises:
        ValueError: another process holds it.
    """
    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "of unknown number"
            raise ValueError(
                f"{what} {str(folder)!r}: process {holder} is working in it; wait for its end, or choose another with --out"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time; the others wait. The system frees the lock of a process that dies."""
    with (folder / LOCK).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
