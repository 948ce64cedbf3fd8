"""A clip as a record, and records as Arrow columns and back.

clip_id, source, content, caption: string    start_s, end_s: double    words: list<{word, start, end}>
tags: map<string, string>    found: map<string, double>
video, audio: fixed-shape tensors of 16-bit floats (`sixteen_bits`), where all clips of a shard have one shape;
              else {data: list<...>, shape: fixed_size_list<int32>}, the storage of Arrow's variable-shape tensors, null where a clip
              has none; no column where no clip has any. bfloat16 is uint16 of a column whose metadata says so
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa

from .sixteen_bits import KEPT, SAID, VALUES

WORD = pa.struct([("word", pa.string()), ("start", pa.float64()), ("end", pa.float64())])
TEXTS = ("clip_id", "source", "content", "caption")
REQUIRED: dict[str, pa.DataType] = {
    "clip_id": pa.string(),
    "source": pa.string(),
    "start_s": pa.float64(),
    "caption": pa.string(),
    "words": pa.list_(WORD),
}
LATER: dict[str, pa.DataType] = {  # that shards of the first releases lack
    "content": pa.string(),
    "end_s": pa.float64(),
    "tags": pa.map_(pa.string(), pa.string()),
    "found": pa.map_(pa.string(), pa.float64()),
}
LISTS = ("words", "tags", "found")
LATENTS = ("video", "audio")
DIMENSIONS = range(1, 9)


@dataclass(frozen=True)
class ClipRecord:
    """One clip: its latents, its text on its own clock, where it came from, and what was measured of it.

    video: [F, C, H, W], None in a set of sound alone; audio: [T, C], None in a set of pictures alone, both as `sixteen_bits` has them.
    start_s, end_s: in seconds from its source's first picture. content: SHA-256 of the source's bytes. tags: what a list or a sidecar says
    of it. found: what was measured, by a name that ends with its unit.
    """

    clip_id: str
    source: str
    start_s: float
    video: np.ndarray | None
    audio: np.ndarray | None
    caption: str
    words: tuple[tuple[str, float, float], ...]
    content: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    found: tuple[tuple[str, float], ...] = ()
    end_s: float = 0.0

    def latents(self, modality: str) -> np.ndarray | None:
        return self.video if modality == "video" else self.audio

    def get(self, modality: str) -> np.ndarray:
        """The latents of a modality that must be there."""
        if (found := self.latents(modality)) is None:
            raise ValueError(f"clip {self.clip_id}: has no {modality}; take a dataset that has it")
        return found

    @property
    def nbytes(self) -> int:
        """Of its latents."""
        return sum(x.nbytes for m in LATENTS if (x := self.latents(m)) is not None)


Shapes = tuple[tuple[int, ...] | None, tuple[int, ...] | None]
"""Of a clip's latents: video, audio."""


def shapes_of(record: ClipRecord) -> Shapes:
    video, audio = (None if x is None else tuple(x.shape) for x in (record.video, record.audio))
    return video, audio


def checksum(record: ClipRecord) -> int:
    """CRC-32 of all that a record holds, however it is laid out."""
    words = [(word, float(start), float(end)) for word, start, end in record.words]
    found = [(name, float(value)) for name, value in record.found]
    said = [getattr(record, name) for name in TEXTS]
    ends = [float(record.end_s)] if record.end_s else []  # which clips of the first releases do not tell
    crc = zlib.crc32(json.dumps([said, float(record.start_s), words, record.tags, found, shapes_of(record), *ends]).encode())
    for name in LATENTS:
        if (x := record.latents(name)) is not None:
            crc = zlib.crc32(np.ascontiguousarray(x).view(np.uint8).data, crc)
    return crc


def kind_of(records: Sequence[ClipRecord]) -> np.dtype:
    """How the latents of these clips are held: one of `sixteen_bits.KEPT`."""
    [kind] = {x.dtype for r in records for m in LATENTS if (x := r.latents(m)) is not None}
    return kind


def fields_of(shapes: Sequence[Shapes], kind: np.dtype) -> list[pa.Field]:
    """The columns for clips of these shapes, whose latents are held as `kind`."""
    said = SAID if kind == KEPT["bfloat16"] else None
    fields = [pa.field(name, kind) for name, kind in (REQUIRED | LATER).items()]
    for name, each in zip(LATENTS, zip(*shapes, strict=True), strict=True):
        if any(each):
            fields.append(pa.field(name, _tensors(each, VALUES[kind]), metadata=said))
    return fields


def _tensors(shapes: Sequence[tuple[int, ...] | None], values: pa.DataType) -> pa.DataType:
    first = next(s for s in shapes if s is not None)
    assert all(s is None or (len(s) == len(first) and prod(s)) for s in shapes), "latents of one modality have one number of dimensions"
    if set(shapes) == {first}:
        return pa.fixed_shape_tensor(values, first)
    return pa.struct([("data", pa.list_(values)), ("shape", pa.list_(pa.int32(), len(first)))])


