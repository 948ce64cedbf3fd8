"""Shards and their manifest: what is written is what is read, whole or not at all, and damage is found."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.format.manifest import FORMAT, MANIFEST, Manifest, ShardEntry, read_manifest
from mutual_forcing.datasets.format.shards import ClipRecord, Shard, write_shard
from mutual_forcing.datasets.places.storage import atomic_path, sha256_file, write_json
from mutual_forcing.datasets.reading.loader import LatentDataset
from mutual_forcing.datasets.reading.order import Order, plain
from mutual_forcing.model.text import TextConfig
from mutual_forcing.model.timeline import Timeline

TIMELINE, CHUNKS = Timeline(), 2


def record(index: int, video: tuple[int, ...] = (7, 5, 4, 4), audio: tuple[int, ...] = (32, 6)) -> ClipRecord:
    rng = np.random.default_rng(index)
    return ClipRecord(
        clip_id=f"{rng.integers(2**63):016x}",
        source=f"/media/größe {index}.mp4",
        start_s=index / 3,
        video=rng.standard_normal(video).astype(np.float16),
        audio=rng.standard_normal(audio).astype(np.float16),
        caption=f"clip {index} 猫",
        words=tuple((f"w{i}", float(i), i + 0.1) for i in range(index % 4)),
    )


def same(a: ClipRecord, b: ClipRecord) -> bool:
    texts = (a.clip_id, a.source, a.start_s, a.caption, a.words) == (b.clip_id, b.source, b.start_s, b.caption, b.words)
    latents = [(a.get(m), b.get(m)) for m in ("video", "audio")]
    return texts and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in latents)


def finished(folder: Path, parts: list[list[ClipRecord]], held_out: tuple[str, ...] = ()) -> Manifest:
    """A dataset in `folder` with one shard for each part."""
    folder.mkdir(exist_ok=True)
    entries = []
    for i, part in enumerate(parts):
        path = folder / f"shard-{i}.arrow"
        write_shard(path, part)
        entries.append(ShardEntry(path.name, len(part), path.stat().st_size, sha256_file(path)))
    clips = sum(map(len, parts))
    manifest = Manifest({}, (), TIMELINE, ("video", "audio"), CHUNKS, 64, 64, {}, {}, tuple(entries), held_out, clips, 0.1, 1, 0, {}, False)
    manifest.write(folder)
    return manifest


@pytest.mark.parametrize("count", [1, 2, 9])
def test_clips_come_back_bit_for_bit(tmp_path, count):
    records = [record(i) for i in range(count)]
    write_shard(tmp_path / "a.arrow", records)
    shard = Shard(tmp_path / "a.arrow")
    assert len(shard) == count
    assert shard.clip_ids == [r.clip_id for r in records]
    assert all(same(shard.row(i), r) for i, r in enumerate(records))
    with pa.ipc.open_file(str(tmp_path / "a.arrow")) as plain:  # with pyarrow alone
        assert plain.read_all()["caption"].to_pylist() == [r.caption for r in records]


def test_a_shard_is_mapped_and_not_read_into_memory(tmp_path):
    write_shard(tmp_path / "a.arrow", [record(i, video=(64, 16, 16, 16)) for i in range(16)])
    before = pa.total_allocated_bytes()
    row = Shard(tmp_path / "a.arrow").row(3)
    assert pa.total_allocated_bytes() - before < 100_000 < (tmp_path / "a.arrow").stat().st_size
    assert not row.get("video").flags.writeable
    assert same(row, record(3, video=(64, 16, 16, 16)))  # the mapping outlives its shard


KILLED = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from mutual_forcing.datasets.format.shards import ClipRecord, write_shard
if sys.argv[2] == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system kills us when the file grows past the limit
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
video = np.ones((7, 48, 64, 64), np.float16)
write_shard(Path(sys.argv[1]), [ClipRecord("a", "s", 0.0, video, np.ones((32, 6), np.float16), "", ())])
"""


@pytest.mark.parametrize("end", ["killed", "failed"])
def test_a_writer_that_ends_halfway_leaves_no_shard(tmp_path, end):
    target = tmp_path / "shard-a.arrow"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(target), end], capture_output=True, timeout=120)
    assert not target.exists()
    if end == "killed":
        assert ended.returncode == -signal.SIGXFSZ
        (left,) = tmp_path.iterdir()
        assert 0 < left.stat().st_size <= 100_000
        assert left.match(".*.tmp")  # what `prepare` sweeps up
    else:
        assert b"File too large" in ended.stderr
        assert not list(tmp_path.iterdir())


