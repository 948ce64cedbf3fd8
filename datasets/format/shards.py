"""Latent shards: Arrow IPC files with one record a clip, readable with pyarrow alone, memory-mapped, written atomically.

    records -> batches of about half a MiB -> one file; an index of its rows stands in the metadata of the schema, so that who has the
    two ends of a file knows which clips are in it, where, in which shapes, and with which checksums

Shards of the first releases have no index: their rows are asked.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..places.storage import atomic_path
from .arrow_file import END, blocks_of, footer_size, rows_in
from .records import LATENTS, ClipRecord, Shapes, batch_of, checksum, fault_of, fields_of, kind_of, latents_at, record_at, shapes_of

BATCH_BYTES = 2**19  # of latents in a batch, or one clip: the least that is read of a shard far away
INDEX, INDEX_CRC = b"mutual_forcing.index", b"mutual_forcing.index_crc32"
REMEDY = "prepare the data again"


@dataclass(frozen=True)
class Index:
    """What is in a shard, row by row: ids, shapes, checksums (`records.checksum`; None: not known); and how many rows each batch has."""

    clip_ids: tuple[str, ...]
    shapes: tuple[Shapes, ...]
    checksums: tuple[int, ...] | None
    batches: tuple[int, ...]


def write_shard(path: Path, records: Iterable[ClipRecord]) -> None:
    """Write clips to an Arrow IPC file; a killed writer leaves no file under `path`. The records are held until the end, and beyond them
    no more than a batch.
    """
    rows = list(records)
    assert rows, "a shard holds at least one clip"
    groups = list(_groups(rows))
    shapes = tuple(map(shapes_of, rows))
    index = Index(tuple(r.clip_id for r in rows), shapes, tuple(map(checksum, rows)), tuple(map(len, groups)))
    schema = pa.schema(fields_of(shapes, kind_of(rows)), _packed(index))
    with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for group in groups:
            writer.write_batch(batch_of(group, schema))


def _groups(rows: Sequence[ClipRecord]) -> Iterator[list[ClipRecord]]:
    group, size = list[ClipRecord](), 0
    for row in rows:
        if group and size + row.nbytes > BATCH_BYTES:
            yield group
            group, size = [], 0
        group.append(row)
        size += row.nbytes
    yield group


def _packed(index: Index) -> dict[bytes, bytes]:
    kinds = list(dict.fromkeys(index.shapes))
    number = {kind: i for i, kind in enumerate(kinds)}
    text = json.dumps(
        {
            "clip_ids": index.clip_ids,
            "shapes": kinds,
            "shape": [number[s] for s in index.shapes],
            "crc32": index.checksums,
            "batches": index.batches,
        },
        separators=(",", ":"),
    ).encode()
    return {INDEX: text, INDEX_CRC: str(zlib.crc32(text)).encode()}


def index_of(schema: pa.Schema) -> Index | None:
    """The index that a shard's schema carries; None of the first releases' shards.

    Raises:
        ValueError: it is damaged.
    """
    kept = schema.metadata or {}
    if INDEX not in kept:
        return None
    if kept.get(INDEX_CRC) != str(zlib.crc32(kept[INDEX])).encode():
        raise ValueError("its index is damaged")
    try:
        told = json.loads(kept[INDEX])
        kinds = [_shapes(video, audio) for video, audio in told["shapes"]]
        numbers, clips = [_count(n) for n in told["shape"]], [str(clip) for clip in told["clip_ids"]]
        sums, batches = [_count(n) for n in told["crc32"]], [_count(n) for n in told["batches"]]
        index = Index(tuple(clips), tuple(kinds[n] for n in numbers), tuple(sums), tuple(batches))
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise ValueError(f"its index is none ({type(error).__name__}: {error})") from error
    if not len(clips) == len(numbers) == len(sums) == sum(batches):
        raise ValueError("its index counts different numbers of rows")
    return index


def _shapes(video: Any, audio: Any) -> Shapes:
    one, two = (None if x is None else tuple(_count(n) for n in x) for x in (video, audio))
    return one, two


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**40:
        raise ValueError(f"{value!r} is no count")
    return value


@contextmanager
def told(shard: Path | str, what: str) -> Iterator[None]:
    """Whatever a damaged file makes of a reader, as one line that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        why = " ".join(str(error).split())[:300]
        raise ValueError(f"shard {shard}: {what} ({why}); {REMEDY}") from error


class Shard:
    """A memory-mapped shard; reading a row copies at most that row, and its latents not at all.

    Raises:
        ValueError: it is no whole Arrow file, or not one of clips; the file is named. All is looked through but latents.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock, self._held = threading.Lock(), (-1, pa.record_batch({}))
        with told(path, "not a readable Arrow IPC file"):
            self._reader, self._starts = self._opened()
        with told(path, "is an Arrow file, but not of clips"):
            if reason := fault_of(self._reader.schema):
                raise ValueError(reason)
        with told(path, "damaged"):
            self._look()
            self.index = index_of(self._reader.schema) or self._asked()
            if self.index.batches != self._rows():
                raise ValueError("its index is of other batches")

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def clip_ids(self) -> list[str]:
        return list(self.index.clip_ids)

    def row(self, index: int) -> ClipRecord:
        """Raises ValueError where it is damaged, or has no such row: a table that names one may be a stranger's."""
        if not 0 <= index < len(self):
            raise ValueError(f"shard {self._path}: has {len(self)} rows, no row {index}; {REMEDY}")
        number = bisect_right(self._starts, index) - 1
        with told(self._path, "damaged"):
            return record_at(self._batch(number), index - self._starts[number])

    def _opened(self) -> tuple[pa.ipc.RecordBatchFileReader, list[int]]:
        """The reader, and the first row of each batch, then the number of rows."""
        starts = [0]
        with self._path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - END))
            footer = footer_size(file.read(END), size)
            file.seek(size - END - footer)
            for block in blocks_of(file.read(footer), size):
                file.seek(block.start)
                rows = rows_in(file.read(block.head))
                if rows < 0:
                    raise ValueError(f"a batch in it has {rows} rows")
                starts.append(starts[-1] + rows)
        return pa.ipc.open_file(pa.memory_map(str(self._path))), starts

    def _look(self) -> None:
        """All that a row is found by is inside of the file: lengths, offsets, text. Latents are numbers, whatever they are."""
        for number in range(len(self._starts) - 1):
            batch = self._reader.get_batch(number)
            batch.validate(full=True)
            if batch.num_rows != self._starts[number + 1] - self._starts[number]:
                raise ValueError(f"batch {number} has {batch.num_rows} rows and tells of others")

    def _asked(self) -> Index:
        """Of a shard without an index."""
        clips, shapes = list[str](), list[Shapes]()
        for number in range(len(self._starts) - 1):
            batch = self._batch(number)
            clips += batch.column("clip_id").to_pylist()
            for row in range(batch.num_rows):
                video, audio = (latents_at(batch.column(m), row) if m in batch.schema.names else None for m in LATENTS)
                shapes.append((None if video is None else video.shape, None if audio is None else audio.shape))
        if None in clips:
            raise ValueError("a clip has no id")
        return Index(tuple(clips), tuple(shapes), None, self._rows())

    def _rows(self) -> tuple[int, ...]:
        """Of each batch."""
        return tuple(b - a for a, b in pairwise(self._starts))

    def _batch(self, number: int) -> pa.RecordBatch:
        with self._lock:  # the reader is not made for several threads
            if self._held[0] != number:
                self._held = (number, self._reader.get_batch(number))
            return self._held[1]
