"""What `data prepare` and `data inspect` do, with a folder here or in S3: both work on local files, and S3 gets or gives whole datasets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..datasets.manifest import MANIFEST, open_manifest, read_manifest
from ..datasets.pipeline import draw_contact_sheet, prepare
from ..datasets.progress import Progress
from ..datasets.scratch import Scratch
from ..datasets.sources import list_sources
from ..datasets.stages import DataConfig, settings_of
from ..datasets.storage import local_path, make_folder
from ..datasets.store import Store, is_remote, store_of
from ..datasets.transfer import fetch_dataset, send_dataset, told
from .session import ray_session


@contextmanager
def prepared(config: DataConfig, out: str, progress: Progress) -> Iterator[Path]:
    """Make the dataset `out`; gives a local folder with its manifest and its account of sources, as long as the block lasts.

    What is made for S3 is made in a temporary folder of this machine first, and a job that is killed begins again.

    Raises:
        ValueError: see `prepare`; or the store cannot be written to, or holds another dataset.
    """
    if not is_remote(out):
        folder = local_path("--out", out)
        with ray_session():
            prepare(config, folder, progress)
        yield folder
        return
    with store_of(out) as store, Scratch() as scratch:
        folder = scratch / "data"
        with told("--out", out):
            there = MANIFEST in store.names()  # before minutes of preparing
        if there:
            _require_same(config, store)
            with told("--out", out):
                fetch_dataset(store, make_folder("--out", folder), progress)
        else:
            with ray_session():
                prepare(config, folder, progress)
            with told("--out", out):
                send_dataset(folder, store, progress)
        yield folder


@contextmanager
def inspected(uri: str, progress: Progress) -> Iterator[Path]:
    """A dataset, all of its shards verified, as a local folder for as long as the block lasts; a local one gets a new contact sheet."""
    if is_remote(uri):
        with Scratch() as folder:
            with told("folder", uri), store_of(uri) as store:
                fetch_dataset(store, folder, progress)
            yield folder
        return
    folder = local_path("folder", uri)
    draw_contact_sheet(folder, read_manifest(folder, progress=progress), progress)
    yield folder


def _require_same(config: DataConfig, store: Store) -> None:
    """Refuse to go on unless the dataset in the store is of these settings and sources; characters would have to be drawn to tell."""
    media = None if config.media == "synthetic" else local_path("data.media", config.media)
    if media is None or open_manifest(store.fetch(MANIFEST)).settings != settings_of(config, list_sources(media)):
        raise ValueError(f"--out={store.uri!r}: holds a dataset already, of other settings or sources; choose another folder, or remove it")
