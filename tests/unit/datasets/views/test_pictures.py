"""A dataset to be looked at: clips are found as its table says, whoever wrote that."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_material import make_dataset
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.format.clip_table import CLIPS, ClipRow, read_clips, write_clips
from mutual_forcing.datasets.format.manifest import read_manifest
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.views.pictures import Records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder, clips=3, shards=2, sources=("a.mp4", "b.mp4"))
    (folder / "shard-2.arrow").write_bytes((folder / "shard-1.arrow").read_bytes())  # that no manifest names
    return folder


def test_clips_are_where_the_table_says(folder: Path) -> None:
    records = Records(LocalStore(folder), read_manifest(folder))
    rows = read_clips(folder / CLIPS)
    assert [records.at(row).clip_id for row in rows] == [row.clip_id for row in rows]


SHARDS = st.sampled_from(["shard-0.arrow", "shard-1.arrow", "shard-2.arrow", "../a", "/etc/passwd", "manifest.json", "a\0b"]) | st.text()
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 2**31 - 1, -(2**31)])


@given(shard=SHARDS, row=NUMBERS, chunks=NUMBERS, start=st.floats(), clip=st.sampled_from([0, 3]))
def test_a_hostile_table_leads_to_no_other_clip(folder: Path, shard: str, row: int, chunks: int, start: float, clip: int) -> None:
    store, manifest = LocalStore(folder), read_manifest(folder, verify=False)
    true = read_clips(folder / CLIPS)[clip]
    write_clips(store, "other.parquet", [ClipRow(true.clip_id, "a.mp4", start, chunks, shard, row)])
    (read,) = read_clips(folder / "other.parquet")
    if (shard, row) == (true.shard, true.row):
        assert Records(store, manifest).at(read).clip_id == true.clip_id
        return
    with pytest.raises(ValueError, match=r"; prepare the data again$") as told:
        Records(store, manifest).at(read)
    assert len(str(told.value)) < 400
