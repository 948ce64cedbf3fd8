"""Shards of clips of any shape, with one modality or both, of this release and of the first; and files that claim to be shards."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.format import shards
from mutual_forcing.datasets.format.records import WORD, ClipRecord, checksum, shapes_of
from mutual_forcing.datasets.format.shards import INDEX, INDEX_CRC, Shard, write_shard

VIDEO, AUDIO = (7, 5, 4, 4), (32, 6)


def record(index: int, video: tuple[int, ...] | None = VIDEO, audio: tuple[int, ...] | None = AUDIO) -> ClipRecord:
    rng = np.random.default_rng(index)
    one, two = (None if s is None else rng.standard_normal(s).astype(np.float16) for s in (video, audio))
    words = tuple((f"wörd{i}", i / 3, i / 3 + 0.1) for i in range(index % 4))
    found = (("lag_ms", -80.5), ("loudness_db", float("-inf")), ("motion", float("nan")))[: index % 4]
    tags = (("speaker", "猫"), ("licence", ""))[: index % 3]
    return ClipRecord(f"clip-{index}", f"/größe {index}.mp4", index / 7, one, two, f"caption {index}", words, "ab" * 32, tags, found)


def same(a: ClipRecord, b: ClipRecord) -> bool:
    texts = [str(replace(x, video=None, audio=None)) for x in (a, b)]  # NaN is not NaN
    return texts[0] == texts[1] and all(
        (x is None) == (y is None) and (x is None or y is None or (x.dtype == y.dtype == np.float16 and np.array_equal(x, y)))
        for x, y in ((a.video, b.video), (a.audio, b.audio))
    )


@st.composite
def clips(draw: st.DrawFn) -> list[ClipRecord]:
    def shape(dims: int) -> st.SearchStrategy[tuple[int, ...] | None]:
        return st.none() | st.tuples(*[st.integers(1, 3)] * dims)

    count, alike = draw(st.integers(1, 9)), draw(st.booleans())
    shapes = draw(st.lists(st.tuples(shape(4), shape(2)).filter(any), min_size=count, max_size=count))
    return [record(i, *shapes[0 if alike else i]) for i in range(count)]


@given(rows=clips(), most=st.sampled_from([1, 100, 2**19]))
def test_any_clips_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, rows: list[ClipRecord], most: int) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BATCH_BYTES", most)
        write_shard(path, iter(rows))
    shard = Shard(path)
    assert shard.clip_ids == [r.clip_id for r in rows]
    assert all(same(shard.row(i), r) for i, r in enumerate(rows))
    assert shard.index.checksums == tuple(checksum(shard.row(i)) for i in range(len(rows)))
    assert shard.index.shapes == tuple(map(shapes_of, rows))
    for index in (-1, len(rows), 2**63):
        with pytest.raises(ValueError, match=rf"a\.arrow: has {len(rows)} rows, no row {index}; prepare"):
            shard.row(index)


@given(rows=clips())
def test_a_shard_is_read_with_pyarrow_alone(tmp_path_factory: pytest.TempPathFactory, rows: list[ClipRecord]) -> None:
    path = tmp_path_factory.mktemp("shard") / "a.arrow"
    write_shard(path, rows)
    with pa.ipc.open_file(str(path)) as plain:
        table = plain.read_all()
    assert table["found"].to_pylist() == [list(r.found) for r in rows] or any("motion" in dict(r.found) for r in rows)
    assert table["tags"].to_pylist() == [list(r.tags) for r in rows]
    assert table["content"].to_pylist() == [r.content for r in rows]
    for name in ("video", "audio"):
        arrays = [r.latents(name) for r in rows]
        if all(x is None for x in arrays):
            assert name not in table.column_names
        elif isinstance(kind := table.schema.field(name).type, pa.FixedShapeTensorType):
            assert {x.shape for x in arrays if x is not None} == {tuple(kind.shape)}
        else:
            for told, x in zip(table[name].to_pylist(), arrays, strict=True):
                assert (told is None) == (x is None)
                assert x is None or np.array_equal(np.array(told["data"], np.float16).reshape(told["shape"]), x)


@pytest.mark.parametrize("change", ["clip_id", "source", "content", "caption", "start_s", "words", "tags", "found", "video", "audio"])
def test_a_checksum_is_of_everything(change: str) -> None:
    one = record(7)
    values = {"start_s": 9.0, "words": (("a", 0.0, 1.0),), "tags": (), "found": (("lag_ms", 1.0),)}
    values |= {m: np.nextafter(one.get(m), np.float16(9)) for m in ("video", "audio")}
    other = replace(one, **{change: values.get(change, "other")})
    assert checksum(one) == checksum(replace(one)) != checksum(other)


def first_release(path: Path, rows: Sequence[ClipRecord]) -> None:
    """A shard as the first release wrote it: one batch, no index, no columns of what it did not know."""
    video, audio = (pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack([r.get(m) for r in rows])) for m in ("video", "audio"))
    columns = {name: pa.array([getattr(r, name) for r in rows]) for name in ("clip_id", "source", "start_s")}
    words = pa.array([[{"word": w, "start": s, "end": e} for w, s, e in r.words] for r in rows], pa.list_(WORD))
    table = pa.table(columns | {"video": video, "audio": audio, "caption": pa.array([r.caption for r in rows]), "words": words})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def test_a_shard_of_the_first_release_is_read(tmp_path: Path) -> None:
    rows = [record(i) for i in range(5)]
    first_release(tmp_path / "a.arrow", rows)
    shard = Shard(tmp_path / "a.arrow")
    assert [same(shard.row(i), replace(r, content="", tags=(), found=())) for i, r in enumerate(rows)] == [True] * 5
    assert shard.clip_ids == [r.clip_id for r in rows]
    assert shard.index.shapes == ((VIDEO, AUDIO),) * 5
    assert shard.index.checksums is None


def test_a_writer_holds_the_clips_once_and_a_batch_beyond_them(tmp_path: Path) -> None:
    script = f"""
