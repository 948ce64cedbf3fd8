"""What a machine that does not share the run folder hands on: nothing twice, nothing half written, nothing left out."""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import pytest

from mutual_forcing.orchestration.away import pieces
from mutual_forcing.orchestration.away.pieces import Have, news


def write(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_only_whole_lines_of_what_grows_are_handed_on(tmp_path: Path) -> None:
    path = write(tmp_path, "metrics/joint.jsonl", b"one\ntwo\nthr")
    (first,) = news(tmp_path, {})
    assert (first.data, first.start) == (b"one\ntwo\n", 0)
    have = {"metrics/joint.jsonl": first.known}
    assert news(tmp_path, have) == []
    with path.open("ab") as file:
        file.write(b"ee\n")
    (second,) = news(tmp_path, have)
    assert (second.data, second.start) == (b"three\n", 8)


def test_a_file_that_begins_again_is_handed_on_from_its_beginning(tmp_path: Path) -> None:
    path = write(tmp_path, "stacks/rank-0.txt", b"before")
    (first,) = news(tmp_path, {})
    other = write(tmp_path, "stacks/.new", b"now, and more of it")
    other.replace(path)
    (second,) = news(tmp_path, {"stacks/rank-0.txt": first.known})
    assert (second.data, second.start) == (b"now, and more of it", 0)
    path.write_bytes(b"cut")  # in place
    (third,) = news(tmp_path, {"stacks/rank-0.txt": second.known})
    assert (third.data, third.start) == (b"cut", 0)


def test_an_answer_has_a_bound_and_small_things_come_first(tmp_path: Path) -> None:
    write(tmp_path, "bad-steps/joint-3-rank0.safetensors", bytes(range(200)))
    write(tmp_path, "metrics/joint.jsonl", b"line\n")
    have: dict[str, Have] = {}
    order, data = [], b""
    while found := news(tmp_path, have, room=64):
        assert sum(len(piece.data) for piece in found) <= 64
        for piece in found:
            order.append(piece.name)
            have[piece.name] = piece.known
            data += piece.data
    assert order[0] == "metrics/joint.jsonl"
    assert data == b"line\n" + bytes(range(200))


def test_a_log_that_was_put_aside_is_handed_on_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    log = RotatingFileHandler(tmp_path / "logs" / "rank-00000.jsonl", maxBytes=100, backupCount=2, delay=True)
    have: dict[str, Have] = {}
    got: list[bytes] = []

    def fetch() -> None:
        while found := news(tmp_path, have):
            for piece in found:
                have[piece.name] = piece.known
                got.extend(piece.data.splitlines())

    for i in range(60):
        log.handle(logging.makeLogRecord({"msg": f"line {i:02d}, of a rank"}))
        if i % 5 == 0:  # a file has four lines: it has been put aside, and a line of it was not seen
            fetch()
    log.close()
    fetch()
    assert got == [f"line {i:02d}, of a rank".encode() for i in range(60)]
    assert set(have) == {"logs/rank-00000.jsonl"}


def test_a_log_that_is_put_aside_while_it_is_read_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "logs/rank-00000.jsonl", b"one\n")
    (first,) = news(tmp_path, {})
    have = {first.name: first.known}
    with path.open("ab") as file:
        file.write(b"two\n")
    read = pieces._read

    def late(*given: Any, **how: Any) -> Any:
        path.rename(path.with_name(path.name + ".1"))
        path.write_bytes(b"three\n")
        monkeypatch.setattr(pieces, "_read", read)
        return read(*given, **how)

    monkeypatch.setattr(pieces, "_read", late)
    got = b""
    assert news(tmp_path, have) == []
    while found := news(tmp_path, have):
        (piece,) = found
        have[piece.name] = piece.known
        got += piece.data
    assert got == b"two\nthree\n"


def test_what_is_no_file_of_a_run_stays(tmp_path: Path) -> None:
    write(tmp_path, "secret", b"x")
    write(tmp_path, "checkpoints/one", b"x")
    write(tmp_path, "bad-steps/.joint.part", b"x")
    write(tmp_path, "logs/core", b"x")
    write(tmp_path, "profile/a/b", b"x")
    (tmp_path / "stacks").mkdir()
    os.symlink(tmp_path / "secret", tmp_path / "stacks" / "rank-0.txt")
    assert news(tmp_path, {}) == []
    assert news(tmp_path / "nothing", {}) == []


def test_a_file_that_is_too_large_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LARGEST", 10)
    write(tmp_path, "bad-steps/joint-3-rank0.safetensors", bytes(11))
    (piece,) = news(tmp_path, {})
    assert (piece.data, piece.size) == (b"", 11)
    assert news(tmp_path, {piece.name: piece.known}) == []
