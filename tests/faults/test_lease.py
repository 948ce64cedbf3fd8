"""One job at a time below a prefix in S3: jobs at once, jobs that were killed, answers that are lost, servers that know less."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from command_material import Running, command
from s3_server import S3, Fault, Kind, s3_server

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, write_corpus
from mutual_forcing.datasets.pipeline import prepare
from mutual_forcing.datasets.places import store as store_module
from mutual_forcing.datasets.places.lock import LOCK
from mutual_forcing.datasets.places.store import store_of, write_bytes
from mutual_forcing.datasets.preparing import lease as module
from mutual_forcing.datasets.preparing.lease import Holder, leased

FAR = Holder("0123456789abcdef", 1, "another-machine", "its own numbers")
THEIRS = "shard-0123456789abcdefn000.arrow"
HOLD = """
import sys, time
from mutual_forcing.datasets.preparing.lease import leased
with leased(sys.argv[1]):
    print("held", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setattr(store_module, "FIRST_PAUSE", 0.02)
    for name, seconds in (("BEAT", 0.2), ("LOOK", 0.05)):
        monkeypatch.setattr(module, name, seconds)
    with s3_server(monkeypatch) as place:
        yield place


def left(s3: S3, holder: Holder) -> None:
    """A lock that nobody renews."""
    write_bytes(store_of(s3.uri), LOCK, json.dumps(asdict(holder)).encode())


def test_of_jobs_that_begin_at_once_one_is_let_in(s3: S3) -> None:
    begin, end, held, refused = threading.Barrier(6), threading.Event(), list[str](), list[str]()

    def job() -> None:
        begin.wait()
        try:
            with leased(s3.uri) as lease:
                held.append("held")
                end.wait(60)
                lease.require()
        except ValueError as error:
            refused.append(str(error))
            if len(refused) == 5:
                end.set()

    threads = [threading.Thread(target=job) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert held == ["held"]
    assert len(refused) == 5
    for line in refused:
        assert f"{s3.uri!r}: process {os.getpid()} on " in line
        assert line.endswith("is writing there; wait for its end, or choose another prefix with --out")
    assert LOCK not in store_of(s3.uri).names(), "it ends with its block"


def test_a_job_that_was_killed_here_locks_nobody_out(s3: S3) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, s3.uri], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGKILL)
    assert LOCK in store_of(s3.uri).names()
    begun = time.monotonic()
    with leased(s3.uri):
        assert time.monotonic() - begun < module.LEASE / 4


