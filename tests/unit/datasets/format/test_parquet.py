"""A dataset for others: what pyarrow and pandas read of the export is what the shards hold."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
from dataset_material import make_dataset

from mutual_forcing.datasets.format import parquet
from mutual_forcing.datasets.format.manifest import ShardEntry, read_manifest
from mutual_forcing.datasets.format.parquet import export_parquet
from mutual_forcing.datasets.format.shards import ClipRecord, write_shard
from mutual_forcing.datasets.places.storage import sha256_file


def record(i: int) -> ClipRecord:
    rng = np.random.default_rng(i)
    video = None if i % 4 == 1 else rng.standard_normal((2 + i % 3, 2, 3, 3)).astype(np.float16)
    audio = rng.standard_normal((5, 2)).astype(np.float16)
    words = tuple((f"w{k}", k / 3, k / 2) for k in range(i % 3))
    tags, found = (("speaker", "猫"),), (("lag_ms", -80.5),)
    return ClipRecord(f"clip-{i}", f"ä {i}.mp4", i / 7, video, audio, f"caption {i}", words, "c" * 64, tags, found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made, entries = make_dataset(tmp_path / "mine"), []
    for n in range(2):
        path = tmp_path / "mine" / f"shard-{n}.arrow"
        write_shard(path, [record(i) for i in range(6 * n, 6 * n + 6)])
        entries.append(ShardEntry(path.name, 6, path.stat().st_size, sha256_file(path)))
    replace(made, shards=tuple(entries), held_out=("clip-3",), clips=12).write(tmp_path / "mine")
    return tmp_path / "mine"


def test_pyarrow_and_pandas_read_what_the_shards_hold(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "GROUP_BYTES", 2 * record(0).nbytes)
    out = tmp_path / "new" / "parquet"
    assert export_parquet(folder, out) == 12
    assert sorted(p.name for p in out.iterdir()) == ["_manifest.json", "shard-0.parquet", "shard-1.parquet"]
    assert pq.ParquetFile(out / "shard-0.parquet").num_row_groups > 1
    assert pq.read_table(out).num_rows == 12
    table = pandas.read_parquet(out)
    for i in range(12):
        row: dict[str, Any] = {name: table[name].iloc[i] for name in table.columns}
        wanted = record(i)
        for name in ("clip_id", "source", "content", "start_s", "caption"):
            assert row[name] == getattr(wanted, name)
        assert row["split"] == ("held_out" if i == 3 else "train")
        assert [tuple(w.values()) for w in row["words"]] == list(wanted.words)
        assert (dict(row["tags"]), dict(row["found"])) == (dict(wanted.tags), dict(wanted.found))
        for name in ("video", "audio"):
            x = wanted.latents(name)
            assert (row[name] is None) == (x is None)
            assert x is None or np.array_equal(np.frombuffer(row[name], "<f2").reshape(row[f"{name}_shape"]), x)


def test_a_failed_export_leaves_nothing_and_a_folder_in_use_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shard = (folder / "shard-1.arrow").read_bytes(), folder / "shard-1.arrow"

    def fail(*_: object) -> bytes:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parquet, "_bytes", fail)
        with pytest.raises(OSError, match="No space"):
            export_parquet(folder, tmp_path / "out")
    shard.write_bytes(whole[:-100] + bytes(100))
    with pytest.raises(ValueError, match="is damaged"):
        export_parquet(folder, tmp_path / "out")
    shard.write_bytes(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]
    (tmp_path / "out").mkdir()
    export_parquet(folder, tmp_path / "out")
    assert asdict(read_manifest(folder))["clips"] == 12
    with pytest.raises(ValueError, match="there is something already"):
        export_parquet(folder, tmp_path / "out")
