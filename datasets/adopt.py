"""Take over a dataset that `data prepare` made, here or in S3, into the run's own folder: the run stays whole when the other is removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..model.codecs.registry import VIDEO
from ..model.codecs.shape import audio_shape, is_pretrained, video_shape
from .config import DataConfig
from .format.manifest import MANIFEST, Manifest, read_manifest
from .places.lock import locked
from .places.storage import atomic_path, local_path, make_folder
from .places.store import is_remote, store_of
from .progress import Progress, silent
from .reading.members import Member, folder_of, members_of, parse_mix, write_members
from .transfer import beside, fetch_beside, fetch_dataset, remote_manifest, told

SIZES = ("clip_chunks", "width", "height")


def prepared_dataset(
    config: DataConfig, verify: bool = True, progress: Progress = silent, field: str = "data.prepared", sizes: bool = True
) -> Manifest:
    """The manifest of `config.prepared`; in S3 its shards are verified when they are fetched. sizes: whether its clips must have the
    sizes of the settings, and not only their rates and codecs.

    Raises:
        ValueError: it holds no finished dataset, or one that does not fit the settings; the first field that differs is named.
    """
    if is_remote(config.prepared):
        with told(field, config.prepared), store_of(config.prepared) as store:
            manifest = remote_manifest(store)
    else:
        manifest = read_manifest(local_path(field, config.prepared), verify, progress)
    found, wanted = _of_manifest(manifest, sizes), _of_config(config, sizes)
    for name, value in wanted.items():
        if name in found and found[name] != value:
            raise ValueError(
                f"{field}={config.prepared!r}: made with {name}={found.get(name)}, this recipe has {value}; "
                f"give --set {name}={found.get(name)}, or prepare it again with the recipe's name after --recipe"
            )
    return manifest


def adopt(config: DataConfig, out: Path, progress: Progress, cache_gb: float = 0.0) -> Manifest:
    """Link (where the file system can, else copy; from S3, fetch) the prepared dataset into `out`; the manifest comes last. cache_gb: above
    0, shards in S3 stay there, and are read by ranges.

    Raises:
        ValueError: see `prepared_dataset`, or `out` holds another dataset.
    """
    if (out / MANIFEST).is_file():
        return taken_over(config, out, progress=progress)
    manifest = prepared_dataset(config, progress=progress)
    make_folder("data.out", out)
    with locked("dataset folder", out):
        member = Member(out, uri=config.prepared, cache_gb=cache_gb if is_remote(config.prepared) else 0.0)
        write_members(out, [member])
        _take(member, config.prepared, progress, manifest)
    return manifest


def adopt_mix(config: DataConfig, mix: Sequence[str], out: Path, progress: Progress, cache_gb: float = 0.0) -> None:
    """Take over the datasets that are mixed with the one that is in `out` already, entries as `parse_mix` has them. May be done again.

    Raises:
        ValueError: see `adopt`; an entry has another form, or was prepared again since.
    """
    members = members_of(out)[:1]
    for number, (uri, weight) in enumerate(parse_mix(mix), start=1):
        far = is_remote(uri)
        member = Member(folder_of(out, number), weight, uri if far else "", cache_gb if far else 0.0)
        one = replace(config, prepared=uri)
        if (member.folder / MANIFEST).is_file():
            _require_same(one, member.manifest(verify=False), "data.mix")
        else:
            manifest = prepared_dataset(one, progress=progress, field="data.mix", sizes=False)
            make_folder("data.out", member.folder)
            with locked("dataset folder", member.folder):
                _take(member, uri, progress, manifest, "data.mix")
        members.append(member)
    write_members(out, members)


def _take(member: Member, uri: str, progress: Progress, manifest: Manifest, field: str = "data.prepared") -> None:
    """Bring a dataset into a member's folder, or what a reader of ranges needs of it."""
    out = member.folder
    if is_remote(uri):
        with told(field, uri), store_of(uri) as store:
            if not member.ranged:
                fetch_dataset(store, out, progress, manifest.contents())
                return
            fetch_beside(store, out, manifest)
    else:
        folder = local_path(field, uri)
        for done, shard in enumerate(manifest.shards):
            progress("take over shards", done, len(manifest.shards))
            _link(folder / shard.file, out / shard.file)
        progress("take over shards", len(manifest.shards), len(manifest.shards))
        for name in beside(manifest):  # copies: they are written again in place
            if (folder / name).is_file():
                with atomic_path(out / name) as temporary:
                    shutil.copyfile(folder / name, temporary)
    manifest.write(out)


def taken_over(config: DataConfig, out: Path, verify: bool = True, progress: Progress = silent) -> Manifest:
    """The dataset that `out` took over before; the other folder may be gone by now.

    Raises:
        ValueError: the other folder holds another dataset by now.
    """
    kept = members_of(out)[0].manifest(verify, progress)
    _require_same(config, kept, "data.prepared")
    return kept


def _require_same(config: DataConfig, kept: Manifest, field: str) -> None:
    now = _as_it_is_now(config)
    if now not in (None, kept) and not (now and now.grew_from(kept)):  # what was added since is for other runs
        raise ValueError(f"{field}={config.prepared!r}: was prepared again since this run took it over; start a new run with --out")


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


def _of_manifest(manifest: Manifest, sizes: bool) -> dict[str, Any]:
    found = {f"data.{name}": getattr(manifest, name) for name in SIZES if sizes}
    return _named(asdict(manifest.timeline), _geometry(manifest.video_codec), _geometry(manifest.audio_codec)) | found


def _of_config(config: DataConfig, sizes: bool) -> dict[str, Any]:
    wanted = {f"data.{name}": getattr(config, name) for name in SIZES if sizes}
    return _named(asdict(config.timeline), asdict(config.video_codec), asdict(config.audio_codec)) | wanted


def _geometry(codec: dict[str, Any]) -> dict[str, Any]:
    """What of a codec a run's settings name: of a pretrained one its shape, of a modality that the dataset has not, nothing."""
    if not codec or not is_pretrained(codec):
        return codec
    shape = asdict(video_shape(codec)) if codec["kind"] in VIDEO else asdict(audio_shape(codec))
    shape.pop("sample_rate", None)  # 0 where any will do; the timeline has that of the clips
    return shape


def _named(timeline: dict[str, Any], video: dict[str, Any], audio: dict[str, Any]) -> dict[str, Any]:
    sections = {"timeline": timeline, "video_codec": video, "audio_codec": audio}
    return {f"data.{section}.{name}": value for section, fields in sections.items() for name, value in fields.items()}
