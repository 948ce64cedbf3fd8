"""Take over a dataset that `data prepare` made, here or in S3, into the run's own folder: the run stays whole when the other is removed."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .lock import locked
from .manifest import MANIFEST, Manifest, read_manifest
from .progress import Progress, silent
from .stages import DataConfig
from .storage import atomic_path, local_path, make_folder
from .store import is_remote, store_of
from .transfer import BESIDE, fetch_dataset, remote_manifest, told


def prepared_dataset(config: DataConfig, verify: bool = True, progress: Progress = silent) -> Manifest:
    """The manifest of `config.prepared`; in S3 its shards are verified when they are fetched.

    Raises:
        ValueError: it holds no finished dataset, or one that does not fit the settings; the first field that differs is named.
    """
    if is_remote(config.prepared):
        with told("data.prepared", config.prepared), store_of(config.prepared) as store:
            manifest = remote_manifest(store)
    else:
        manifest = read_manifest(local_path("data.prepared", config.prepared), verify, progress)
    found, wanted = _of_manifest(manifest), _of_config(config)
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(
                f"data.prepared={config.prepared!r}: made with {name}={found.get(name)}, this recipe has {value}; "
                f"give --set {name}={found.get(name)}, or prepare it again with the recipe's name after --recipe"
            )
    return manifest


def adopt(config: DataConfig, out: Path, progress: Progress) -> Manifest:
    """Link (where the file system can, else copy; from S3, fetch) the prepared dataset into `out`; the manifest comes last.

    Raises:
        ValueError: see `prepared_dataset`, or `out` holds another dataset.
    """
    if (out / MANIFEST).is_file():
        return taken_over(config, out, progress=progress)
    manifest = prepared_dataset(config, progress=progress)
    make_folder("data.out", out)
    with locked("dataset folder", out):
        if is_remote(config.prepared):
            with told("data.prepared", config.prepared), store_of(config.prepared) as store:
                return fetch_dataset(store, out, progress, manifest.contents())
        folder = local_path("data.prepared", config.prepared)
        for done, shard in enumerate(manifest.shards):
            progress("take over shards", done, len(manifest.shards))
            _link(folder / shard.file, out / shard.file)
        progress("take over shards", len(manifest.shards), len(manifest.shards))
        for name in BESIDE:  # copies: they are written again in place
            if (folder / name).is_file():
                with atomic_path(out / name) as temporary:
                    shutil.copyfile(folder / name, temporary)
        manifest.write(out)
    return manifest


def taken_over(config: DataConfig, out: Path, verify: bool = True, progress: Progress = silent) -> Manifest:
    """The dataset that `out` took over before; the other folder may be gone by now.

    Raises:
        ValueError: the other folder holds another dataset by now.
    """
    kept = read_manifest(out, verify, progress)
    if _as_it_is_now(config) not in (None, kept):
        raise ValueError(f"data.prepared={config.prepared!r}: was prepared again since this run took it over; start a new run with --out")
    return kept


def _as_it_is_now(config: DataConfig) -> Manifest | None:
    """The prepared dataset; None where it is gone, or cannot be asked."""
    if is_remote(config.prepared):
        with suppress(OSError), store_of(config.prepared) as store:
            return remote_manifest(store)
        return None
    folder = local_path("data.prepared", config.prepared)
    return read_manifest(folder, verify=False) if (folder / MANIFEST).is_file() else None


def _link(source: Path, target: Path) -> None:
    """A shard is never changed in place, so both folders may share it."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def _of_manifest(manifest: Manifest) -> dict[str, Any]:
    return _named(asdict(manifest.timeline), manifest.video_codec, manifest.audio_codec) | {
        f"data.{name}": getattr(manifest, name) for name in ("clip_chunks", "width", "height")
    }


def _of_config(config: DataConfig) -> dict[str, Any]:
    return _named(asdict(config.timeline), asdict(config.video_codec), asdict(config.audio_codec)) | {
        f"data.{name}": getattr(config, name) for name in ("clip_chunks", "width", "height")
    }


def _named(timeline: dict[str, Any], video: dict[str, Any], audio: dict[str, Any]) -> dict[str, Any]:
    sections = {"timeline": timeline, "video_codec": video, "audio_codec": audio}
    return {f"data.{section}.{name}": value for section, fields in sections.items() for name, value in fields.items()}
