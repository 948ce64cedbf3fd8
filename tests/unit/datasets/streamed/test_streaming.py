"""Clips that go to training as they are decoded: the same as a dataset would hold, each once a pass, none that is held out."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
from dataset_material import CONFIG as OF_ZEROS
from dataset_material import make_dataset
from hypothesis import given
from hypothesis import strategies as st
from making_material import Codecs, fitted, make, source_at
from media_material import write_film

from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.encoding.encoders import LocalEncoder, OpenEncoder
from mutual_forcing.datasets.ffmpeg.ffmpeg_child import MediaError
from mutual_forcing.datasets.ffmpeg.film import Film
from mutual_forcing.datasets.format.account import SourceLine, read_account
from mutual_forcing.datasets.format.records import ClipRecord, checksum
from mutual_forcing.datasets.format.shards import Shard
from mutual_forcing.datasets.intake.sources import Source, source_to_json
from mutual_forcing.datasets.ledger import Update, consumed
from mutual_forcing.datasets.places.storage import sha256_file
from mutual_forcing.datasets.preparing.growth import drawn, first_of
from mutual_forcing.datasets.reading.loader import LatentDataset
from mutual_forcing.datasets.streamed import streaming as streaming_module
from mutual_forcing.datasets.streamed.packed_clip import pack_clip, unpack_clip
from mutual_forcing.datasets.streamed.stream_account import StreamAccount, Told
from mutual_forcing.datasets.streamed.streamed_clips import StreamedClips
from mutual_forcing.datasets.streamed.streaming import HeldOut, StreamSource
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


NOTHING = HeldOut(frozenset(), 0)


class Streaming:
    """Sources of a folder on their way to training, and what is told of them."""

    def __init__(self, folder: Path, codecs: Codecs, held_out: HeldOut = NOTHING, config: DataConfig = CONFIG) -> None:
        self.account: Any = StreamAccount.remote(folder / "streamed.jsonl")  # type: ignore[attr-defined]
        self._folder, self._rest = folder, (config, LocalEncoder(OpenEncoder(*codecs)), held_out)

    def clips(self, source: Source, had: frozenset[str] | None = None) -> list[ClipRecord]:
        stage = f"stage-{len(had or ())}"
        if had is not None:
            ray.get(self.account.resume.remote(stage, had))
        config, encoder, held_out = self._rest
        work = StreamSource(config, encoder, held_out, self.account, stage, had is not None)
        return [unpack_clip(made["clip"]) for made in work({"source": source_to_json(source)})]

    def lines(self) -> list[SourceLine]:
        ray.get(self.account.told.remote())
        return read_account(self._folder / "streamed.jsonl")


def test_a_source_gives_the_clips_that_a_dataset_holds(tmp_path: Path, ray_cluster: None) -> None:
    film = write_film(tmp_path / "film.mp4", 3.2)
    source = source_at(film)
    codecs = fitted(CONFIG, [source])
    receipt = make(CONFIG, codecs, tmp_path / "out", source)
    shard = Shard(tmp_path / "out" / receipt.shards[0].file)
    held = {checksum(replace(shard.row(i), found=())) for i in range(len(shard))}  # what was found on a whole source is known at its end
    streaming = Streaming(tmp_path, codecs)
    assert len(held) > 1
    assert {checksum(replace(clip, found=())) for clip in streaming.clips(source)} == held
    (tmp_path / "bad.mp4").write_bytes(b"no film")
    assert streaming.clips(source_at(tmp_path / "bad.mp4")) == []
    assert [(line.path, line.used, line.clips) for line in streaming.lines()] == [("film.mp4", True, len(held)), ("bad.mp4", False, 0)]


def test_what_is_held_out_is_left(tmp_path: Path, ray_cluster: None) -> None:
    film = write_film(tmp_path / "film.mp4", 3.2)
    source = source_at(film)
    codecs = fitted(CONFIG, [source])
    by_bytes = Streaming(tmp_path, codecs, HeldOut(frozenset([sha256_file(film)]), 0))
    assert by_bytes.clips(source) == []
    assert by_bytes.lines()[0].reason == "held out"
    everything = Streaming(tmp_path, codecs, HeldOut(frozenset(), 2**63))
    assert everything.clips(source) == []


def test_clips_that_training_has_had_are_passed_over(tmp_path: Path, ray_cluster: None) -> None:
    source = source_at(write_film(tmp_path / "film.mp4", 3.2))
    streaming = Streaming(tmp_path, fitted(CONFIG, [source]))
    first, *others = [clip.clip_id for clip in streaming.clips(source)]
    assert others
    assert [clip.clip_id for clip in streaming.clips(source, frozenset([first]))] == others
    assert streaming.clips(source, frozenset([first, *others])) == []
    assert [(line.path, line.reason, line.clips) for line in streaming.lines()] == [("film.mp4", "", 1 + len(others))]


def test_a_source_of_which_all_was_had_is_not_decoded(tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_at(write_film(tmp_path / "film.mp4", 3.2))
    streaming = Streaming(tmp_path, fitted(CONFIG, [source]))
    every = frozenset(clip.clip_id for clip in streaming.clips(source))
    monkeypatch.setattr(Film, "read", None)
    assert streaming.clips(source, every) == []


def test_a_source_that_turns_out_to_be_damaged_gives_nothing(tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_at(write_film(tmp_path / "film.mp4", 3.2))
    streaming = Streaming(tmp_path, fitted(CONFIG, [source]))

    def damaged(film: Film) -> None:
        raise MediaError("decode", tmp_path / "film.mp4", "damaged in 47 places")

    monkeypatch.setattr(Film, "verdict", damaged)
    assert streaming.clips(source) == []
    monkeypatch.setattr(streaming_module, "HELD_BYTES", 0)  # as of a film of hours
    assert len(streaming.clips(source)) > 1
    assert streaming.lines()[0].reason == "damaged in 47 places"


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
    assert ray.get(notes.told.remote()) == Told(1, {"silent": 2}, 0)
    assert [json.loads(line)["path"] for line in path.read_text().splitlines()[1:]] == ["a", "b", "c"]


def test_sources_that_are_held_out_are_told_by_their_bytes(tmp_path: Path) -> None:
    manifest = make_dataset(tmp_path, clips=4, sources=("a.mp4", "b.mp4"))
    assert HeldOut.of(tmp_path, manifest) == HeldOut(frozenset(["content of a.mp4"]), manifest.held_out_below)


Had = frozenset[str]


def stage_of(folder: Path, counts: list[int], had: tuple[int, Had] | None) -> tuple[StreamedClips, list[Had]]:
    """Clips of a stage whose passes have so many, and what was asked for."""
    make_dataset(folder, clips=4, sources=("a.mp4", "b.mp4"))
    dataset, asked, left = LatentDataset(folder, TextConfig()), list[Had](), iter(counts)

    def share(stage: str, without: Had) -> Generator[pa.Buffer, None, None]:
        asked.append(without)
        t, c = OF_ZEROS.timeline, OF_ZEROS.clip_chunks
        latents = np.zeros((t.video_latents(c), 2, 1, 1), np.float16), np.zeros((t.audio_latents(c), 3), np.float16)
        for n in range(next(left)):
            yield pa.py_buffer(pack_clip(ClipRecord(f"{len(asked)}-{n}", "a", 0.0, *latents, "", ())))

    return StreamedClips(dataset, "joint", ("video", "audio"), share, had), asked


def test_passes_follow_one_another_within_a_batch(tmp_path: Path) -> None:
    clips, asked = stage_of(tmp_path, [3, 3], None)
    assert clips.batch([0, 1]).sample_ids == ("1-0", "1-1")
    batch = clips.batch([2, 3])
    assert batch.sample_ids == ("1-2", "2-0")
    assert batch.positions == (2, 3)
    assert clips.passes([2, 3]) == (0, 1)
    assert clips.passes([0, 1]) == (0, 0)
    assert asked == [frozenset()] * 2


def test_a_resumed_stage_has_the_rest_of_its_pass_first(tmp_path: Path) -> None:
    clips, asked = stage_of(tmp_path, [1, 3], (4, frozenset(["x"])))
    assert clips.batch([0, 1]).sample_ids == ("1-0", "2-0")
    assert clips.passes([0, 1]) == (4, 5)
    assert asked == [frozenset(["x"]), frozenset()]


def test_a_pass_without_clips_ends_the_stage(tmp_path: Path) -> None:
    clips, asked = stage_of(tmp_path, [0, 0], (0, frozenset(["x"])))
    with pytest.raises(ValueError, match="gave no clip"):
        clips.batch([0])
    assert len(asked) == 2, "what is left of a pass may be nothing"


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
    few, many = ([Source(f"{n}.mp4", f"/m/{n}.mp4", "1") for n in range(count)] for count in (9, 30))
    account = {s.name: SourceLine(s.name, "used") for s in few[:3]}
    assert first_of(many, account, 3) == few[:3]
    assert first_of(many, {}, 0) == many


def test_files_that_are_no_media_are_not_drawn() -> None:
    sources = [Source(f"{n}.mp4", f"/m/{n}.mp4", "1", refused="" if n % 5 == 0 else "not a media file") for n in range(50)]
    found = drawn(sources, 0)
    assert {s.name for s in found} == {f"{n}.mp4" for n in range(0, 50, 5)}
    assert [s.name for s in found] != [s.name for s in drawn(sources, 1)]
