"""Shards that stay in S3, read by ranges over real HTTP: what is read is what was stored, or an error; the cache keeps within its limit."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset_material import CONFIG, make_dataset
from s3_server import S3, Fault, Kind, s3_server

from mutual_forcing.datasets.adopt import adopt, adopt_mix, taken_over
from mutual_forcing.datasets.format import shards
from mutual_forcing.datasets.format.manifest import ShardEntry
from mutual_forcing.datasets.format.shards import ClipRecord, write_shard
from mutual_forcing.datasets.places import storage
from mutual_forcing.datasets.places import store as store_module
from mutual_forcing.datasets.places.lock import LOCK, alone
from mutual_forcing.datasets.places.storage import sha256_file
from mutual_forcing.datasets.places.store import LocalStore, store_of
from mutual_forcing.datasets.progress import silent
from mutual_forcing.datasets.reading.loader import LatentDataset
from mutual_forcing.datasets.reading.members import Member, members_of
from mutual_forcing.datasets.reading.piece_cache import TOTAL, PieceCache
from mutual_forcing.datasets.reading.range_shard import RangeShard
from mutual_forcing.datasets.transfer import dataset_here, send_dataset, source_of
from mutual_forcing.model.text import TextConfig

CLOCK, CHUNKS, TEXT = CONFIG.timeline, 2, TextConfig()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    monkeypatch.setattr(store_module, "FIRST_PAUSE", 0.02)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with s3_server(monkeypatch) as place:
        yield place


def clip(i: int, side: int = 8) -> ClipRecord:
    rng = np.random.default_rng(i)
    video = rng.standard_normal((CLOCK.video_latents(CHUNKS), 2, side, side)).astype(np.float16)
    audio = rng.standard_normal((CLOCK.audio_latents(CHUNKS), 3)).astype(np.float16)
    return ClipRecord(
        f"clip-{i:03}", f"{i}.mp4", 0.0, video, audio, f"caption {i}", (("word", 0.1, 0.2),), "c", (("a", "b"),), (("x_ms", 1.0),)
    )


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of three shards of eight clips, two in a batch."""
    monkeypatch.setattr(shards, "BATCH_BYTES", 2 * clip(0).nbytes)
    folder, entries = tmp_path / "mine", []
    folder.mkdir()
    for n in range(3):
        path = folder / f"shard-{n}.arrow"
        write_shard(path, [clip(i) for i in range(8 * n, 8 * n + 8)])
        entries.append(ShardEntry(path.name, 8, path.stat().st_size, sha256_file(path)))
    made = make_dataset(tmp_path / "like")
    replace(made, clip_chunks=CHUNKS, shards=tuple(entries), held_out=("clip-003",), clips=24).write(folder)
    return folder


@pytest.fixture
def far(s3: S3, mine: Path, tmp_path: Path) -> Member:
    """The dataset in S3; its manifest is here."""
    send_dataset(mine, store_of(s3.uri))
    adopt(replace(CONFIG, prepared=s3.uri, clip_chunks=CHUNKS), tmp_path / "run", silent, cache_gb=0.001)
    (member,) = members_of(tmp_path / "run")
    return member


def batches(data: LatentDataset, steps: int = 12) -> list[tuple[tuple[str, ...], list[torch.Tensor]]]:
    clips = data.stage(0, "joint", 4)
    made = [clips.batch(range(4 * s, 4 * s + 4)) for s in range(steps)]
    return [(b.sample_ids, [*(x for _, x in b.latents.items()), *b.controls.tensors().values()]) for b in made]


def equal(one: list[tuple[tuple[str, ...], list[torch.Tensor]]], other: list[tuple[tuple[str, ...], list[torch.Tensor]]]) -> bool:
    same = [a == b and all(torch.equal(x, y) for x, y in zip(p, q, strict=True)) for (a, p), (b, q) in zip(one, other, strict=True)]
    return all(same)


def pieces(tmp_path: Path) -> list[Path]:
    return sorted(p for p in (tmp_path / "cache" / "mutual-forcing" / "pieces").iterdir() if not p.name.startswith("."))


