"""The table of clips: where each stands, what it was cut from, and what was measured of it. Parquet, for anybody to query.

    clip_id  source  start_s  chunks  shard  row  fingerprint  loudness_db  motion  lag_ms ...

With the account of sources it is the ledger source -> clip -> row of a shard. Shards tell the same; this can be read at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ..places.store import Store

CLIPS = "clips.parquet"
MAX_BYTES = 16 << 30
GROUP = 1 << 14  # rows that are written and read together
FIXED = ("clip_id", "source", "start_s", "chunks", "shard", "row", "fingerprint")
KINDS = (pa.string(), pa.string(), pa.float64(), pa.int32(), pa.string(), pa.int32(), pa.string())

Found = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class ClipRow:
    """A clip: its id, its source and where it begins there, its length in chunks, its shard and row, what it looks and sounds like in short
    (empty: not asked for), and what was measured, by names that end with units.
    """

    clip_id: str
    source: str
    start_s: float
    chunks: int
    shard: str
    row: int
    fingerprint: str = ""
    found: Found = ()


def place_of(row: ClipRow) -> tuple[str, float, str]:
    """What rows of the table are sorted by."""
    return row.source, row.start_s, row.clip_id


def write_clips(store: Store, name: str, rows: Iterable[ClipRow]) -> None:
    """The table as a file of the dataset, by source and start."""
    ordered = sorted(rows, key=place_of)
    write_rows(store, name, ordered, {measure for row in ordered for measure, _ in row.found})


def write_rows(store: Store, name: str, rows: Iterable[ClipRow], measures: Iterable[str]) -> None:
    """The same of rows that come sorted, and have no other measures than these: no more than `GROUP` of them are held."""
    names, rows = sorted(measures), iter(rows)
    schema = pa.schema([*zip(FIXED, KINDS, strict=True), *((measure, pa.float64()) for measure in names)])
    with store.writing(name) as path, pq.ParquetWriter(path, schema, compression="zstd") as file:
        while group := list(islice(rows, GROUP)):
            found = [dict(row.found) for row in group]
            columns = [pa.array([getattr(row, field) for row in group], kind) for field, kind in zip(FIXED, KINDS, strict=True)]
            columns += [pa.array([one.get(measure) for one in found], pa.float64()) for measure in names]
            file.write_table(pa.table(columns, schema=schema))


def read_clips(path: Path) -> list[ClipRow]:
    """What `write_clips` wrote.

    Raises:
        ValueError: it is no such table.
    """
    return list(clips_in(path))


def measures_in(path: Path) -> list[str]:
    """The measures of a table. Raises ValueError: it is no such table."""
    with _told(path), _opened(path) as file:
        return file.schema_arrow.names[len(FIXED) :]


def clips_in(path: Path) -> Iterator[ClipRow]:
    """The rows of a table, of which no more than `GROUP` are held. Raises ValueError: it is no such table."""
    with _told(path), _opened(path) as file:
        measures = file.schema_arrow.names[len(FIXED) :]
        for batch in file.iter_batches(GROUP):
            if any(batch[name].null_count for name in FIXED):
                raise ValueError("a clip has no id, no source or no place")
            fixed = [batch[name].to_pylist() for name in FIXED]
            values = [batch[name].to_pylist() for name in measures]
            founds = zip(*values, strict=True) if values else ((),) * batch.num_rows
            for of, found in zip(zip(*fixed, strict=True), founds, strict=True):
                yield ClipRow(*of, found=tuple((name, x) for name, x in zip(measures, found, strict=True) if x is not None))


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"table of clips: {path} cannot be read ({why}); prepare the data again into another folder") from error


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        if schema.names[: len(FIXED)] != list(FIXED) or schema.types[: len(FIXED)] != list(KINDS):
            raise ValueError("its columns are others")
        if any(kind != pa.float64() for kind in schema.types[len(FIXED) :]):
            raise ValueError("a measure is no number")
        yield file


def measured(rows: Iterable[ClipRow], name: str) -> list[float]:
    """A measure of all clips that have it."""
    return [value for row in rows for key, value in row.found if key == name]
