"""The commit of a job goes through its receipts as a stream: in order, complete, and without holding its clips."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.format import clip_table
from mutual_forcing.datasets.format.account import SOURCES, SourceLine, read_account, write_lines
from mutual_forcing.datasets.format.clip_table import (
    CLIPS,
    GROUP,
    ClipRow,
    clips_in,
    measures_in,
    place_of,
    read_clips,
    write_clips,
    write_rows,
)
from mutual_forcing.datasets.format.parts import Outcome, Receipt, Receipts, ShardEntry
from mutual_forcing.datasets.intake.sources import Source
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.preparing.commit import described, lines_of, rows_of
from mutual_forcing.datasets.preparing.look import Looked
from mutual_forcing.datasets.preparing.spread import Rows

CLIPS_A_SOURCE = 20


def name(number: int) -> str:
    return f"{number:06d}.mp4"


def source(number: int) -> Source:
    return Source(name(number), f"/media/{name(number)}", "1")


def receipt(part: int, numbers: range) -> Receipt:
    """Of sources with as many clips each, the last of them first."""
    shard = f"shard-{part}.arrow"
    rows = [
        ClipRow(hashlib.sha256(f"{n} {k}".encode()).hexdigest()[:16], name(n), float(k), 1, shard, 0, "", (("motion", 1.0),))
        for n in numbers
        for k in reversed(range(CLIPS_A_SOURCE))
    ]
    return Receipt(tuple(Outcome(name(n), clips=CLIPS_A_SOURCE) for n in numbers), tuple(rows), (ShardEntry(shard, len(rows), 1, "0"),))


def receipts(parts: int, sources: int = 10) -> Receipts:
    """Of parts that were finished in the order from the last to the first."""
    made = Receipts([f"part-{part:04d}" for part in range(parts)])
    for part in reversed(range(parts)):
        made.add(f"part-{part:04d}", receipt(part, range(part * sources, (part + 1) * sources)).to_json())
    return made


def commit(folder: Path, made: Receipts, count: int, account: dict[str, SourceLine], table: Path | None = None) -> None:
    store, sources = LocalStore(folder), [source(n) for n in range(count)]
    looked = {s.name: Looked(content=s.name) for s in sources}
    described(DataConfig(media="x"), ({}, {}), lines_of(sources, looked, made, account), made, None)
    write_lines(store, SOURCES, lines_of(sources, looked, made, account))
    write_rows(store, CLIPS, rows_of(made, clips_in(table) if table else ()), {"motion", *(measures_in(table) if table else ())})


def test_account_and_table_come_in_order_and_whole(tmp_path: Path) -> None:
    before = [SourceLine(f"{n:06d}.mkv", "used", clips=1) for n in range(0, 60, 7)]
    account = {line.path: line for line in before} | {name(3): SourceLine(name(3), "refused", reason="damaged", attempts=2)}
    old = [ClipRow(f"old {n}", line.path, 0.0, 1, "shard-old.arrow", n, "", (("loudness_db", -20.0),)) for n, line in enumerate(before)]
    write_clips(LocalStore(tmp_path), "before.parquet", old)
    commit(tmp_path, receipts(3), 30, account, tmp_path / "before.parquet")
    lines = read_account(tmp_path / SOURCES)
    assert [line.path for line in lines] == sorted([*(line.path for line in before), *map(name, range(30))])
    assert {line.path: line.attempts for line in lines if line.attempts > 1} == {name(3): 3}
    assert all(line.clips == (1 if line.path.endswith("mkv") else CLIPS_A_SOURCE) for line in lines)
    rows = read_clips(tmp_path / CLIPS)
    assert all(place_of(a) < place_of(b) for a, b in pairwise(rows))
    assert {row.clip_id: row for row in rows} == {row.clip_id: row for row in (*old, *(row for r in receipts(3) for row in r.clips))}


def test_a_source_that_was_refused_at_once_has_no_outcome(tmp_path: Path) -> None:
    sources = [source(n) for n in range(20)]
    looked = {s.name: Looked(content=s.name) for s in sources} | {name(4): Looked("probe", "the file is empty")}
    made = Receipts(["0"])
    whole = receipt(0, range(20))
    made.add("0", replace(whole, outcomes=tuple(o for o in whole.outcomes if o.name != name(4))).to_json())
    lines = list(lines_of(reversed(sources), looked, made, {}))
    assert [line.path for line in lines] == [s.name for s in sources]
    assert {line.path: line.reason for line in lines if not line.used} == {name(4): "the file is empty"}
    made.add("0", replace(whole, outcomes=whole.outcomes[::-1]).to_json())
    with pytest.raises(AssertionError, match="out of order"):
        list(lines_of(sources, looked, made, {}))


def test_memory_does_not_grow_with_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_table, "GROUP", 128)
    peaks = []
    for parts in (4, 12):
        made = receipts(parts)
        tracemalloc.start()
        commit(tmp_path / str(parts), made, 10 * parts, {})
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 80 < 2000, "bytes a source, of what is known without its clips: each of these takes 500 and more"


def test_a_table_has_as_many_groups_as_it_needs(tmp_path: Path) -> None:
    rows = [ClipRow(f"{n:06d}", "a.mp4", float(n), 1, "shard-a.arrow", n) for n in range(GROUP + 1)]
    write_rows(LocalStore(tmp_path), CLIPS, iter(rows), ())
    assert list(clips_in(tmp_path / CLIPS)) == rows


def test_rows_are_made_when_they_are_asked_for() -> None:
    made = list[int]()
    rows = Rows([1, 2, 3], lambda n: made.append(n) or {"n": n})
    assert (len(rows), made) == (3, [])
    assert rows[1] == {"n": 2}
    assert list(rows[1:]) == [{"n": 2}, {"n": 3}]
    assert made == [2, 2, 3]
