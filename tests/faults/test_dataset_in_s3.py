"""Datasets in S3 over real HTTP: what arrives is whole and verified, or nothing is trusted; an interrupted copy goes on."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dataset_material import CONFIG, make_dataset
from s3_server import S3, Fault, Kind, s3_server

from mutual_forcing.datasets import transfer
from mutual_forcing.datasets.adopt import adopt, taken_over
from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.format.account import read_account
from mutual_forcing.datasets.format.manifest import MANIFEST, read_manifest
from mutual_forcing.datasets.intake.inputs import sources_of
from mutual_forcing.datasets.places import store as store_module
from mutual_forcing.datasets.places.scratch import AGE, PREFIX, Scratch
from mutual_forcing.datasets.places.store import store_of, write_bytes
from mutual_forcing.datasets.progress import silent
from mutual_forcing.datasets.transfer import DataSource, dataset_here, fetch_dataset, send_dataset
from mutual_forcing.orchestration.data.verbs import inspected, prepared, requeued


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    monkeypatch.setattr(store_module, "FIRST_PAUSE", 0.02)
    with s3_server(monkeypatch) as place:
        yield place


@pytest.fixture
def config(s3: S3, tmp_path: Path) -> DataConfig:
    """Of a run on the dataset `mine` of three shards, which is in S3."""
    make_dataset(tmp_path / "mine", shards=3)
    send_dataset(tmp_path / "mine", store_of(s3.uri))
    return replace(CONFIG, prepared=s3.uri)


def asked(s3: S3, part: str) -> int:
    """Meets of the faults that wait for this part."""
    return sum(part in path for _, path in s3.met)


def test_a_run_takes_over_all_of_it_and_needs_the_store_no_more(
    s3: S3, config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "ATTEMPTS", 2)
    out = tmp_path / "run" / "data"
    assert adopt(config, out, silent) == read_manifest(tmp_path / "mine") == read_manifest(out)
    assert [line.path for line in read_account(out / "sources.jsonl")] == ["a.mp4"]
    s3.up.clear()
    assert taken_over(config, out).clips == 9
    s3.up.set()
    for name in store_of(s3.uri).names():
        store_of(s3.uri).remove(name)
    assert adopt(config, out, silent).clips == 9


@pytest.mark.parametrize("kind", ["503", "denied", "slow", "missing"])
def test_requests_that_fail_once_or_twice_are_made_again(s3: S3, config: DataConfig, tmp_path: Path, kind: Kind) -> None:
    times = 2 if kind == "503" else 1
    s3.faults += [Fault(kind, "GET", part, times) for part in ("shard-1", MANIFEST)]
    adopt(config, tmp_path / "data", silent)
    assert asked(s3, "shard-1") == asked(s3, MANIFEST) == times
    assert read_manifest(tmp_path / "data").clips == 9


@pytest.mark.parametrize("kind", ["503", "denied", "reset", "slow"])
@pytest.mark.parametrize("part", ["shard-1", MANIFEST])
def test_uploads_that_fail_once_are_made_again(s3: S3, tmp_path: Path, kind: Kind, part: str) -> None:
    manifest = make_dataset(tmp_path / "mine", shards=2)
    s3.faults.append(Fault(kind, "PUT", part, 1))
    send_dataset(tmp_path / "mine", store_of(s3.uri))
    assert asked(s3, part) == 1
    assert fetch_dataset(store_of(s3.uri), _new(tmp_path / "data")) == manifest


@pytest.mark.parametrize("part", ["shard-2", MANIFEST])
def test_an_upload_cut_off_leaves_nothing_that_a_reader_trusts_and_goes_on(
    s3: S3, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "ATTEMPTS", 2)
    make_dataset(tmp_path / "mine", shards=3)
    s3.faults.append(Fault("503", "PUT", part, 10**6))
    with pytest.raises(OSError, match="made to fail"):
        send_dataset(tmp_path / "mine", store_of(s3.uri))
    assert MANIFEST not in store_of(s3.uri).names()
    with pytest.raises(ValueError, match=r"holds no finished dataset.*data prepare") as refused:
        adopt(replace(CONFIG, prepared=s3.uri), tmp_path / "data", silent)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "data").exists()
    s3.faults[:] = [Fault("slow", "PUT", "shard-0", 1)]  # would be met if it were sent again
    write_bytes(store_of(s3.uri), "shard-9.arrow", b"of a job that was killed and made other shards")
    send_dataset(tmp_path / "mine", store_of(s3.uri))
    assert "shard-9.arrow" not in store_of(s3.uri).names()
    assert asked(s3, "shard-0") == 0
    assert adopt(replace(CONFIG, prepared=s3.uri), tmp_path / "data", silent).clips == 9


def test_a_fetch_cut_off_goes_on_with_what_is_right_alone(
    s3: S3, config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "ATTEMPTS", 2)
    out = tmp_path / "data"
    s3.faults.append(Fault("503", "GET", "shard-2", 10**6))
    with pytest.raises(ValueError, match=r"cannot be read.*credentials.*the same command goes on"):
        adopt(config, out, silent)
    assert sorted(path.name for path in out.glob("*")) == [".lock", "shard-0.arrow", "shard-1.arrow"]
    content = (out / "shard-1.arrow").read_bytes()
    (out / "shard-1.arrow").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    s3.faults[:] = [Fault("slow", "GET", f"shard-{n}", 1) for n in range(3)]
    adopt(config, out, silent)
    assert [asked(s3, f"GET /{s3.uri[5:]}/shard-{n}") for n in (0, 1)] == [0, 1]
    assert read_manifest(out).clips == 9


def test_an_object_that_is_not_what_the_manifest_says_is_refused(s3: S3, config: DataConfig, tmp_path: Path) -> None:
    store, shard = store_of(s3.uri), tmp_path / "mine" / "shard-1.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    with store.writing(shard.name) as path:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-1\.arrow is damaged"):
        adopt(config, tmp_path / "data", silent)
    assert not (tmp_path / "data" / MANIFEST).exists()
    assert not (tmp_path / "data" / shard.name).exists()
    with store.writing(shard.name) as path:
        path.write_bytes(content + b"more")
    with pytest.raises(ValueError, match=r"shard-1\.arrow has \d+ of \d+ bytes"):
        adopt(config, tmp_path / "data", silent)
    store.remove(shard.name)
    with pytest.raises(ValueError, match=r"shard-1\.arrow is missing"):
        adopt(config, tmp_path / "data", silent)


@pytest.mark.parametrize(
    ("file", "size"), [("../../evil.arrow", 1), ("/etc/passwd", 1), ("run.json", 1), ("shard-a.arrow", -1), ("shard-a.arrow", "1"), (3, 1)]
)
def test_a_hostile_manifest_is_refused_before_anything_is_fetched(
    s3: S3, config: DataConfig, tmp_path: Path, file: object, size: object
) -> None:
    manifest = json.loads((tmp_path / "mine" / MANIFEST).read_text())
    manifest["shards"][0] |= {"file": file, "bytes": size}
    with store_of(s3.uri).writing(MANIFEST) as path:
        path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="which is no shard"):
        adopt(config, tmp_path / "data", silent)
    assert not (tmp_path / "data").exists()


def test_a_manifest_of_gigabytes_and_a_dataset_without_room_are_refused(
    s3: S3, config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 10

    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(ValueError, match="are free; make room"):
        adopt(config, tmp_path / "data", silent)
    monkeypatch.setattr(transfer, "MAX_MANIFEST", 100)
    with pytest.raises(ValueError, match="at most 100 are read"):
        adopt(config, tmp_path / "data", silent)


def test_a_dataset_prepared_again_is_not_taken_for_the_run_s(s3: S3, config: DataConfig, tmp_path: Path) -> None:
    adopt(config, tmp_path / "data", silent)
    make_dataset(tmp_path / "other", clips=4)
    with pytest.raises(ValueError, match="holds another dataset"):
        send_dataset(tmp_path / "other", store_of(s3.uri))
    store_of(s3.uri).remove(MANIFEST)
    send_dataset(tmp_path / "other", store_of(s3.uri))
    with pytest.raises(ValueError, match="prepared again since"):
        adopt(config, tmp_path / "data", silent)


def test_machines_without_the_run_folder_fetch_it_once(s3: S3, config: DataConfig, tmp_path: Path) -> None:
    """Several processes at once: one fetches, the others wait for it."""
    manifest, cache, found = read_manifest(tmp_path / "mine"), tmp_path / "cache", list[Path]()
    s3.faults.append(Fault("slow", "GET", "shard-1", 10))
    source = DataSource(s3.uri, manifest.contents())
    threads = [threading.Thread(target=lambda: found.append(dataset_here(tmp_path / "nowhere", source, cache))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (place,) = set(found)
    assert len(found) == 4
    assert asked(s3, "shard-1") == 1
    assert read_manifest(place) == manifest
    assert dataset_here(tmp_path / "mine", source, cache) == tmp_path / "mine", "where the folder is shared, it is used"
    assert dataset_here(tmp_path / "mine", DataSource(), cache) == tmp_path / "mine"
    with pytest.raises(ValueError, match="not the one that this run was begun with"):
        dataset_here(tmp_path / "nowhere", DataSource(s3.uri, "other"), cache)


def test_a_machine_waits_for_a_dataset_that_is_still_being_sent(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "LOOK", 0.05)
    manifest = make_dataset(tmp_path / "mine")
    threading.Timer(0.5, send_dataset, (tmp_path / "mine", store_of(s3.uri))).start()
    place = dataset_here(tmp_path / "nowhere", DataSource(s3.uri, manifest.contents()), tmp_path / "cache")
    assert read_manifest(place) == manifest
    monkeypatch.setattr(transfer, "PATIENCE", 0.1)
    with pytest.raises(ValueError, match="holds no finished dataset"):
        dataset_here(tmp_path / "nowhere", DataSource(f"{s3.uri}/nothing", "any"), tmp_path / "cache")


def test_a_dataset_in_a_store_is_inspected_without_its_shards(s3: S3, config: DataConfig) -> None:
    s3.faults.append(Fault("503", "GET", "shard-", 10**6))
    told = inspected(s3.uri, silent)
    assert told.manifest.clips == 9
    assert [line.path for line in told.lines] == ["a.mp4"]
    with pytest.raises(ValueError, match=r"holds none .*data prepare"):
        inspected(f"{s3.uri}/nothing", silent)


ASKED: dict[str, tuple[str, Callable[[str, Path], object]]] = {
    "an input": ("input", lambda uri, folder: sources_of([uri])),
    "a list": ("input", lambda uri, folder: sources_of([f"{uri}.csv"])),
    "data prepare --out": ("--out", lambda uri, folder: prepared(CONFIG, uri, silent)),
    "train --data": ("data.prepared", lambda uri, folder: adopt(replace(CONFIG, prepared=uri), folder / "out", silent)),
    "data inspect": ("dataset", lambda uri, folder: inspected(uri, silent)),
    "data requeue": ("dataset", lambda uri, folder: requeued(uri, "", "", [], silent)),
}


@pytest.mark.parametrize("how", ASKED)
def test_a_bucket_that_is_not_there_is_no_empty_one(s3: S3, tmp_path: Path, how: str) -> None:
    field, ask = ASKED[how]
    with pytest.raises(ValueError, match=rf"^{field}='s3://no-bucket/x\S*': there is no such bucket; correct its name, or make it$"):
        ask("s3://no-bucket/x", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ASKED)
def test_a_bucket_that_is_closed_is_no_empty_one_and_says_so_at_once(s3: S3, tmp_path: Path, how: str) -> None:
    s3.faults += [Fault("denied", method, "", 10**6) for method in ("GET", "HEAD", "PUT")]
    field, ask = ASKED[how]
    written = r"no permission to write there and read it back \(made to fail\); grant s3:ListBucket on the bucket"
    said = written if field == "--out" else "cannot be read.*made to fail.*check .*bucket, credentials and network"
    with pytest.raises(ValueError, match=rf"^{field}='s3://\S*: {said}") as told:
        ask(s3.uri, tmp_path)
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []
    asked_for = [request for _, request in s3.met]
    assert max(map(asked_for.count, asked_for)) == 2, "another attempt is one too many"


def test_what_a_killed_process_left_in_the_temporary_folder_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    alive, dead = Scratch(), tmp_path / f"{PREFIX}dead"
    (alive.folder / "file").write_bytes(b"x")
    dead.mkdir()
    (dead / "file").write_bytes(b"x")
    with Scratch():
        assert dead.exists(), "it may be so new that its process has not locked it yet"
    for folder in (alive.folder, dead):
        os.utime(folder, (0, 0))
    assert AGE > 0
    with Scratch() as folder:
        assert not dead.exists()
        assert (alive.folder / "file").exists()
    assert not folder.exists()
    alive.close()
    assert list(tmp_path.iterdir()) == []


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
