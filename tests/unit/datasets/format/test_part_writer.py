"""Clips of a part into shards: a source counts when it was accepted, a long one does not fill the memory, and every clip has its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.datasets.format.part_writer import PartWriter, joined
from mutual_forcing.datasets.format.parts import Part
from mutual_forcing.datasets.format.shards import ClipRecord, Shard
from mutual_forcing.datasets.places import scratch
from mutual_forcing.datasets.places.storage import sha256_file
from mutual_forcing.datasets.places.store import LocalStore

FULL = 3000  # bytes of a shard here: a clip takes 1040


def clip(name: str, source: str = "a.mp4") -> ClipRecord:
    value = int(name.split("-")[-1])
    return ClipRecord(name, source, float(value), np.full((4, 8, 4, 4), value, np.float16), np.full((8, 1), value, np.float16), "", ())


def shards_in(folder: Path) -> dict[str, list[ClipRecord]]:
    shards = {path.name: Shard(path) for path in sorted(folder.glob("shard-*"))}
    return {name: [shard.row(i) for i in range(len(shard))] for name, shard in shards.items()}


@settings(max_examples=40, deadline=None)
@given(sources=st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=6))
def test_accepted_sources_stand_in_shards_in_their_order_and_others_nowhere(
    tmp_path_factory: pytest.TempPathFactory, sources: list[tuple[int, bool]]
) -> None:
    folder, wanted = tmp_path_factory.mktemp("part"), list[str]()
    writer = PartWriter(LocalStore(folder), Part("0", ()), FULL)
    for number, (count, good) in enumerate(sources):
        clips = [f"clip-{number}-{i}" for i in range(count)]
        for name in clips:
            writer.add(clip(name, f"{number}.mp4"), 2, "seen")
        if good:
            writer.accept((("drift_ms", float(number)),))
            wanted += clips
        else:
            writer.reject()
    writer.close()
    there = shards_in(folder)
    assert [record.clip_id for records in there.values() for record in records] == wanted
    for record in (record for records in there.values() for record in records):
        number, value = record.clip_id.split("-")[1:]
        assert record.found == (("drift_ms", float(number)),)
        assert record.video is not None
        assert np.unique(record.video).tolist() == [float(value)]
    assert [(row.shard, row.row, row.clip_id, row.chunks, row.fingerprint) for row in writer.rows] == [
        (name, i, record.clip_id, 2, "seen") for name, records in there.items() for i, record in enumerate(records)
    ]
    assert [entry.file for entry in writer.shards] == list(there)
    for entry in writer.shards:
        path = folder / entry.file
        assert (entry.rows, entry.bytes, entry.sha256) == (len(there[entry.file]), path.stat().st_size, sha256_file(path))
    assert bool(writer.columns) == bool(wanted)


def test_a_long_source_lies_on_the_disk_until_it_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(scratch.tempfile, "tempdir", str(tmp_path))
    writer = PartWriter(LocalStore(tmp_path / "out"), Part("0", ()), FULL)
    for i in range(10):
        writer.add(clip(f"clip-{i}"), 2)
        assert len(writer._pending) < 3
    assert not shards_in(tmp_path / "out"), "nothing counts yet"
    assert len(list(tmp_path.glob("mf-scratch-*/*.arrow"))) == 3
    writer.reject()
    writer.close()
    assert not shards_in(tmp_path / "out")
    assert not list(tmp_path.glob("mf-scratch-*")), "and nothing is left"


def test_a_column_of_several_types_has_them_all() -> None:
    fixed, free = {"a": "int", "video": "fixed"}, {"b": "int", "video": "list"}
    both = {"a": "int", "b": "int", "video": "fixed or list"}
    assert joined(fixed, free) == joined(free, fixed) == both
    assert joined(both, fixed) == both
    assert joined({}, fixed) == fixed
