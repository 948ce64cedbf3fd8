"""Clips that go to training as they are decoded: the same as a dataset would hold, each once a pass, none that is held out."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from dataset_material import CONFIG as OF_ZEROS
from dataset_material import make_dataset
from hypothesis import given
from hypothesis import strategies as st
from making_material import fitted, make, source_at
from media_material import write_film

from mutual_forcing.datasets.account import SourceLine
from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.encoders import LocalEncoder, OpenEncoder
from mutual_forcing.datasets.growth import first_of
from mutual_forcing.datasets.ledger import Update, consumed
from mutual_forcing.datasets.loader import LatentDataset
from mutual_forcing.datasets.packed_clip import pack_clip, unpack_clip
from mutual_forcing.datasets.records import ClipRecord, checksum
from mutual_forcing.datasets.shards import Shard
from mutual_forcing.datasets.sources import Source, source_to_json
from mutual_forcing.datasets.storage import sha256_file
from mutual_forcing.datasets.streamed_clips import StreamedClips
from mutual_forcing.datasets.streaming import StreamAccount, StreamSource, held_out_contents
from mutual_forcing.model.text import TextConfig

CONFIG = DataConfig(media="/media", clip_chunks=2)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@st.composite
def records(draw: st.DrawFn) -> ClipRecord:
    rng, has = np.random.default_rng(draw(st.integers(0, 99))), draw(st.sampled_from(["video", "audio", "both"]))
    video = rng.standard_normal((draw(st.integers(1, 4)), 2, 1, 3)).astype(np.float16) if has != "audio" else None
    audio = rng.standard_normal((draw(st.integers(1, 9)), 3)).astype(np.float16) if has != "video" else None
    words = tuple(draw(st.lists(st.tuples(TEXT, st.floats(0, 9), st.floats(0, 9)), max_size=3)))
    tags = tuple(draw(st.dictionaries(TEXT, TEXT, max_size=3)).items())
    return ClipRecord(draw(TEXT), draw(TEXT), draw(st.floats(0, 1e6)), video, audio, draw(TEXT), words, "content", tags, (("lag_ms", 1.5),))


@given(records())
def test_a_clip_comes_out_as_it_was_packed(record: ClipRecord) -> None:
    assert checksum(unpack_clip(pack_clip(record))) == checksum(record)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_clip_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged|column|neither"):
        unpack_clip(packed)


def test_a_source_gives_the_clips_that_a_dataset_holds(tmp_path: Path) -> None:
    film = write_film(tmp_path / "film.mp4", 3.2)
    source = source_at(film)
    codecs = fitted(CONFIG, [source])
    receipt = make(CONFIG, codecs, tmp_path / "out", source)
    shard = Shard(tmp_path / "out" / receipt.shards[0].file)
    held = {checksum(replace(shard.row(i), found=())) for i in range(len(shard))}  # what was found on a whole source is known at its end
    told = list[SourceLine]()
    work = StreamSource(CONFIG, LocalEncoder(OpenEncoder(*codecs)), frozenset(), told.append)
    row = {"source": source_to_json(source)}
    assert len(held) > 1
    assert {checksum(replace(unpack_clip(made["clip"]), found=())) for made in work(row)} == held
    assert [(line.path, line.used, line.clips) for line in told] == [("film.mp4", True, len(held))]

    (tmp_path / "bad.mp4").write_bytes(b"no film")
    assert list(work({"source": source_to_json(source_at(tmp_path / "bad.mp4"))})) == []
    assert (told[-1].used, told[-1].stage) == (False, "probe")

    apart = StreamSource(CONFIG, LocalEncoder(OpenEncoder(*codecs)), frozenset([sha256_file(film)]), told.append)
    assert list(apart(row)) == []


def test_clips_that_training_has_had_are_passed_over(tmp_path: Path, ray_cluster: None) -> None:
    source = source_at(write_film(tmp_path / "film.mp4", 3.2))
    codecs = fitted(CONFIG, [source])
    told = list[SourceLine]()

    def ids(done: frozenset[str]) -> list[str]:
        work = StreamSource(CONFIG, LocalEncoder(OpenEncoder(*codecs)), frozenset(), told.append, ray.put(done))
        return [unpack_clip(made["clip"]).clip_id for made in work({"source": source_to_json(source)})]

    first, *others = ids(frozenset())
    assert others
    assert ids(frozenset([first])) == others
    assert ids(frozenset([first, *others])) == []
    assert told[-1].reason == ""


def test_what_came_of_sources_is_written_once(tmp_path: Path, ray_cluster: None) -> None:
    path = tmp_path / "streamed.jsonl"
    path.write_text('{"path": "cut')
    notes = StreamAccount.remote(path)  # type: ignore[attr-defined]
    lines = [
        SourceLine("a", "used"),
        SourceLine("b", "refused", "filter", "silent: -90 dB"),
        SourceLine("c", "refused", "filter", "silent: -80 dB"),
    ]
    ray.get([notes.tell.remote(line) for line in (*lines, *lines)])
    assert ray.get(notes.told.remote()) == (1, {"silent": 2})
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()[1:]] == ["a", "b", "c"]


def test_sources_that_are_held_out_are_told_by_their_bytes(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path, clips=4, sources=("a.mp4", "b.mp4"))
    assert held_out_contents(tmp_path, manifest) == {"content of a.mp4"}


def stage_of(folder: Path, passes: list[tuple[bool, int]], first: int | None) -> tuple[StreamedClips, list[tuple[str, bool]]]:
    """Clips of a stage whose passes have so many clips, and what was asked for."""
    make_dataset(folder, clips=4, sources=("a.mp4", "b.mp4"))
    dataset, asked, left = LatentDataset(folder, TextConfig()), list[tuple[str, bool]](), iter(passes)

    def share(stage: str, rest: bool) -> Generator[pa.Buffer, None, None]:
        asked.append((stage, rest))
        expected, count = next(left)
        assert rest == expected
        t, c = OF_ZEROS.timeline, OF_ZEROS.clip_chunks
        latents = np.zeros((t.video_latents(c), 2, 1, 1), np.float16), np.zeros((t.audio_latents(c), 3), np.float16)
        for n in range(count):
            yield pa.py_buffer(pack_clip(ClipRecord(f"{len(asked)}-{n}", "a", 0.0, *latents, "", ())))

    return StreamedClips(dataset, "joint", ("video", "audio"), share, first), asked


def test_passes_follow_one_another_within_a_batch(tmp_path: Path) -> None:
    clips, asked = stage_of(tmp_path, [(False, 3), (False, 3)], None)
    assert clips.batch([0, 1]).sample_ids == ("1-0", "1-1")
    batch = clips.batch([2, 3])
    assert batch.sample_ids == ("1-2", "2-0")
    assert batch.positions == (2, 3)
    assert clips.passes([2, 3]) == (0, 1)
    assert clips.passes([0, 1]) == (0, 0)
    assert asked == [("joint", False)] * 2


def test_a_resumed_stage_has_the_rest_of_its_pass_first(tmp_path: Path) -> None:
    clips, asked = stage_of(tmp_path, [(True, 1), (False, 3)], 4)
    assert clips.batch([0, 1]).sample_ids == ("1-0", "2-0")
    assert clips.passes([0, 1]) == (4, 5)
    assert asked == [("joint", True), ("joint", False)]


def test_a_pass_without_clips_ends_the_stage(tmp_path: Path) -> None:
    clips, _ = stage_of(tmp_path, [(True, 0), (False, 0)], 0)
    with pytest.raises(ValueError, match="gave no clip"):
        clips.batch([0])


def test_the_position_is_what_the_ledger_says() -> None:
    updates = [
        Update(0, ("a", "b"), True, None, (0, 0)),
        Update(1, ("c", "a"), True, None, (0, 1)),
        Update(2, ("d", "b"), True, None, (1, 1)),
    ]
    assert consumed([]) == (0, frozenset())
    assert consumed(updates[:1]) == (0, {"a", "b"})
    assert consumed(updates) == (1, {"a", "b", "d"})


def test_first_sources_stay_when_others_come() -> None:
    def source(n: int) -> Source:
        return Source(f"{n}.mp4", f"/m/{n}.mp4", "1")

    few, many = [source(n) for n in range(9)], [source(n) for n in range(30)]
    first = first_of(few, 3, 0, {})
    assert len(first) == 3
    assert first != few[:3]
    account = {s.name: SourceLine(s.name, "used") for s in first}
    assert first_of(many, 3, 0, account) == first
    assert first_of(many, 0, 0, {}) == many