import sys, tracemalloc
from pathlib import Path
import numpy as np, pyarrow as pa
from mutual_forcing.datasets.format.shards import ClipRecord, write_shard
pa.set_memory_pool(pa.system_memory_pool())
def clips(count, side):
    return (ClipRecord(str(i), "s", 0.0, np.ones((1024, 4, side, side), np.float16), None, "", ()) for i in range(count))
write_shard(Path({str(tmp_path / "a.arrow")!r}), clips(1, 1))  # pyarrow imports pandas when it is first asked for an array
tracemalloc.start()
write_shard(Path({str(tmp_path / "a.arrow")!r}), clips(32, 16))
print(tracemalloc.get_traced_memory()[1], pa.default_memory_pool().max_memory())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    arrays, arrow = map(int, done.stdout.split())
    assert arrays < 32 * 2**21 + 2**23
    assert arrow < 2**23


def test_a_row_is_read_without_the_rest_of_its_file(tmp_path: Path) -> None:
    rows = [record(i, video=(4, 16, 16, 16)) for i in range(64)]
    write_shard(tmp_path / "a.arrow", rows)
    assert len(Shard(tmp_path / "a.arrow").index.batches) == 5
    before = pa.total_allocated_bytes()
    row = Shard(tmp_path / "a.arrow").row(50)
    assert pa.total_allocated_bytes() - before < 20_000
    assert same(row, rows[50])


def rewritten(path: Path, change: Callable[[pa.Table], pa.Table], options: pa.ipc.IpcWriteOptions | None = None) -> None:
    with pa.ipc.open_file(str(path)) as plain:
        table = change(plain.read_all())
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)


def with_column(name: str, column: pa.Array | pa.ChunkedArray) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, column)


def listed(shapes: list[list[int] | None], sizes: list[int]) -> pa.Array:
    ends = pa.array(np.cumsum([0, *sizes]).astype(np.int32))
    data = pa.ListArray.from_arrays(ends, pa.array(np.ones(sum(sizes), np.float16)))
    shape = pa.array(shapes, pa.list_(pa.int32(), 4))
    return pa.StructArray.from_arrays([data, shape], names=["data", "shape"])


def without_index(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(None)


WRONG: list[tuple[str, Callable[[pa.Table], pa.Table], str]] = [
    ("a column less", lambda t: t.drop_columns(["words"]), "not of clips .*'words' stands in it 0 times"),
    ("a column twice", lambda t: t.append_column("words", t["words"]), "'words' stands in it 2 times"),
    ("no latents", lambda t: t.drop_columns(["video", "audio"]), "neither a column 'video' nor 'audio'"),
    ("numbers for ids", with_column("clip_id", pa.array([1, 2, 3])), "'clip_id' is int64, not string"),
    (
        "double latents",
        with_column("video", pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((3, 2, 2)))),
        "no tensors of 16-bit floats",
    ),
    ("plain numbers", with_column("video", pa.array([1.0, 2.0, 3.0])), "no tensors of 16-bit floats"),
    ("no id", lambda t: without_index(with_column("clip_id", pa.array(["a", None, "b"]))(t)), "a clip has no id"),
    ("a shape of others", lambda t: without_index(with_column("video", listed([[1, 1, 1, 4]] * 3, [4, 4, 3]))(t)), "have not the shape"),
    ("a negative shape", lambda t: without_index(with_column("video", listed([[-1, -1, 1, 4]] * 3, [4] * 3))(t)), "have not the shape"),
    ("an absurd shape", lambda t: without_index(with_column("video", listed([[2**31 - 1] * 4] * 3, [4] * 3))(t)), "have not the shape"),
    ("an index of others", lambda t: t.slice(0, 2), "index is of other batches"),
]