def batch_of(records: Sequence[ClipRecord], schema: pa.Schema) -> pa.RecordBatch:
    """Records as one batch; their latents are copied once."""
    columns = []
    for field in schema:
        if field.name in LATENTS:
            columns.append(_latents([r.latents(field.name) for r in records], field.type))
        elif field.name == "words":
            words = [[{"word": w, "start": s, "end": e} for w, s, e in r.words] for r in records]
            columns.append(pa.array(words, field.type))
        else:
            columns.append(pa.array([getattr(r, field.name) for r in records], field.type))
    return pa.record_batch(columns, schema=schema)


def _latents(arrays: Sequence[np.ndarray | None], kind: pa.DataType) -> pa.Array:
    values = kind.value_type if isinstance(kind, pa.FixedShapeTensorType) else kind.field("data").type.value_type
    assert all(x is None or VALUES[x.dtype] == values for x in arrays), "latents of a shard are of one kind"
    if isinstance(kind, pa.FixedShapeTensorType):
        # Networks give latents whose channels lie last in memory, and stack keeps that: Arrow would call it another type.
        return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(np.stack([x for x in arrays if x is not None])))
    present = [x for x in arrays if x is not None]
    ends = np.cumsum([0, *(0 if x is None else x.size for x in arrays)], dtype=np.int32)
    flat = np.concatenate([x.reshape(-1) for x in present]) if present else np.empty(0, values.to_pandas_dtype())
    dims = kind.field("shape").type.list_size
    shapes = np.array([(0,) * dims if x is None else x.shape for x in arrays], np.int32)
    parts = [
        pa.ListArray.from_arrays(pa.array(ends), pa.array(flat)),
        pa.FixedSizeListArray.from_arrays(pa.array(shapes.reshape(-1)), dims),
    ]
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=pa.array([x is None for x in arrays]))


def fault_of(schema: pa.Schema) -> str | None:
    """Why a file with these columns holds no clips, or None. Only what passes is ever read."""
    for name, wanted in (REQUIRED | LATER).items():
        found = schema.get_all_field_indices(name)
        if len(found) > 1 or (not found and name in REQUIRED):
            return f"column {name!r} stands in it {len(found)} times"
        if found and schema.field(found[0]).type != wanted:
            return f"column {name!r} is {schema.field(found[0]).type}, not {wanted}"
    present = [name for name in LATENTS if schema.get_all_field_indices(name)]
    if not present:
        return "there is neither a column 'video' nor 'audio'"
    for name in present:
        if len(schema.get_all_field_indices(name)) > 1 or not _is_tensors(kind := schema.field(name).type):
            return f"column {name!r} is {str(kind)[:80]}, no tensors of 16-bit floats"
    return None


def _is_tensors(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.FixedShapeTensorType):
        plain = kind.value_type in VALUES.values() and kind.permutation in (None, list(range(len(kind.shape))))
        storage = kind.storage_type
        right = pa.types.is_fixed_size_list(storage) and storage.list_size == prod(kind.shape)
        return plain and right and len(kind.shape) in DIMENSIONS and min(kind.shape) > 0
    if not pa.types.is_struct(kind) or [f.name for f in kind] != ["data", "shape"]:
        return False
    shape = kind.field("shape").type
    listed = pa.types.is_fixed_size_list(shape) and shape.value_type == pa.int32() and shape.list_size in DIMENSIONS
    return kind.field("data").type in map(pa.list_, VALUES.values()) and listed


def record_at(batch: pa.RecordBatch, row: int) -> ClipRecord:
    """A row of a batch that was validated, with its latents where they are.

    Raises:
        ValueError: a value is missing, or a shape is not that of its numbers.
    """
    names = batch.schema.names
    values: dict[str, Any] = {name: batch.column(name)[row].as_py() for name in (*TEXTS, "start_s", "end_s") if name in names}
    if None in values.values():
        raise ValueError(f"row {row}: a value is missing")
    for name in LISTS:
        values[name] = _listed(batch.column(name), row) if name in names else ()
    video, audio = (latents_at(batch.column(name), row) if name in names else None for name in LATENTS)
    return ClipRecord(**values, video=video, audio=audio)


def _listed(column: pa.Array, row: int) -> tuple[tuple[Any, ...], ...]:
    """A row of a column of lists, as tuples. Column by column: an object for each value takes several times as long."""
    structs = column[row].values
    if structs is None or structs.null_count:
        raise ValueError(f"row {row}: a list, or an entry of one, is missing")
    columns = [field.to_pylist() for field in structs.flatten()]
    if any(None in values for values in columns):
        raise ValueError(f"row {row}: a value in a list is missing")
    return tuple(zip(*columns, strict=True))


def latents_at(column: pa.Array, row: int) -> np.ndarray | None:
    """A row of a column of latents, where it is."""
    if isinstance(column, pa.FixedShapeTensorArray):
        if not column[row].is_valid:
            return None
        size, storage = prod(column.type.shape), column.storage
        flat = storage.values.to_numpy(zero_copy_only=True)
        start = (storage.offset + row) * size
        return flat[start : start + size].reshape(column.type.shape)
    if not column[row].is_valid:
        return None
    shape = column[row]["shape"].as_py()
    numbers = column[row]["data"].values
    if shape is None or numbers is None or None in shape or min(shape) < 1 or prod(shape) != len(numbers):
        raise ValueError(f"row {row}: {0 if numbers is None else len(numbers)} numbers have not the shape {shape}")
    return numbers.to_numpy(zero_copy_only=True).reshape(shape)