def test_a_replaced_file_is_the_old_one_until_it_is_the_new_one(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": "ß"})
    before = path.read_bytes()

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_truncated_shard_is_refused_at_any_length(tmp_path):
    write_shard(tmp_path / "a.arrow", [record(i) for i in range(3)])
    whole = (tmp_path / "a.arrow").read_bytes()
    for length in (0, 1, 7, 8, 9, *range(50, len(whole), len(whole) // 60), len(whole) - 1):
        (tmp_path / "b.arrow").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"b\.arrow: not a readable Arrow"):
            Shard(tmp_path / "b.arrow")


def test_what_is_no_shard_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a readable"):
        Shard(tmp_path / "absent.arrow")
    table = pa.table({"clip_id": ["a"]})
    with pa.OSFile(str(tmp_path / "other.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ValueError, match="but not of clips"):
        Shard(tmp_path / "other.arrow")


def test_a_manifest_comes_back_and_names_every_damage(tmp_path):
    manifest = finished(tmp_path, [[record(0), record(1)], [record(2)]], (record(2).clip_id,))
    assert read_manifest(tmp_path) == manifest
    shard = tmp_path / manifest.shards[1].file
    whole = shard.read_bytes()

    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    shard.write_bytes(flipped)
    with pytest.raises(ValueError, match="damaged"):
        read_manifest(tmp_path)
    assert read_manifest(tmp_path, verify=False) == manifest
    shard.write_bytes(whole[:-1])
    for verify in (True, False):
        with pytest.raises(ValueError, match="is missing or not"):
            read_manifest(tmp_path, verify)
    shard.unlink()
    with pytest.raises(ValueError, match="is missing or not"):
        read_manifest(tmp_path)
    shard.write_bytes(whole)
    assert read_manifest(tmp_path) == manifest


def test_a_manifest_of_another_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_manifest(tmp_path)
    good = {"format": FORMAT, **asdict(finished(tmp_path, [[record(0)]]))}
    outside = {**good["shards"][0], "file": "../" + tmp_path.name + "/shard-0.arrow"}
    for bad, reason in [
        (
            {**good, "format": FORMAT + 1},
            f"is of format {FORMAT + 1}, and this release reads format {FORMAT}; use the release that wrote it",
        ),
        ({**good, "format": FORMAT - 1}, "another format"),
        ([good], "another format"),
        ({k: v for k, v in good.items() if k != "clips"}, "lacks or adds a field"),
        ({**good, "more": 1}, "lacks or adds a field"),
        ({**good, "shards": [outside]}, "which is no shard"),
    ]:
        (tmp_path / MANIFEST).write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=reason):
            read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_manifest(tmp_path)


def reference_order() -> list[str]:
    """What an epoch must be, from the ids and the order alone: three of the twelve clips are held out."""
    ids = sorted(record(i).clip_id for i in range(12))
    train = [clip for clip in ids if clip not in ids[::5]]
    order = Order(0, "joint", [plain(len(train))])
    return [train[order.at(p)[0]] for p in range(9)]


@given(cuts=st.lists(st.integers(1, 11), unique=True), order=st.permutations(range(12)))
def test_training_does_not_see_how_the_shards_were_cut(tmp_path_factory, cuts, order):
    timeline = Timeline()
    shapes = {"video": (timeline.video_latents(CHUNKS), 2, 1, 1), "audio": (timeline.audio_latents(CHUNKS), 2)}
    clips = [replace(record(i, **shapes), words=()) for i in order]
    held_out = tuple(sorted(c.clip_id for c in clips)[::5])
    edges = [0, *sorted(cuts), 12]
    folder = tmp_path_factory.mktemp("cut")
    finished(folder, [clips[a:b] for a, b in pairwise(edges)], held_out)
    dataset = LatentDataset(folder, TextConfig(), verify=True)
    assert tuple(r.clip_id for r in dataset.held_out_records()) == held_out
    clips = dataset.stage(0, "joint", 3)
    seen = [clip for p in range(0, 9, 3) for clip in clips.batch(range(p, p + 3)).sample_ids]
    assert seen == reference_order()


def test_a_shorter_clip_is_padded_and_one_of_other_rates_is_refused(tmp_path):
    """A chunk has 3 video latents behind the first frame and 15 or 16 audio latents."""
    whole, short = record(0), record(1, video=(4, 5, 4, 4), audio=(16, 6))
    finished(tmp_path, [[whole]])
    dataset = LatentDataset(tmp_path, TextConfig())
    assert dataset.collate([whole], [0]).chunks_B is None
    batch = dataset.collate([whole, short], [0, 1])
    assert batch.chunks_B == (2, 1)
    video, audio = batch.latents.get("video"), batch.latents.get("audio")
    assert np.array_equal(video[1, :4], short.get("video").astype(np.float32))
    assert np.array_equal(audio[1, :16], short.get("audio").astype(np.float32))
    assert not video[1, 4:].any()
    assert not audio[1, 16:].any()
    for other in ({"video": (1, 5, 4, 4)}, {"video": (10, 5, 4, 4), "audio": (47, 6)}, {"audio": (31, 6)}, {"video": (6, 5, 4, 4)}):
        with pytest.raises(ValueError, match=r"video and \d+ audio latents are no clip of 1 to 2 chunks of 0\.5 s; prepare it again"):
            dataset.collate([record(2, **other)], [0])


def test_latents_that_lie_otherwise_in_memory_are_the_same_latents(tmp_path):
    lies = replace(record(0), video=np.ascontiguousarray(record(0).get("video").transpose(1, 0, 2, 3)).transpose(1, 0, 2, 3))
    assert not lies.get("video").flags.c_contiguous
    write_shard(tmp_path / "a.arrow", [lies, record(1)])
    assert same(Shard(tmp_path / "a.arrow").row(0), record(0))
