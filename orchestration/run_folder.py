"""A run folder: whose it is, and that one process at a time works in it."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUN = "run.json"
LOCK = ".lock"


def require_ours(run_dir: Path) -> None:
    """Refuse a folder with something else in it.

    Raises:
        ValueError: it holds files and no run.
    """
    if not (run_dir / RUN).is_file() and any(path.name != LOCK for path in run_dir.iterdir()):
        raise ValueError(f"run folder {str(run_dir)!r}: is not empty and holds no run; choose another with --out")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Nobody else works in the folder during the block. The system frees the lock of a process that dies.

    Raises:
        ValueError: another process holds it.
    """
    with (run_dir / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "of unknown number"
            raise ValueError(
                f"run folder {str(run_dir)!r}: process {holder} is working in it; wait for its end, or choose another with --out"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
