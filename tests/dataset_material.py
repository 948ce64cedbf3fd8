"""Small datasets of nothing, as `data prepare` leaves them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from mutual_forcing.datasets.manifest import SOURCES, Manifest, ShardEntry
from mutual_forcing.datasets.shards import ClipRecord, write_shard
from mutual_forcing.datasets.stages import DataConfig
from mutual_forcing.datasets.storage import sha256_file

CONFIG = DataConfig()


def make_dataset(folder: Path, clips: int = 3, shards: int = 1) -> Manifest:
    """`clips` clips in each of `shards` shards."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"clip-{i}" for i in range(clips * shards)]
    noise = np.zeros((2, 3), np.float16)
    entries = []
    for n in range(shards):
        shard = folder / f"shard-{n}.arrow"
        write_shard(shard, [ClipRecord(name, "a.mp4", 0.0, noise, noise, "", ()) for name in names[n * clips : (n + 1) * clips]])
        entries.append(ShardEntry(shard.name, clips, shard.stat().st_size, sha256_file(shard)))
    manifest = Manifest(
        settings="any",
        timeline=CONFIG.timeline,
        clip_chunks=CONFIG.clip_chunks,
        width=CONFIG.width,
        height=CONFIG.height,
        video_codec=asdict(CONFIG.video_codec) | {"kind": "dct"},
        audio_codec=asdict(CONFIG.audio_codec) | {"kind": "mdct"},
        shards=tuple(entries),
        held_out=(names[0],),
        clips=len(names),
        hours=0.1,
        sources_used=1,
        sources_refused=0,
        codec_quality={},
        synthetic=False,
    )
    (folder / SOURCES).write_text("{}\n")
    manifest.write(folder)
    return manifest
