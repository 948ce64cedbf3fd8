"""Does a dataset's account add up? Every source and every clip is accounted for, exactly once, or the audit says which is not.

inputs as listed now --?-- account of sources --?-- table of clips --?-- rows of the shards --?-- manifest
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..format.account import SourceLine, read_account
from ..format.clip_table import ClipRow, read_clips
from ..format.manifest import MANIFEST, Manifest, open_manifest
from ..format.shards import Shard
from ..intake.sources import Source
from ..places.scratch import Scratch
from ..places.storage import sha256_file
from ..places.store import Store, is_remote
from ..progress import Progress, silent
from .growth import growth
from .making import clip_id

MOST_FAULTS = 100


@dataclass(frozen=True)
class Row:
    """A clip as its shard tells of it."""

    shard: str
    row: int
    clip_id: str
    source: str
    content: str
    start_s: float
    chunks: int


@dataclass(frozen=True)
class Audit:
    """What was counted, and what is wrong, in words; nothing if the account adds up. compared: with the inputs as they are now."""

    sources: int
    used: int
    clips: int
    left_out: int
    shards: int
    compared: bool
    faults: tuple[str, ...]


def audit(store: Store, listed: Sequence[Source] | None = None, progress: Progress = silent) -> Audit:
    """Read everything of a dataset and hold it against everything else. listed: its sources as they are now (None: they are not at hand).

    Raises:
        ValueError: there is no dataset, or its manifest or account cannot be read.
        OSError: the store does not answer.
    """
    manifest = open_manifest(store.fetch(MANIFEST))
    lines, table = read_account(store.fetch(manifest.account)), read_clips(store.fetch(manifest.table))
    rows, faults, scratch = list[Row](), list[str](), Scratch()
    for done, entry in enumerate(manifest.shards):
        progress("read shards", done, len(manifest.shards))
        try:
            path = fetched(store, entry.file, scratch)
            if path.stat().st_size != entry.bytes or sha256_file(path) != entry.sha256:
                faults.append(f"{entry.file}: is not what the manifest says; its clips cannot be trusted")
                continue
            found = list(rows_of(Shard(path), entry.file, manifest))
        except (FileNotFoundError, ValueError) as error:
            faults.append(f"{entry.file}: {error}")
            continue
        if len(found) != entry.rows:
            faults.append(f"{entry.file}: has {len(found)} rows, the manifest says {entry.rows}")
        rows += found
    progress("read shards", len(manifest.shards), len(manifest.shards))
    faults += disagreements(manifest, lines, table, rows)
    if listed is not None:
        faults += unaccounted(listed, lines)
    left_out = sum(len(line.left_out) for line in lines)
    used, compared = sum(line.used for line in lines), listed is not None
    return Audit(len(lines), used, len(rows), left_out, len(manifest.shards), compared, tuple(faults[:MOST_FAULTS]))


def fetched(store: Store, name: str, scratch: Scratch) -> Path:
    """A shard as a local file; of one in S3 the copy goes when the next is fetched: a dataset may be larger than this machine's disk."""
    if not is_remote(store.uri):
        return store.fetch(name)
    for other in scratch.folder.iterdir():
        other.unlink()
    store.receive(name, path := scratch.folder / name)
    return path


def rows_of(shard: Shard, name: str, manifest: Manifest) -> Iterator[Row]:
    """The clips of a shard; their length follows from their latents."""
    t = manifest.timeline
    for i in range(len(shard)):
        clip = shard.row(i)
        if clip.video is not None:
            chunks = (len(clip.video) - 1) // t.chunk_video
        else:
            latents = 0 if clip.audio is None else len(clip.audio)
            chunks = next((n for n in range(1, manifest.clip_chunks + 1) if t.audio_latents(n) == latents), 0)
        yield Row(name, i, clip.clip_id, clip.source, clip.content, clip.start_s, chunks)


