"""Where a dataset goes: a folder, or a prefix in S3, which is nobody else's meanwhile and lies in none of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .config import DataConfig
from .lease import leased
from .lock import locked
from .progress import Progress
from .storage import local_path, make_folder
from .store import Store, is_remote, store_of


@contextmanager
def opened(out: str | Path, progress: Progress) -> Iterator[tuple[Store, Callable[[], None]]]:
    """The store to write to, locked: what another process has begun there looks like what a killed one has left. And what raises ValueError
    where it is another's by now."""
    if is_remote(str(out)):
        with leased(str(out), progress) as lease, store_of(out) as store:
            yield store, lease.require
        return
    folder = make_folder("data.out", local_path("data.out", out))
    with locked("dataset folder", folder), store_of(folder) as store:
        yield store, lambda: None


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
