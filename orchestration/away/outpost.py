"""On a machine that does not share the run folder: where its training processes write, and the actor that hands it on.

training process -> CACHE/away/TRAINING-NODE/ -> Outpost -> Courier, at the driver -> run folder
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.experimental import internal_kv as store

from ...datasets.places.storage import make_folder, user_cache
from ...datasets.preparing.shared import LAG
from .pieces import FOLDERS, Have, Piece, news

SPACE = b"mutual-forcing-away"
KEPT_S = 7 * 86400.0  # how long a machine keeps what nobody fetched


def marker(run_dir: Path, training: str) -> Path:
    """The file by which a training's processes know the run folder of their driver."""
    return run_dir / f".{training}"


def folder_for(run_dir: Path, training: str, lag: float = LAG) -> Path:
    """Where a training process writes what people read: the run folder where this machine shares it, else one of its own, which the
    driver is told of.

    Raises:
        ValueError: that one cannot be made.
    """
    end = time.monotonic() + lag
    while not marker(run_dir, training).is_file():
        if time.monotonic() >= end:
            return _own(run_dir, training)
        time.sleep(min(0.2, lag))
    return run_dir


def _own(run_dir: Path, training: str) -> Path:
    node = ray.get_runtime_context().get_node_id()
    folder = make_folder("cache", user_cache() / "away" / f"{training}-{node[:12]}")  # machines may share the cache folder
    for other in folder.parent.iterdir():
        if other != folder and _is_forgotten(other):
            shutil.rmtree(other, ignore_errors=True)
    store._internal_kv_put(f"{_of(run_dir)}/{training}/{node}", str(folder), namespace=SPACE)
    return folder


def _is_forgotten(folder: Path) -> bool:
    """Whether nothing below has been written for long. All ranks of a machine look at once: what goes meanwhile is another's to remove."""
    with suppress(OSError):
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*"))) < time.time() - KEPT_S
    return False


@dataclass(frozen=True)
class Told:
    """What a machine has said: node: its number in Ray; folder: where the processes of a training write there."""

    training: str
    node: str
    folder: str


def told(run_dir: Path, known: Collection[tuple[str, str]] = ()) -> list[Told]:
    """What machines that do not share the run folder have said, of every training of the run; without those that are known."""
    found: list[Told] = []
    if not store._internal_kv_initialized():
        return found
    for key in store._internal_kv_list(f"{_of(run_dir)}/", namespace=SPACE):
        _, training, node = key.decode().split("/")
        if (training, node) not in known and (folder := store._internal_kv_get(key, namespace=SPACE)) is not None:
            found.append(Told(training, node, folder.decode()))
    return sorted(found, key=lambda one: one.training)  # which have their times in their names


def forget(run_dir: Path) -> None:
    """What they have said is of no use any more."""
    if store._internal_kv_initialized():
        store._internal_kv_del(f"{_of(run_dir)}/", del_by_prefix=True, namespace=SPACE)


def _of(run_dir: Path) -> str:
    return hashlib.blake2b(str(run_dir).encode(), digest_size=8).hexdigest()


class Outpost:
    """An actor on such a machine. It outlives processes that are killed, or end themselves because they hang."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def news(self, have: Mapping[str, Have], kinds: Collection[str] = FOLDERS) -> list[Piece]:
        """What is there beyond what the driver has; nothing: it has all."""
        return news(self._folder, have, kinds)

    def end(self) -> None:
        """The driver has all."""
        shutil.rmtree(self._folder, ignore_errors=True)
