"""A spool is followed while it grows, is begun again, or is torn: each whole line once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
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


def line(step: int, pad: int = 0) -> bytes:
    return json.dumps({"step": step, "time": 0.5, "metrics": {"loss": 1.0}, "pad": "x" * pad}).encode() + b"\n"


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(0, 3))
def test_whatever_the_pieces_each_line_comes_once(tmp_path_factory, pieces: list[int], confirmed: int) -> None:
    path = tmp_path_factory.mktemp("spool") / "joint.jsonl"
    reader, read, step = SpoolReader(path), [], 0
    for size in pieces:
        with path.open("ab") as file:
            for k in range(size):
                whole = line(step, k)
                cut = len(whole) // 2
                file.write(whole[:cut])
                file.flush()
                assert whole not in reader.pending()
                file.write(whole[cut:])
                step += 1
        lines = reader.pending()[: 1 + confirmed]
        reader.confirm(lines)
        read += lines
    assert [json.loads(x)["step"] for x in [*read, *reader.pending()]] == list(range(step))


@pytest.mark.parametrize("kept", [0, 2, 5])
def test_steps_that_are_done_again_come_once(tmp_path: Path, kept: int) -> None:
    """A killed attempt got to step 4; the next one goes on from a checkpoint after `kept` steps, and gets further."""
    reader, steps = SpoolReader(tmp_path / "joint.jsonl"), []
    for first, end in ((0, 5), (kept, 9)):
        spool = MetricSpool(tmp_path, "joint", first)
        for step in range(first, end):
            spool.write(step, {"loss": float(first)})
            if step % 3 == 1:
                steps += [json.loads(x)["step"] for x in taken(reader)]
        spool.close()
    steps += [json.loads(x)["step"] for x in taken(reader)]
    assert steps == list(range(9))
    assert [json.loads(x)["step"] for x in (tmp_path / "joint.jsonl").read_bytes().splitlines()] == list(range(9))


def test_a_later_reader_goes_on_after_what_was_given(tmp_path: Path) -> None:
    spool = MetricSpool(tmp_path, "joint")
    for step in range(5):
        spool.write(step, {"loss": 1.0})
    reader = SpoolReader(tmp_path / "joint.jsonl")
    reader.skip(2)
    assert [json.loads(x)["step"] for x in taken(reader)] == [3, 4]


def test_notes_and_broken_lines_come_once_too(tmp_path: Path) -> None:
    spool, reader = MetricSpool(tmp_path, "joint"), SpoolReader(tmp_path / "joint.jsonl")
    spool.write(0, {"loss": 1.0})
    spool.note(1, "look")
    assert len(taken(reader)) == 2
    again = MetricSpool(tmp_path, "joint", 2)
    again.note(2, "look again")
    assert [json.loads(x)["note"] for x in taken(reader)] == ["look again"]


def test_a_torn_line_is_cut_off_with_what_comes_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "joint.jsonl"
    path.write_bytes(line(0) + line(1) + line(2)[:10])
    spool = MetricSpool(tmp_path, "joint", 2)
    spool.write(2, {"loss": 3.0})
    assert [json.loads(x)["step"] for x in path.read_bytes().splitlines()] == [0, 1, 2]


def test_a_file_that_got_the_number_of_an_earlier_one_is_read_from_its_start(tmp_path: Path) -> None:
    path, reader = tmp_path / "joint.jsonl", SpoolReader(tmp_path / "joint.jsonl")
    path.write_bytes(b"".join(line(step) for step in range(4)))
    assert len(taken(reader)) == 4
    path.write_bytes(b"".join(line(step, pad=3) for step in range(2, 9)))  # written in place: the same number
    assert [json.loads(x)["step"] for x in taken(reader)] == [4, 5, 6, 7, 8]
