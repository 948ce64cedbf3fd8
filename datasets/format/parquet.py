"""A prepared dataset as Parquet, for tools that know nothing of this program: pyarrow, pandas, DuckDB.

One file a shard, one row a clip. Latents are bytes: float16 or bfloat16, as the metadata say, little-endian, in C order, of the shape
beside them. As numbers Parquet would keep each in four bytes or more, and write them several times slower.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..places.storage import make_folder, sync
from ..progress import Progress, silent
from .manifest import MANIFEST, read_manifest
from .records import LATENTS, LATER, REQUIRED, ClipRecord, kind_of
from .shards import Shard
from .sixteen_bits import KEPT

GROUP_BYTES = 64 * 2**20  # of latents in a row group, which a reader may have to hold
TEXTS = {name: kind for name, kind in (REQUIRED | LATER).items() if pa.types.is_string(kind)}
SCHEMA = pa.schema(
    [
        *(REQUIRED | LATER).items(),
        ("split", pa.string()),
        *(column for name in LATENTS for column in ((name, pa.large_binary()), (f"{name}_shape", pa.list_(pa.int32())))),
    ]
)


def export_parquet(folder: Path, out: Path, progress: Progress = silent) -> int:
    """Write a dataset's clips as Parquet files into the folder `out`, which comes into being whole or not at all, with a copy of the
    manifest. Returns the number of clips. A column `split` has "train" or "held_out".

    Raises:
        ValueError: the folder holds no finished dataset, a shard is damaged, or there is something in `out` already.
    """
    manifest = read_manifest(folder, progress=progress)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"--out={str(out)!r}: there is something already; choose another folder, or remove it")
    held_out, parent, clips = set(manifest.held_out), make_folder("--out", out.parent), 0
    made = parent / f".{out.name}.{os.getpid()}.tmp"
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir()
        for done, entry in enumerate(manifest.shards):
            progress("export shards", done, len(manifest.shards))
            shard = Shard(folder / entry.file)
            records = [record for record in map(shard.row, range(len(shard))) if record.clip_id not in manifest.dropped]
            clips += len(records)
            if records:
                _write(made / f"{Path(entry.file).stem}.parquet", records, held_out)
        progress("export shards", len(manifest.shards), len(manifest.shards))
        shutil.copyfile(folder / MANIFEST, made / f"_{MANIFEST}")  # readers of a folder pass over such names
        for path in (*made.iterdir(), made):
            sync(path)
        os.replace(made, out)  # an empty folder may be there
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return clips


def _write(path: Path, records: Sequence[ClipRecord], held_out: set[str]) -> None:
    kind = next(name for name, kept in KEPT.items() if kept == kind_of(records))
    schema = SCHEMA.with_metadata({"latents": f"{kind}, little-endian, C order"})
    texts = [name for name in SCHEMA.names if name not in LATENTS]
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": list(TEXTS), "write_statistics": texts}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for group in _groups(records):
            rows = {name: [getattr(r, name) for r in group] for name in (*REQUIRED, *LATER) if name != "words"}
            rows["words"] = [[{"word": w, "start": s, "end": e} for w, s, e in r.words] for r in group]
            rows["split"] = ["held_out" if r.clip_id in held_out else "train" for r in group]
            for name in LATENTS:
                rows[name] = [_bytes(r.latents(name)) for r in group]
                rows[f"{name}_shape"] = [None if (x := r.latents(name)) is None else list(x.shape) for r in group]
            writer.write_table(pa.table(rows, schema))


def _groups(records: Iterable[ClipRecord]) -> Iterator[list[ClipRecord]]:
    group, size = list[ClipRecord](), 0
    for record in records:
        group.append(record)
        size += record.nbytes
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _bytes(latents: np.ndarray | None) -> bytes | None:
    return None if latents is None else latents.astype(latents.dtype.newbyteorder("<"), copy=False).tobytes()