def test_batches_from_ranges_are_those_from_files_and_are_kept(s3: S3, far: Member, mine: Path, tmp_path: Path) -> None:
    assert not list((tmp_path / "run").glob("*.arrow"))
    local, data = LatentDataset(mine, TEXT), LatentDataset(tmp_path / "run", TEXT, verify=True)
    assert data.remote
    assert equal(batches(data), batches(local))
    assert len(pieces(tmp_path)) == 12
    s3.up.clear()
    assert equal(batches(data), batches(local)), "all pieces are here"


@pytest.mark.parametrize("kind", ["503", "denied", "missing", "reset", "slow", "short"])
def test_requests_that_fail_are_made_again(s3: S3, far: Member, mine: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """`slow` takes longer than the client waits."""
    monkeypatch.setattr(storage, "READ_S", 0.3)
    s3.faults += [Fault(kind, "GET", f"shard-{n}", 1 if kind in ("denied", "missing") else 2) for n in range(3)]
    data = LatentDataset([far], TEXT)
    s3.faults += [Fault(kind, "GET", f"shard-{n}", 1) for n in range(3)]
    assert equal(batches(data, 4), batches(LatentDataset(mine, TEXT), 4))
    assert len(s3.met) >= 6


def test_what_came_wrong_is_an_error_and_is_not_kept(s3: S3, far: Member) -> None:
    data = LatentDataset([far], TEXT)
    s3.faults.append(Fault("wrong", "GET", "shard-1", 1))
    with pytest.raises(ValueError, match=rf"shard {s3.uri}/shard-1\.arrow: row \d+ is damaged .*prepare the data again"):
        batches(data)
    assert len(s3.met) == 1
    assert equal(batches(data), batches(LatentDataset([far], TEXT)))


def test_ends_that_came_wrong_are_an_error(s3: S3, far: Member) -> None:
    """Whatever bit of the first or the last bytes is another: the shard is refused, or what is read of it is right."""
    entry, store = far.manifest().shards[0], store_of(far.uri)
    content = store.read_range(entry.file, 0, entry.bytes)
    rng, refused = np.random.default_rng(0), 0
    reference = RangeShard(store, entry, PieceCache(Path(os.environ["XDG_CACHE_HOME"]) / "a", 10**6))
    rows = [reference.row(i) for i in range(8)]
    for index in (-1, 8):
        with pytest.raises(ValueError, match=rf"has 8 rows, no row {index}; prepare"):
            reference.row(index)
    ends = [*range(0, min(b.start for b in reference._blocks)), *range(max(b.start + b.size for b in reference._blocks), entry.bytes)]
    folder = Path(os.environ["XDG_CACHE_HOME"])
    for number, at in enumerate(rng.choice(ends, 200, replace=False)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        (folder / entry.file).write_bytes(damaged)
        try:
            found = RangeShard(LocalStore(folder), entry, PieceCache(folder / f"b{number}", 10**6))
            read = [found.row(i) for i in range(8)]
        except ValueError:
            refused += 1
        else:
            assert all(a.clip_id == b.clip_id and np.array_equal(a.get("video"), b.get("video")) for a, b in zip(read, rows, strict=True))
    assert refused > 50


def test_a_piece_that_the_disk_spoiled_is_fetched_again(s3: S3, far: Member, mine: Path, tmp_path: Path) -> None:
    data = LatentDataset([far], TEXT)
    good = batches(data)
    whole = {p: p.read_bytes() for p in pieces(tmp_path)}
    for number, (path, content) in enumerate(whole.items()):
        path.write_bytes(content[:-1] if number % 2 else content[: len(content) // 2] + b"\xff" + content[len(content) // 2 + 1 :])
    assert equal(batches(data), good)
    assert {p: p.read_bytes() for p in pieces(tmp_path)} == whole


def test_a_server_that_is_gone_is_told_as_such(s3: S3, far: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "ATTEMPTS", 2)
    data = LatentDataset([far], TEXT)
    s3.up.clear()
    with pytest.raises(OSError, match=r"S3 does not answer|[Cc]onnect|[Rr]eset|EndpointConnectionError"):
        batches(data)
    s3.up.set()
    assert len(batches(data)) == 12


def test_a_shard_that_was_replaced_or_has_no_index_is_refused(s3: S3, far: Member, mine: Path, tmp_path: Path) -> None:
    data = LatentDataset([far], TEXT)
    other = tmp_path / "other.arrow"
    write_shard(other, [replace(clip(i), caption="anothr  " + str(i)[-1]) for i in range(8)])
    assert other.stat().st_size == (mine / "shard-0.arrow").stat().st_size
    store_of(s3.uri).send(other, "shard-0.arrow")
    with pytest.raises(ValueError, match=r"shard-0\.arrow: row \d+ is damaged \(its checksum is another"):
        batches(data)


def test_a_cache_that_is_too_small_changes_nothing_but_the_traffic(s3: S3, far: Member, mine: Path, tmp_path: Path) -> None:
    piece = 2 * clip(0).nbytes + 4000
    for room in (1, 3 * piece):
        data = LatentDataset([replace(far, cache_gb=room / 1e9)], TEXT)
        assert equal(batches(data, 24), batches(LatentDataset(mine, TEXT), 24))
        assert sum(p.stat().st_size for p in pieces(tmp_path)) <= room


def test_a_mix_of_far_and_near_is_taken_over_and_brought_to_other_machines(s3: S3, far: Member, mine: Path, tmp_path: Path) -> None:
    run, config = tmp_path / "run", replace(CONFIG, prepared=s3.uri, clip_chunks=CHUNKS)
    send_dataset(mine, store_of(f"{s3.uri}/b"))
    mix = [f"{mine}=0.5", f"{s3.uri}/b=2"]
    for _ in range(2):  # the second finds all there
        adopt_mix(config, mix, run, silent, cache_gb=0.002)
        assert taken_over(config, run).clips == 24
    assert [(m.folder.name, m.weight, m.uri, m.ranged) for m in members_of(run)] == [
        ("run", Fraction(1), s3.uri, True),
        ("mix-1", Fraction(1, 2), "", False),
        ("mix-2", Fraction(2), f"{s3.uri}/b", True),
    ]
    data = LatentDataset(run, TEXT)
    assert len(data.train_ids) == 3 * 23
    clips = data.stage(0, "joint", 7)
    assert len(clips.batch(range(7)).sample_ids) == 7
    source = source_of(s3.uri, run)
    assert dataset_here(run, source) == run
    with pytest.raises(ValueError, match=r"data\.mix: a dataset is in a folder of another machine"):
        dataset_here(tmp_path / "nowhere", source)
    source = replace(source, mix=source.mix[1:])
    place = dataset_here(tmp_path / "nowhere", source)
    assert [(m.weight, m.uri, m.cache_gb) for m in members_of(place)] == [(1, s3.uri, 0.001), (2, f"{s3.uri}/b", 0.002)]
    assert LatentDataset(place, TEXT).stage(0, "joint", 7).ids == data.train_ids[:23] * 2
    assert not list(place.rglob("*.arrow"))


def fill(folder: Path, limit: int, seed: int, done: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    """Use a cache as readers do; tells how many bytes were there at most."""
    cache, rng, most = PieceCache(folder, limit), np.random.default_rng(seed), 0
    for number in rng.integers(60, size=150):
        content = bytes([number]) * (1000 + 100 * int(number))
        found = cache.get(f"piece-{number}", len(content))
        if found is None:
            cache.put(f"piece-{number}", content)
        else:
            assert found.to_pybytes() == content
        with alone(folder):
            most = max(most, sum(map(size_of, folder.iterdir())))
    done.put(most)


def size_of(path: Path) -> int:
    with suppress(FileNotFoundError):  # renamed meanwhile
        return 0 if path.name in (LOCK, TOTAL) else path.stat().st_size
    return 0


def test_several_processes_together_keep_within_the_limit(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    done, limit = context.Queue(), 60_000
    workers = [context.Process(target=fill, args=(tmp_path, limit, seed, done)) for seed in range(3)]
    for worker in workers:
        worker.start()
    most = [done.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert max(most) <= limit
    assert max(most) > limit / 2
    assert int((tmp_path / TOTAL).read_text()) <= limit