@pytest.mark.parametrize(("change", "reason"), [pytest.param(c, r, id=i) for i, c, r in WRONG])
def test_a_file_that_is_no_shard_is_refused_by_name(tmp_path: Path, change: Callable[[pa.Table], pa.Table], reason: str) -> None:
    path = tmp_path / "a.arrow"
    write_shard(path, [record(i) for i in range(3)])
    rewritten(path, lambda table: table)
    assert len(Shard(path)) == 3
    rewritten(path, change)
    with pytest.raises(ValueError, match=rf"a\.arrow: .*{reason}") as refused:
        Shard(path)
    assert "\n" not in str(refused.value)


def test_compressed_batches_are_refused_for_nobody_knows_how_large_they_become(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_shard(path, [record(i) for i in range(3)])
    rewritten(path, lambda table: table, pa.ipc.IpcWriteOptions(compression="zstd"))
    with pytest.raises(ValueError, match="compressed"):
        Shard(path)


@pytest.mark.parametrize(
    "told", ["[]", "{", '{"clip_ids":["a"]}', '{"clip_ids":["a"],"shapes":[[[1e99],null]],"shape":[0],"crc32":[0],"batches":[1]}']
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, told: str) -> None:
    path = tmp_path / "a.arrow"
    write_shard(path, [record(0)])
    for crc, reason in ((str(zlib.crc32(told.encode())), "index is none"), ("0", "index is damaged")):
        rewritten(path, lambda table, crc=crc: table.replace_schema_metadata({INDEX: told.encode(), INDEX_CRC: crc.encode()}))
        with pytest.raises(ValueError, match=reason):
            Shard(path)
    counts = {"clip_ids": ["a"], "shapes": [[None, [1, 1]]], "shape": [0], "crc32": [0], "batches": [2]}
    text = json.dumps(counts).encode()
    rewritten(path, lambda table: table.replace_schema_metadata({INDEX: text, INDEX_CRC: str(zlib.crc32(text)).encode()}))
    with pytest.raises(ValueError, match="counts different numbers of rows"):
        Shard(path)


DAMAGE = """
import random, sys
from pathlib import Path
from mutual_forcing.datasets.format.shards import Shard
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
random.seed(seed)
ends = [b"\\xff" * 8, b"\\xff" * 7 + b"\\x7f", bytes(8), b"\\0\\0\\0\\x80", b"\\xff\\xff\\xff\\x7f", b"\\1\\0\\0\\0"]
read = refused = 0
for original in sorted(folder.glob("*.arrow")):
    whole, path = original.read_bytes(), folder / "damaged"
    for _ in range(int(sys.argv[3])):
        content = bytearray(whole)
        for _ in range(random.choice([1, 1, 2, 4])):
            at = random.randrange(len(content))
            put = random.choice([*ends, bytes([content[at] ^ 1 << random.randrange(8)])])
            content[at : at + len(put)] = put
        path.write_bytes(content[: len(whole)])
        try:
            shard = Shard(path)
            for i in range(len(shard)):
                row = shard.row(i)
                for x in (row.video, row.audio):
                    _ = x is None or x.sum()
            read += 1
        except ValueError as error:
            assert str(path) in str(error) and "\\n" not in str(error), error
            refused += 1
print(read, refused)
"""


def test_no_damage_does_more_than_refuse_the_file(tmp_path: Path) -> None:
    """In a process of its own: a reader that trusts an offset would take it down."""
    write_shard(tmp_path / "fixed.arrow", [record(i, (2, 2, 2, 2), (3, 2)) for i in range(4)])
    write_shard(tmp_path / "listed.arrow", [record(i, None if i == 2 else (1 + i, 2, 2, 2), (3, 2)) for i in range(4)])
    first_release(tmp_path / "first.arrow", [record(i, (2, 2, 2, 2), (3, 2)) for i in range(4)])
    command = [sys.executable, "-W", "ignore", "-c", DAMAGE, str(tmp_path), "1", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused = map(int, done.stdout.split())
    assert read + refused == 600
    assert min(read, refused) > 100
