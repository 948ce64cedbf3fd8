"""The clips of a part on their way into shards, source by source: a source's clips count when all of it was seen to be right.

    add, add, ... -> pending --accept--> kept -> a shard whenever they fill one
                        |  \\--reject--> nothing
                        +-- of a long source: spilled to this machine's disk until it is accepted

So memory holds two shards at most, whatever the length of a source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ..places.scratch import Scratch
from ..places.storage import sha256_file
from ..places.store import Store
from .clip_table import ClipRow, Found
from .parts import SHARD_BYTES, Part, ShardEntry
from .shards import ClipRecord, Shard, write_shard


class PartWriter:
    """Writes a part; after `close`, `shards`, `rows` and `columns`, their Arrow types. full: bytes of latents that make a shard."""

    def __init__(self, store: Store, part: Part, full: int = SHARD_BYTES) -> None:
        self._store, self._part, self._full = store, part, full
        self._kept: list[ClipRecord] = []
        self._pending: list[ClipRecord] = []
        self._bytes = 0
        self._spilled: list[Path] = []
        self._told: dict[str, tuple[int, str]] = {}
        self.shards: list[ShardEntry] = []
        self.rows: list[ClipRow] = []
        self.columns: dict[str, str] = {}
        self._scratch: Scratch | None = None

    def add(self, record: ClipRecord, chunks: int, fingerprint: str = "") -> None:
        """A clip of the source in progress; see `ClipRow`."""
        self._pending.append(record)
        self._told[record.clip_id] = chunks, fingerprint
        self._bytes += record.nbytes
        if self._bytes >= self._full:
            self._spill()

    def accept(self, found: Found) -> None:
        """The source in progress is right. found: what was measured on all of it, for each of its clips."""
        if self._spilled:
            self._flush()
            for path in self._spilled:
                self._write(_with(_records(path), found))
            self._forget()
        self._kept += _with(self._pending, found)
        self._pending, self._bytes = [], 0
        if sum(record.nbytes for record in self._kept) >= self._full:
            self._flush()

    def reject(self) -> None:
        """The source in progress is of no use."""
        for record in self._pending:
            del self._told[record.clip_id]
        self._pending, self._bytes = [], 0
        self._forget()

    def close(self) -> None:
        """Write what is left."""
        self.reject()
        self._flush()

    def _spill(self) -> None:
        if self._scratch is None:
            self._scratch = Scratch()
        path = self._scratch.folder / f"{len(self._spilled):06}.arrow"
        write_shard(path, self._pending)
        self._spilled.append(path)
        self._pending, self._bytes = [], 0

    def _forget(self) -> None:
        if self._scratch is not None:
            self._scratch.close()
        self._scratch, self._spilled = None, []

    def _flush(self) -> None:
        if self._kept:
            self._write(self._kept)
        self._kept = []

    def _write(self, records: Sequence[ClipRecord]) -> None:
        name = self._part.shard(len(self.shards))
        with self._store.writing(name) as path:
            write_shard(path, records)
            entry = ShardEntry(name, len(records), path.stat().st_size, sha256_file(path))
            self.columns = joined(self.columns, columns_of(path))
        self.shards.append(entry)
        for row, r in enumerate(records):
            chunks, fingerprint = self._told.pop(r.clip_id)
            self.rows.append(ClipRow(r.clip_id, r.source, r.start_s, chunks, name, row, fingerprint, r.found))


def _records(path: Path) -> Iterator[ClipRecord]:
    shard = Shard(path)
    yield from (shard.row(i) for i in range(len(shard)))


def _with(records: Iterable[ClipRecord], found: Found) -> list[ClipRecord]:
    return [replace(record, found=(*found, *record.found)) for record in records]


def columns_of(path: Path) -> dict[str, str]:
    """The columns of a shard by their Arrow types."""
    with pa.memory_map(str(path)) as file:
        return {field.name: _said(field) for field in pa.ipc.open_file(file).schema}


def _said(field: pa.Field) -> str:
    """Its type on one line; of bits that stand for other numbers, those too."""
    numbers = (field.metadata or {}).get(b"dtype", b"").decode()
    return " ".join(str(field.type).split()) + (f" ({numbers})" if numbers else "")


def joined(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """Columns of some shards and of others; one that has several types has them all."""
    kinds = {
        name: sorted({kind for columns in (one, other) for kind in columns.get(name, "").split(" or ") if kind}) for name in one | other
    }
    return {name: " or ".join(kinds[name]) for name in sorted(kinds)}