def test_a_job_that_was_killed_elsewhere_is_waited_for_until_its_lease_is_over(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE", 3.0)
    left(s3, FAR)
    begun, told = time.monotonic(), list[tuple[str, int, int]]()
    with leased(s3.uri, lambda *step: told.append(step)) as lease:
        assert 1.5 < time.monotonic() - begun < 30, "S3 tells its age in whole seconds"
        lease.require()
    assert told[-1][0] == module.WAIT
    assert LOCK not in store_of(s3.uri).names()


def test_a_lease_that_is_over_already_is_not_waited_for(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    left(s3, FAR)
    time.sleep(2.1)
    monkeypatch.setattr(module, "LEASE", 1.0)
    told = list[tuple[str, int, int]]()
    with leased(s3.uri, lambda *step: told.append(step)):
        assert told == []


def test_a_job_that_another_took_over_says_so_and_leaves_the_other_its_lock(s3: S3) -> None:
    with leased(s3.uri) as lease:
        left(s3, FAR)
        with pytest.raises(ValueError, match=r"another job has taken it over.*the same command goes on"):
            lease.require()
        time.sleep(3 * module.BEAT)
    assert Holder(**json.loads(store_of(s3.uri).fetch(LOCK).read_text())) == FAR


@pytest.mark.parametrize(("kind", "method"), [("lost", "PUT"), ("503", "PUT"), ("reset", "PUT"), ("503", "GET"), ("503", "HEAD")])
def test_an_answer_that_does_not_come_loses_no_lock(s3: S3, kind: Kind, method: str) -> None:
    s3.faults.append(Fault(kind, method, LOCK, 2))
    with leased(s3.uri) as lease:
        s3.faults.append(Fault(kind, method, LOCK, 2))
        lease.require()
        lease.require()
    assert len(s3.met) == 4
    assert LOCK not in store_of(s3.uri).names()


def test_a_renewal_that_came_and_was_never_answered_is_this_job_s_own(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 60.0)
    monkeypatch.setattr(store_module, "ATTEMPTS", 1)
    with leased(s3.uri) as lease:
        s3.faults.append(Fault("lost", "PUT", LOCK, 10**6))
        with pytest.raises(OSError, match="S3 does not answer"):
            lease.require()
        s3.faults.clear()
        lease.require()


@pytest.mark.parametrize("kind", ["careless", "501"])
def test_a_server_without_conditions_still_keeps_a_second_job_out(s3: S3, kind: Kind) -> None:
    s3.faults.append(Fault(kind, "PUT", LOCK, 10**6))
    with leased(s3.uri) as lease:
        with pytest.raises(ValueError, match="is writing there"), leased(s3.uri):
            pass
        lease.require()
    assert s3.met


@pytest.mark.parametrize("content", [b"", b"mine", b"[]", b'{"token": 3}', json.dumps(asdict(FAR) | {"process": 0}).encode()])
def test_an_object_of_the_user_is_left_alone(s3: S3, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEASE", 0.0)
    write_bytes(store_of(s3.uri), LOCK, content)
    with pytest.raises(ValueError, match=r"holds an object '\.lock' that is no lock of ours; remove it"), leased(s3.uri):
        pass
    assert store_of(s3.uri).fetch(LOCK).read_bytes() == content


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_commands_at_once_and_after_one_that_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_corpus(SyntheticConfig(count=8, seconds=2.6, width=32, height=32, seed=3), tmp_path / "media")
    with s3_server(monkeypatch) as s3:
        words = ["data", "prepare", str(tmp_path / "media"), "--recipe", "tiny", "--out", s3.uri]
        with subprocess.Popen([sys.executable, "-c", HOLD, s3.uri], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            refused = command(*words)
            process.send_signal(signal.SIGKILL)
        assert refused.code == 1
        assert f"process {process.pid} on " in refused.errors[0]
        assert "is writing there; wait for its end, or choose another prefix" in refused.errors[0]
        assert list(store_of(s3.uri).names()) == [LOCK]
        with Running(*words) as one, Running(*words) as other:
            answers = [one.wait(400), other.wait(400)]
        assert sorted(answer.code for answer in answers) in ([0, 0], [0, 1]), (
            "the later waits for a sign of life, and may see the end first"
        )
        for answer in answers:
            assert answer.code == 0 or "is writing there" in answer.errors[0]
        assert LOCK not in store_of(s3.uri).names()
        assert command("data", "audit", s3.uri, "--media", str(tmp_path / "media")).code == 0


def job_that_is_overtaken(s3: S3, media: Path, at: int) -> list[tuple[str, int]]:
    """Another job takes over, and writes a shard, when so many sources were looked into; what this one told after that."""
    write_corpus(SyntheticConfig(count=8, seconds=1.2, width=32, height=32, seed=3), media)
    told = list[tuple[str, int]]()

    def progress(stage: str, done: int, total: int) -> None:
        told.append((stage, done))
        if (stage, done) == ("look into sources", at):
            told.clear()
            left(s3, FAR)
            write_bytes(store_of(s3.uri), THEIRS, b"theirs")
            time.sleep(3 * module.BEAT)

    with pytest.raises(ValueError, match="another job has taken it over"):
        prepare(DataConfig(media=str(media), clip_chunks=2, width=32, height=32), s3.uri, progress)
    return told


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_that_another_took_over_stops_with_the_next_row(s3: S3, tmp_path: Path) -> None:
    assert job_that_is_overtaken(s3, tmp_path / "media", at=2) == []
    assert Holder(**json.loads(store_of(s3.uri).fetch(LOCK).read_text())) == FAR


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_job_that_does_not_know_of_it_yet_removes_nothing_of_the_other_s(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.Lease, "_beat", lambda lease: None)
    told = job_that_is_overtaken(s3, tmp_path / "media", at=8)
    assert told[-1][0] == "measure codecs"
    assert store_of(s3.uri).fetch(THEIRS).read_bytes() == b"theirs"
