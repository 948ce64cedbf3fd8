"""The manifest of a prepared dataset: written last, so a folder without one was never finished and is not read."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..model.timeline import Timeline
from .progress import Progress, silent
from .storage import read_json, sha256_file, write_json

MANIFEST = "manifest.json"
SOURCES = "sources.jsonl"
FORMAT = 1
SHARD = re.compile(r"shard-[0-9a-zA-Z]+\.arrow")  # a manifest may be a stranger's: nothing else is read or written at its word
REMEDY = "remove this folder and prepare the data again"


@dataclass(frozen=True)
class ShardEntry:
    """A shard file of the dataset: its name, rows, size in bytes and SHA-256."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a dataset is. `settings` is the hash of everything that shaped it; `held_out` are clip ids kept from training."""

    settings: str
    timeline: Timeline
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

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST, {"format": FORMAT, **asdict(self)})

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
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise ValueError(f"dataset manifest: {path} has another format than {FORMAT}; {REMEDY}")
    try:
        manifest = Manifest(
            **{
                **data,
                "timeline": Timeline(**data["timeline"]),
                "shards": tuple(ShardEntry(**s) for s in data["shards"]),
                "held_out": tuple(data["held_out"]),
            }
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"dataset manifest: {path} lacks or adds a field ({error}); {REMEDY}") from error
    for shard in manifest.shards:
        if not isinstance(shard.file, str) or not SHARD.fullmatch(shard.file) or not isinstance(shard.bytes, int) or shard.bytes < 0:
            raise ValueError(f"dataset manifest: {path} names {shard.file!r} of {shard.bytes!r} bytes, which is no shard; {REMEDY}")
    return manifest
