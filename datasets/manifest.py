"""The manifest of a prepared dataset: written last, so a folder without one was never finished and is not read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..model.timeline import Timeline
from .progress import Progress, silent
from .storage import read_json, sha256_file, write_json

MANIFEST = "manifest.json"
SOURCES = "sources.jsonl"
FORMAT = 1
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


def read_manifest(folder: Path, verify: bool = True, progress: Progress = silent) -> Manifest:
    """The manifest of a finished dataset; `progress` counts verified shards.

    Raises:
        ValueError: there is none, it is of another format, or a shard is missing, of another size or (verify) of another hash.
    """
    data = read_json(folder / MANIFEST, "dataset manifest (run `mutual-forcing data prepare` first)")
    if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
        raise ValueError(f"dataset manifest: {folder / MANIFEST} has another format than {FORMAT}; {REMEDY}")
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
        raise ValueError(f"dataset manifest: {folder / MANIFEST} lacks or adds a field ({error}); {REMEDY}") from error
    for done, shard in enumerate(manifest.shards):
        progress("verify shards", done, len(manifest.shards))
        path = folder / shard.file
        if Path(shard.file).name != shard.file or not path.is_file() or path.stat().st_size != shard.bytes:
            raise ValueError(f"dataset shard: {path} is missing or not {shard.bytes} bytes long; {REMEDY}")
        if verify and sha256_file(path) != shard.sha256:
            raise ValueError(f"dataset shard: {path} is damaged (its hash differs from the manifest); {REMEDY}")
    progress("verify shards", len(manifest.shards), len(manifest.shards))
    return manifest
