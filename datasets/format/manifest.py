"""The manifest of a prepared dataset: written last, so a folder without one was never finished and is not read.

A dataset that grows gets a manifest of the next version, with the account of sources that belongs to it; the one before stays beside it:

    manifest.json   sources-3.jsonl                        version 3, which counts
    manifest-2.json sources-2.jsonl   manifest-1.json sources.jsonl     what it was before
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...model.timeline import Timeline
from ..places.storage import atomic_path, read_json, sha256_file
from ..progress import Progress, silent
from .account import SOURCES
from .clip_table import CLIPS
from .parts import ShardEntry

MANIFEST = "manifest.json"
SHEET = "contact.png"
FORMAT = 2
ACCOUNT = re.compile(r"sources(-[0-9]+)?\.jsonl")
TABLE = re.compile(r"clips(-[0-9]+)?\.parquet")
SHARD = re.compile(r"shard-[0-9a-zA-Z]+\.arrow")  # a manifest may be a stranger's: nothing else is read or written at its word
REMEDY = "remove this folder and prepare the data again"


@dataclass(frozen=True)
class Manifest:
    """What a dataset is.

    settings: all that shaped its clips (`DataConfig.shaping`); inputs: what the user named; version: 1, or one more than that whose clips
    it has and more; account, table: files of its sources and clips. clip_chunks: of its longest clips. schema: columns of its shards, by
    their Arrow types; statistics: of the latents, a mean and a standard deviation a channel. held_out: clip ids kept from training;
    held_out_below: sources that are added are held out if they hash below it; dropped: clip ids that stand in shards and count no more,
    with the reason. scribes: identities of the networks that wrote text where a source had none.
    clips, hours: of those that count.
    """

    settings: dict[str, Any]
    inputs: tuple[str, ...]
    timeline: Timeline
    modalities: tuple[str, ...]
    clip_chunks: int
    width: int
    height: int
    video_codec: dict[str, Any]
    audio_codec: dict[str, Any]
    shards: tuple[ShardEntry, ...]
    held_out: tuple[str, ...]
    clips: int
    hours: float
    sources_used: int
    sources_refused: int
    codec_quality: dict[str, float]
    synthetic: bool
    version: int = 1
    account: str = SOURCES
    table: str = CLIPS
    held_out_below: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    scribes: dict[str, str] = field(default_factory=dict)
    schema: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def quality(self) -> dict[str, tuple[float, str]]:
        """How close the codecs come to the media, in dB, and what that is of; of what clips have, as far as it was measured."""
        known = {"video_psnr_db": ("video", "PSNR of pictures"), "audio_snr_db": ("audio", "SNR of sound")}
        there = {name: what for name, (modality, what) in known.items() if modality in self.modalities and name in self.codec_quality}
        return {name: (self.codec_quality[name], what) for name, what in there.items()}

    def to_json(self) -> bytes:
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n").encode()

    def write(self, folder: Path) -> None:
        with atomic_path(folder / MANIFEST) as temporary:
            temporary.write_bytes(self.to_json())

    def grew_from(self, other: Manifest) -> bool:
        """Whether it is that dataset, or a later version: all that it has is in this one, and stands on the same side of the split."""
        same = self.settings == other.settings and (self.video_codec, self.audio_codec) == (other.video_codec, other.audio_codec)
        more = set(other.shards) <= set(self.shards) and set(other.held_out) <= set(self.held_out)
        return same and more and self.version >= other.version

    def contents(self) -> str:
        """Which clips it holds, as far as a manifest tells: the same however a cluster cut the shards, and wherever the sources lay."""
        return hashlib.sha256(json.dumps([sorted(self.held_out), self.clips, self.sources_used, self.clip_chunks]).encode()).hexdigest()


def read_manifest(folder: Path, verify: bool = True, progress: Progress = silent) -> Manifest:
    """The manifest of a finished dataset; `progress` counts verified shards.

    Raises:
        ValueError: there is none, it is of another format, or a shard is missing, of another size or (verify) of another hash.
    """
    manifest = open_manifest(folder / MANIFEST)
    for done, shard in enumerate(manifest.shards):
        progress("verify shards", done, len(manifest.shards))
        path = folder / shard.file
        if not path.is_file() or path.stat().st_size != shard.bytes:
            raise ValueError(f"dataset shard: {path} is missing or not {shard.bytes} bytes long; {REMEDY}")
        if verify and sha256_file(path) != shard.sha256:
            raise ValueError(f"dataset shard: {path} is damaged (its hash differs from the manifest); {REMEDY}")
    progress("verify shards", len(manifest.shards), len(manifest.shards))
    return manifest


def open_manifest(path: Path) -> Manifest:
    """The manifest of a file, whatever lies beside it.

    Raises:
        ValueError: there is none, it is of another format, or it names a shard that is none.
    """
    data = read_json(path, "dataset manifest (run `mutual-forcing data prepare` first)")
    form = data.pop("format", None) if isinstance(data, dict) else None
    if isinstance(form, int) and form > FORMAT:
        raise ValueError(
            f"dataset manifest: {path} is of format {form}, and this release reads format {FORMAT}; use the release that wrote it, "
            "or prepare the data into another folder"
        )
    if form != FORMAT:
        raise ValueError(f"dataset manifest: {path} has another format than {FORMAT}; {REMEDY}")
    try:
        manifest = Manifest(
            **{
                **data,
                "timeline": Timeline(**data["timeline"]),
                "shards": tuple(ShardEntry(**s) for s in data["shards"]),
                "held_out": tuple(data["held_out"]),
                "inputs": tuple(data["inputs"]),
                "modalities": tuple(data["modalities"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"dataset manifest: {path} lacks or adds a field ({error}); {REMEDY}") from error
    for shard in manifest.shards:
        if not isinstance(shard.file, str) or not SHARD.fullmatch(shard.file) or not isinstance(shard.bytes, int) or shard.bytes < 0:
            raise ValueError(f"dataset manifest: {path} names {shard.file!r} of {shard.bytes!r} bytes, which is no shard; {REMEDY}")
    kinds = {
        "settings": dict,
        "dropped": dict,
        "statistics": dict,
        "codec_quality": dict,
        "hours": int | float,
        "clips": int,
        "version": int,
    }
    if wrong := [name for name, kind in kinds.items() if not isinstance(getattr(manifest, name), kind)]:
        raise ValueError(
            f"dataset manifest: {path} has {wrong[0]}={str(getattr(manifest, wrong[0]))[:40]!r}, which is none of ours; {REMEDY}"
        )
    for name, kind in ((manifest.account, ACCOUNT), (manifest.table, TABLE)):
        if not isinstance(name, str) or not kind.fullmatch(name):
            raise ValueError(f"dataset manifest: {path} names {name!r}, which is no account of ours; {REMEDY}")
    return manifest
