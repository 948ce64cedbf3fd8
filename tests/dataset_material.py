"""Small datasets of nothing, as `data prepare` leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.format.account import SourceLine, write_account
from mutual_forcing.datasets.format.clip_table import ClipRow, write_clips
from mutual_forcing.datasets.format.manifest import Manifest, ShardEntry
from mutual_forcing.datasets.format.shards import ClipRecord, write_shard
from mutual_forcing.datasets.places.storage import sha256_file
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.preparing.making import clip_id

CONFIG = DataConfig()


def make_dataset(folder: Path, clips: int = 3, shards: int = 1, sources: Sequence[str] = ("a.mp4",)) -> Manifest:
    """`clips` clips in each of `shards` shards, of these sources in turn; the first source is held out."""
    folder.mkdir(parents=True, exist_ok=True)
    t, c = CONFIG.timeline, CONFIG
    video = np.zeros((t.video_latents(c.clip_chunks), 2, 1, 1), np.float16)
    audio = np.zeros((t.audio_latents(c.clip_chunks), 3), np.float16)
    made = []
    for n in range(clips * shards):
        source, start = sources[n % len(sources)], float(n)
        content = f"content of {source}"
        made.append(ClipRecord(clip_id(content, start, c.clip_chunks), source, start, video, audio, "", (), content))
    entries, rows = list[ShardEntry](), list[ClipRow]()
    for n in range(shards):
        shard, records = folder / f"shard-{n}.arrow", made[n * clips : (n + 1) * clips]
        write_shard(shard, records)
        entries.append(ShardEntry(shard.name, clips, shard.stat().st_size, sha256_file(shard)))
        rows += [ClipRow(r.clip_id, r.source, r.start_s, c.clip_chunks, shard.name, i) for i, r in enumerate(records)]
    lines = [
        SourceLine(name, "used", clips=sum(r.source == name for r in made), content=f"content of {name}", stamp="1") for name in sources
    ]
    manifest = Manifest(
        settings=c.shaping(),
        inputs=("/media",),
        timeline=t,
        modalities=c.modalities,
        clip_chunks=c.clip_chunks,
        width=c.width,
        height=c.height,
        video_codec=asdict(c.video_codec) | {"kind": "dct-video"},
        audio_codec=asdict(c.audio_codec) | {"kind": "mdct-audio"},
        shards=tuple(entries),
        held_out=tuple(sorted(r.clip_id for r in made if r.source == sources[0])) if len(sources) > 1 else (made[0].clip_id,),
        clips=len(made),
        hours=0.1,
        sources_used=len(sources),
        sources_refused=0,
        codec_quality={},
        synthetic=False,
    )
    store = LocalStore(folder)
    write_account(store, manifest.account, lines)
    write_clips(store, manifest.table, rows)
    manifest.write(folder)
    return manifest
