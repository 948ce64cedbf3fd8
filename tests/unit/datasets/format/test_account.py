"""The account of sources and the table of clips: what is written is read, and what a stranger wrote is refused by name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mutual_forcing.datasets.format.account import LeftOut, SourceLine, read_account, write_account
from mutual_forcing.datasets.format.clip_table import ClipRow, measured, read_clips, write_clips
from mutual_forcing.datasets.places.store import LocalStore

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.floats(-1e6, 1e6)
pairs = st.dictionaries(words, numbers, max_size=3).map(lambda d: tuple(d.items()))
lines = st.builds(
    SourceLine,
    path=words,
    status=st.sampled_from(["used", "refused"]),
    reason=words,
    said=words,
    left_out=st.lists(st.builds(LeftOut, numbers, words), max_size=2).map(tuple),
    av_offset_ms=st.none() | numbers,
    timing=pairs,
    tags=st.dictionaries(words, words, max_size=2).map(lambda d: tuple(d.items())),
)
measures = st.dictionaries(st.sampled_from(["loudness_db", "motion", "lag_ms"]), numbers, max_size=3).map(
    lambda d: tuple(sorted(d.items()))
)
rows = st.builds(
    ClipRow, clip_id=words, source=words, start_s=numbers, chunks=st.integers(1, 9), shard=words, row=st.integers(0, 9), found=measures
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(lines, max_size=4), st.lists(rows, max_size=4))
def test_what_is_written_is_read(tmp_path: Path, some: list[SourceLine], clips: list[ClipRow]) -> None:
    store = LocalStore(tmp_path)
    write_account(store, "sources.jsonl", some)
    write_clips(store, "clips.parquet", clips)
    assert read_account(tmp_path / "sources.jsonl") == sorted(some, key=lambda line: line.path)
    assert sorted(read_clips(tmp_path / "clips.parquet"), key=repr) == sorted(clips, key=repr)


def test_measures_are_those_of_the_clips_that_have_them(tmp_path: Path) -> None:
    clips = [ClipRow("a", "s", 0.0, 1, "x", 0, found=(("motion", 3.0),)), ClipRow("b", "s", 1.0, 1, "x", 1)]
    write_clips(LocalStore(tmp_path), "clips.parquet", clips)
    found = read_clips(tmp_path / "clips.parquet")
    assert (measured(found, "motion"), measured(found, "lag_ms")) == ([3.0], [])


@pytest.mark.parametrize(
    "content", ["{", "[]\n", '{"path": 3}\n', '{"path": "a", "status": "used", "left_out": [3], "timing": {}, "tags": {}}\n']
)
def test_a_damaged_account_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "sources.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"account of sources: .*sources\.jsonl cannot be read"):
        read_account(tmp_path / "sources.jsonl")
    with pytest.raises(ValueError, match="No such file"):
        read_account(tmp_path / "absent.jsonl")


def test_a_strange_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clips.parquet"
    path.write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(ValueError, match=r"table of clips: .*cannot be read"):
        read_clips(path)
    pq.write_table(pa.table({"clip_id": [1]}), path)
    with pytest.raises(ValueError, match="its columns are others"):
        read_clips(path)
