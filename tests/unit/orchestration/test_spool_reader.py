"""A spool is followed while it grows, is begun again, or is torn: each whole line once."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.orchestration.spool_reader import SpoolReader
from mutual_forcing.workers.metrics import MetricSpool


def taken(reader: SpoolReader) -> list[bytes]:
    lines = reader.pending()
    reader.confirm(lines)
    return lines


def test_what_is_not_there_yet_has_no_lines(tmp_path: Path) -> None:
    assert SpoolReader(tmp_path / "joint.jsonl").pending() == []


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(0, 3))
def test_whatever_the_pieces_each_line_comes_once(tmp_path_factory, pieces: list[int], confirmed: int) -> None:
    path = tmp_path_factory.mktemp("spool") / "joint.jsonl"
    reader, written, read = SpoolReader(path), b"", []
    for i, size in enumerate(pieces):
        piece = b"".join(b"%d%s\n" % (i, b"x" * k) for k in range(size)) + b"torn"
        with path.open("ab") as file:
            file.write(piece)
        written += piece
        lines = reader.pending()[: 1 + confirmed]
        reader.confirm(lines)
        read += lines
    assert b"".join([*read, *reader.pending()]) == written.removesuffix(b"torn")


def test_a_spool_begun_again_is_read_from_its_start(tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path / "joint.jsonl")
    first = MetricSpool(tmp_path, "joint")
    for step in range(5):
        first.write(step, {"loss": 1.0})
    assert len(taken(reader)) == 5
    second = MetricSpool(tmp_path, "joint")  # the same file, emptied
    assert taken(reader) == []
    second.write(0, {"loss": 2.0})
    assert [b'"step": 0' in line for line in taken(reader)] == [True]
    second.write(1, {"loss": 2.0})
    assert [b'"step": 1' in line for line in taken(reader)] == [True]


def test_a_spool_begun_again_and_grown_longer_between_two_looks_is_read_from_its_start(tmp_path: Path) -> None:
    reader = SpoolReader(tmp_path / "joint.jsonl")
    for attempt, steps in ((1, 3), (2, 7)):
        spool = MetricSpool(tmp_path, "joint")
        for step in range(steps):
            spool.write(step, {"loss": float(attempt)})
        assert len(taken(reader)) == steps
