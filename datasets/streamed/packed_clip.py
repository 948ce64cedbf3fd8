"""A clip as bytes, and back: an Arrow stream of one record, as shards hold it."""

from __future__ import annotations

import pyarrow as pa

from ..format.records import ClipRecord, batch_of, fault_of, fields_of, kind_of, record_at, shapes_of


def pack_clip(record: ClipRecord) -> bytes:
    schema = pa.schema(fields_of([shapes_of(record)], kind_of([record])))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch_of([record], schema))
    return sink.getvalue().to_pybytes()


def unpack_clip(packed: pa.Buffer | bytes) -> ClipRecord:
    """What `pack_clip` made; its latents stay where the bytes are.

    Raises:
        ValueError: it is no clip.
    """
    try:
        with pa.ipc.open_stream(packed) as reader:
            if fault := fault_of(reader.schema):
                raise ValueError(fault)
            batch = reader.read_next_batch()
            batch.validate(full=True)
            return record_at(batch, 0)
    except (pa.ArrowException, OSError, StopIteration, IndexError) as error:
        raise ValueError(f"clip that came through Ray Data: damaged ({error})") from error