def disagreements(manifest: Manifest, lines: Sequence[SourceLine], table: Sequence[ClipRow], rows: Sequence[Row]) -> Iterator[str]:
    """Where the manifest, the account, the table and the shards tell different stories."""
    yield from _in_account(lines, rows)
    yield from _in_shards(lines, rows)
    told = {clip.clip_id: (clip.shard, clip.row, clip.source, clip.start_s, clip.chunks) for clip in table}
    held = {row.clip_id: (row.shard, row.row, row.source, row.start_s, row.chunks) for row in rows}
    yield from (f"clip {clip}: stands in the table, and in no shard" for clip in told.keys() - held.keys())
    yield from (f"clip {clip}: stands in {held[clip][0]}, and not in the table" for clip in held.keys() - told.keys())
    for clip in told.keys() & held.keys():
        if told[clip] != held[clip]:
            yield f"clip {clip}: is {held[clip]} in the shards, {told[clip]} in the table"
    yield from _in_manifest(manifest, lines, rows)


def _in_shards(lines: Sequence[SourceLine], rows: Sequence[Row]) -> Iterator[str]:
    by_name = {line.path: line for line in lines}
    for clip, count in Counter(row.clip_id for row in rows).items():
        if count > 1:
            yield f"clip {clip}: stands in the shards {count} times"
    for row in rows:
        line = by_name.get(row.source)
        if line is None:
            yield f"clip {row.clip_id} in {row.shard}: its source {row.source!r} stands in no account"
        elif not line.used:
            yield f"clip {row.clip_id} in {row.shard}: its source {row.source!r} is refused ({line.reason})"
        elif line.content != row.content:
            yield f"clip {row.clip_id} in {row.shard}: is of other bytes than its source {row.source!r} has in the account"
        if clip_id(row.content, row.start_s, row.chunks) != row.clip_id:
            yield f"clip {row.clip_id} in {row.shard}: its id does not follow from its source and place"


def _in_account(lines: Sequence[SourceLine], rows: Sequence[Row]) -> Iterator[str]:
    made = Counter(row.source for row in rows)
    for name, count in Counter(line.path for line in lines).items():
        if count > 1:
            yield f"source {name!r}: stands in the account {count} times"
    for line in lines:
        if line.used != (line.clips > 0):
            yield f"source {line.path!r}: is {line.status}, and has {line.clips} clips"
        if not line.used and not line.reason:
            yield f"source {line.path!r}: is refused without a reason"
        if made[line.path] != line.clips:
            yield f"source {line.path!r}: has {made[line.path]} clips in the shards, {line.clips} in the account"


def _in_manifest(manifest: Manifest, lines: Sequence[SourceLine], rows: Sequence[Row]) -> Iterator[str]:
    known = {row.clip_id for row in rows}
    yield from (f"clip {clip}: is held out, and stands in no shard" for clip in manifest.held_out if clip not in known)
    yield from (f"clip {clip}: is dropped, and stands in no shard" for clip in manifest.dropped if clip not in known)
    held_out = set(manifest.held_out)
    apart = {row.source for row in rows if row.clip_id in held_out}
    kept = {row.source for row in rows} - apart
    if not kept or not apart:
        yield f"sources: {len(kept)} to train on, {len(apart)} held out; at least one of each is needed"
    yield from (
        f"source {row.source!r}: is held out, but for its clip {row.clip_id}"
        for row in rows
        if row.source in apart and row.clip_id not in held_out
    )
    counts = {
        "clips": (len(rows) - len(manifest.dropped), manifest.clips),
        "used sources": (sum(line.used for line in lines), manifest.sources_used),
        "refused sources": (sum(not line.used for line in lines), manifest.sources_refused),
    }
    yield from (f"{name}: {found} are found, the manifest says {said}" for name, (found, said) in counts.items() if found != said)


def unaccounted(listed: Sequence[Source], lines: Iterable[SourceLine]) -> Iterator[str]:
    """Sources that are there now and stand in no account, or are not what they were."""
    found = growth(listed, {line.path: line for line in lines}, None)
    known = {line.path for line in lines}
    yield from (f"source {s.name!r}: was added since, or changed; give `data prepare` again" for s in found.fresh if s.name not in known)
    yield from (f"source {name!r}: is not what it was when its clips were made" for name in found.changed)
