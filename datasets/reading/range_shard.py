"""A shard in S3 that is read by ranges: its two ends once, then of each row the batch that holds it, through a cache on the disk.

    index in the schema  -->  row -> batch -> bytes of the file --> cache, or S3 --> Arrow --> record, its checksum compared with the index

The manifest's hash is of a whole shard, which nobody has here. Instead every record that is read is compared with the CRC-32 that the
index has of it, of latents and text; the index has one of its own. A piece of the cache that fails is fetched again; one that comes so from
S3 is an error.
"""

from __future__ import annotations

from bisect import bisect_right
from hashlib import sha256
from itertools import accumulate

import pyarrow as pa

from ..format.arrow_file import END, HEAD, Block, blocks_of, footer_size, rows_in
from ..format.manifest import ShardEntry
from ..format.records import ClipRecord, checksum, fault_of, record_at, shapes_of
from ..format.shards import REMEDY, index_of, told
from ..places.store import Store
from .piece_cache import PieceCache

TAIL = 64 * 2**10  # bytes that are read of the end at first


class RangeShard:
    """A shard of a dataset in a store. Its rows may be read by several threads at once.

    Raises:
        ValueError: it is not a shard, is damaged, or was written by a release that wrote no index.
        OSError: the store does not answer, or has no such file.
    """

    def __init__(self, store: Store, entry: ShardEntry, cache: PieceCache) -> None:
        self._store, self._entry, self._cache = store, entry, cache
        self._key = sha256(f"{store.uri} {entry.file} {entry.sha256}".encode()).hexdigest()[:24]
        self._blocks = self._places()
        end = min(block.start for block in self._blocks)
        head = store.read_range(entry.file, HEAD, end - HEAD)
        with told(self.uri, "damaged"):
            self._schema = pa.ipc.read_schema(pa.py_buffer(head))
            if reason := fault_of(self._schema):
                raise ValueError(f"is not of clips: {reason}")
            found = index_of(self._schema)
            if found is None or found.checksums is None:
                raise ValueError("has no index, as those of early releases; set data.cache_gb=0, which fetches it whole")
            if len(found.batches) != len(self._blocks) or len(found.clip_ids) != entry.rows:
                told_rows = f"{len(found.clip_ids)} rows in {len(found.batches)} batches"
                raise ValueError(f"its index has {told_rows}, the manifest {entry.rows} rows, the file {len(self._blocks)} batches")
        self.index, self._sums, self._starts = found, found.checksums, [0, *accumulate(found.batches)]

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def uri(self) -> str:
        return f"{self._store.uri}/{self._entry.file}"

    @property
    def clip_ids(self) -> list[str]:
        return list(self.index.clip_ids)

    def row(self, index: int) -> ClipRecord:
        """Raises ValueError where it is damaged or has no such row, OSError where the store does not answer."""
        if not 0 <= index < len(self):
            raise ValueError(f"shard {self.uri}: has {len(self)} rows, no row {index}; {REMEDY}")
        number = bisect_right(self._starts, index) - 1
        block, place = self._blocks[number], index - self._starts[number]
        name = f"{self._key}-{block.start}"
        kept = self._cache.get(name, block.size)
        if kept is not None:
            try:
                return self._record(kept, number, place)
            except ValueError:  # this disk's fault: the store may have it right
                self._cache.drop(name)
        content = self._store.read_range(self._entry.file, block.start, block.size)
        record = self._record(pa.py_buffer(content), number, place)
        self._cache.put(name, content)
        return record

    def _record(self, piece: pa.Buffer, number: int, place: int) -> ClipRecord:
        row = self._starts[number] + place
        with told(self.uri, f"row {row} is damaged"):
            rows_in(piece.slice(0, self._blocks[number].head).to_pybytes())
            batch = pa.ipc.read_record_batch(piece, self._schema)
            batch.validate(full=True)
            if batch.num_rows != self.index.batches[number]:
                raise ValueError(f"its batch has {batch.num_rows} rows, not {self.index.batches[number]}")
            record = record_at(batch, place)
            if self._sums[row] != checksum(record) or shapes_of(record) != self.index.shapes[row]:
                raise ValueError("its checksum is another")
            return record

    def _places(self) -> list[Block]:
        """Of the batches, from the footer."""
        size = self._entry.bytes
        tail = self._store.read_range(self._entry.file, max(0, size - TAIL), min(size, TAIL))
        with told(self.uri, "damaged"):
            whole = END + footer_size(tail[-END:], size)
        if whole > len(tail):
            tail = self._store.read_range(self._entry.file, size - whole, whole)
        with told(self.uri, "damaged"):
            blocks = blocks_of(tail[-whole:-END], size)
            if not blocks:
                raise ValueError("it has no rows")
            return blocks
