"""The table of clips: where each stands, what it was cut from, and what was measured of it. Parquet, for anybody to query.

    clip_id  source  start_s  chunks  shard  row  fingerprint  loudness_db  motion  lag_ms ...

With the account of sources it is the ledger source -> clip -> row of a shard. Shards tell the same; this can be read at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .store import Store

CLIPS = "clips.parquet"
MAX_BYTES = 16 << 30
FIXED = ("clip_id", "source", "start_s", "chunks", "shard", "row", "fingerprint")
KINDS = (pa.string(), pa.string(), pa.float64(), pa.int32(), pa.string(), pa.int32(), pa.string())

Found = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
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


def write_clips(store: Store, name: str, rows: Sequence[ClipRow]) -> None:
    """The table as a file of the dataset, by source and start."""
    rows = sorted(rows, key=lambda row: (row.source, row.start_s, row.clip_id))
    columns = {field: pa.array([getattr(row, field) for row in rows], kind) for field, kind in zip(FIXED, KINDS, strict=True)}
    values = [dict(row.found) for row in rows]
    for measure in sorted({measure for found in values for measure in found}):
        columns[measure] = pa.array([found.get(measure) for found in values], pa.float64())
    with store.writing(name) as path:
        pq.write_table(pa.table(columns), path, compression="zstd")


def read_clips(path: Path) -> list[ClipRow]:
    """What `write_clips` wrote.

    Raises:
        ValueError: it is no such table.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        table = pq.read_table(path)
        if table.schema.names[: len(FIXED)] != list(FIXED) or table.schema.types[: len(FIXED)] != list(KINDS):
            raise ValueError("its columns are others")
        if any(kind != pa.float64() for kind in table.schema.types[len(FIXED) :]):
            raise ValueError("a measure is no number")
        if any(table[name].null_count for name in FIXED):
            raise ValueError("a clip has no id, no source or no place")
        fixed = [table[name].to_pylist() for name in FIXED]
        measures = table.schema.names[len(FIXED) :]
        values = [table[name].to_pylist() for name in measures]
    except (OSError, pa.ArrowException, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise ValueError(f"table of clips: {path} cannot be read ({why}); prepare the data again into another folder") from error
    founds = zip(*values, strict=True) if values else ((),) * table.num_rows
    return [
        ClipRow(*of, found=tuple((name, x) for name, x in zip(measures, found, strict=True) if x is not None))
        for of, found in zip(zip(*fixed, strict=True), founds, strict=True)
    ]


def measured(rows: Iterable[ClipRow], name: str) -> list[float]:
    """A measure of all clips that have it."""
    return [value for row in rows for key, value in row.found if key == name]
