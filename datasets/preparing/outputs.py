"""Where a dataset goes: a folder, or a prefix in S3, which is nobody else's meanwhile and lies in none of its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ..config import DataConfig
from ..places.lock import locked
from ..places.storage import local_path, make_folder
from ..places.store import Store, is_remote, store_of
from ..progress import Progress
from .lease import leased


class Hold(Protocol):
    """That a place is this job's: what others begin there looks like what a killed job has left."""

    def require(self) -> None:
        """Make sure of it. Raises ValueError: it is another's by now; OSError: the store does not answer."""
        ...

    def check(self) -> None:
        """As `require`, by what is known already: it asks nobody, and may be late."""
        ...


class Locked:
    """Of a folder: the system keeps the lock as long as this process lives."""

    def require(self) -> None:
        pass

    def check(self) -> None:
        pass


@contextmanager
def opened(out: str | Path, progress: Progress) -> Iterator[tuple[Store, Hold]]:
    """The store to write to, and that it is this job's during the block."""
    if is_remote(str(out)):
        with leased(str(out), progress) as lease, store_of(out) as store:
            yield store, lease
        return
    folder = make_folder("data.out", local_path("data.out", out))
    with locked("dataset folder", folder), store_of(folder) as store:
        yield store, Locked()


def refuse_nesting(config: DataConfig, out: str) -> None:
    """Raises ValueError where a dataset would become its own source."""
    for given in config.inputs:
        if is_remote(given) and is_remote(out) and f"{out.rstrip('/')}/".startswith(f"{given.rstrip('/')}/"):
            raise ValueError(f"data.out={out!r}: lies in data.media={given!r}, and would become its own source; choose another prefix")
        if config.is_synthetic or is_remote(given) or is_remote(out):
            continue
        media = local_path("data.media", given)
        if media.is_dir() and Path(out).resolve().is_relative_to(media.resolve()):
            raise ValueError(f"data.out={out!r}: lies in data.media={given!r}, and would become its own source; choose another folder")
