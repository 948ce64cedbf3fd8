"""Checkpoints in S3 over real HTTP, with everything that S3 does to its users: what is committed is whole, and nothing else is trusted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoint_material import ATTEMPT, save_checkpoint, save_stage
from s3_server import S3, Fault, Kind, s3_server

from mutual_forcing.datasets.places import store as store_module
from mutual_forcing.datasets.places.store import S3Store, store_of, write_bytes
from mutual_forcing.workers.checkpoint import COMMIT, found_in, stage_weights
from mutual_forcing.workers.resume import resume_from
from mutual_forcing.workers.retention import remove

NETWORK = {"model.depth": 2}
WEIGHTS = {"ema": {"a": torch.arange(12.0).view(3, 4)}, "live": {"a": torch.ones(3, 4)}}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setattr(store_module, "FIRST_PAUSE", 0.02)
    with s3_server(monkeypatch) as place:
        yield place


def test_a_checkpoint_in_s3_is_what_it_is_on_a_disk(s3: S3, tmp_path: Path) -> None:
    store = store_of(f"{s3.uri}/checkpoints")
    save_checkpoint(store, "joint", 4, 9, NETWORK, WEIGHTS)
    save_stage(store, "joint", 9, NETWORK, WEIGHTS)
    save_checkpoint(tmp_path, "joint", 4, 9, NETWORK, WEIGHTS)
    save_stage(tmp_path, "joint", 9, NETWORK, WEIGHTS)
    assert store.names().keys() == store_of(tmp_path).names().keys()
    assert torch.equal(stage_weights(store, "joint", NETWORK, "ema")["a"], WEIGHTS["ema"]["a"])
    found = resume_from(store, "joint", lambda word: [word], 0, 1, print)
    assert found is not None
    assert (found.step, found.uri) == (9, f"{s3.uri}/checkpoints/joint/00000009-{ATTEMPT}")
    for one in found_in(store):
        remove(store, one)
    assert found_in(store) == []


@pytest.mark.parametrize("kind", ["503", "denied", "reset", "slow"])
@pytest.mark.parametrize("part", ["live.00000", "manifest.json", COMMIT])
def test_a_request_that_fails_once_or_twice_is_made_again(s3: S3, kind: Kind, part: str) -> None:
    s3.faults.append(Fault(kind, "PUT", part, 1 if kind == "denied" else 2))
    store = store_of(s3.uri)
    save_stage(store, "joint", 9, NETWORK, WEIGHTS)
    assert s3.met, "the fault was met"
    assert torch.equal(stage_weights(store, "joint", NETWORK, "live")["a"], WEIGHTS["live"]["a"])


def test_an_object_that_is_not_there_yet_after_it_was_listed_is_asked_for_again(s3: S3) -> None:
    store = store_of(s3.uri)
    save_stage(store, "joint", 9, NETWORK, WEIGHTS)
    s3.faults += [Fault("missing", method, "ema.00000", 1) for method in ("GET", "HEAD")]
    assert torch.equal(stage_weights(store_of(s3.uri), "joint", NETWORK, "ema")["a"], WEIGHTS["ema"]["a"])
    with pytest.raises(FileNotFoundError):
        store.fetch("joint/nothing")


@pytest.mark.parametrize("part", ["live.00000", "ema.00000", "rank.00000", "ledger", "manifest.json", COMMIT])
def test_an_outage_while_a_checkpoint_is_written_leaves_the_one_before(s3: S3, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "ATTEMPTS", 2)
    save_checkpoint(store_of(s3.uri), "joint", 4, 9, NETWORK, WEIGHTS)
    s3.faults.append(Fault("503", "PUT", part, 10**6))
    with pytest.raises(OSError):  # noqa: PT011  whatever the client calls it
        save_checkpoint(store_of(s3.uri), "joint", 6, 9, NETWORK, WEIGHTS, "ffffffff")
    s3.faults.clear()
    assert [f.step for f in found_in(store_of(s3.uri), "joint") if f.complete] == [4]
    found = resume_from(store_of(s3.uri), "joint", lambda word: [word], 0, 1, print)
    assert found is not None
    assert found.step == 4


def test_a_writer_that_fails_half_way_publishes_nothing(s3: S3) -> None:
    store = store_of(s3.uri)

    def failing() -> None:
        with store.writing("half") as path:
            path.write_bytes(b"x" * 100)
            raise RuntimeError("out of words")

    with pytest.raises(RuntimeError, match="out of words"):
        failing()
    assert store.names() == {}


def test_a_store_knows_when_a_file_was_written(s3: S3, tmp_path: Path) -> None:
    for store in (store_of(s3.uri), store_of(tmp_path)):
        write_bytes(store, "a/b", b"x")
        assert abs(store.changed("a/b") - time.time()) < 60
        assert store.changed("a/c") == 0


def test_a_large_file_is_sent_in_parts_and_is_whole(s3: S3, tmp_path: Path) -> None:
    store, content = store_of(s3.uri), bytes(range(256)) * (60 * 2**12)
    s3.faults.append(Fault("reset", "PUT", "large", 1))
    write_bytes(store, "large", content)
    assert store.names() == {"large": len(content)}
    assert store.fetch("large").read_bytes() == content


def test_a_server_that_is_gone_is_an_error_and_no_hang(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "ATTEMPTS", 2)
    s3.up.clear()
    done: list[BaseException] = []

    def ask() -> None:
        try:
            store_of(s3.uri).names()
        except OSError as error:
            done.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(60)
    assert len(done) == 1
    s3.up.set()


def test_without_credentials_the_answer_comes_at_once(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(store_module, "FIRST_PAUSE", 100.0)
    with pytest.raises(OSError, match="NoCredentialsError"):
        store_of(s3.uri).names()


def test_a_uri_that_names_no_bucket_or_no_store_is_refused() -> None:
    with pytest.raises(ValueError, match="names no bucket"):
        S3Store("s3://")
    with pytest.raises(ValueError, match="neither a local path nor s3://"):
        store_of("gs://bucket/x")
