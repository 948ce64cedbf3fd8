"""The stages of preparation on files that were really written: a first look, what codecs are fitted to, and clips with their receipt."""

from __future__ import annotations

import json
import pickle
import subprocess
import wave
from dataclasses import replace
from math import isfinite
from pathlib import Path

import numpy as np
import pytest
import torch
from making_material import Codecs, fitted, look, make, maker, measure, source_at
from media_material import FPS, RATE, film, names, write_film

from mutual_forcing.datasets.config import DataConfig, PoolConfig, first_difference
from mutual_forcing.datasets.ffmpeg.media import decode, ffmpeg_path, probe, write_media
from mutual_forcing.datasets.format.account import UNREAD
from mutual_forcing.datasets.format.parts import Item, Part, finished, parts_of, receipt_of
from mutual_forcing.datasets.format.shards import ClipRecord, Shard
from mutual_forcing.datasets.intake.sources import Source, Span
from mutual_forcing.datasets.places.storage import sha256_file
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.preparing.commit import line_of
from mutual_forcing.datasets.preparing.cutting import Reel
from mutual_forcing.datasets.preparing.look import Looked
from mutual_forcing.datasets.preparing.making import clip_id, part_of, part_row
from mutual_forcing.datasets.preparing.measuring import pack_moments, unpack_moments
from mutual_forcing.datasets.signals.filters import FilterConfig
from mutual_forcing.model.codecs.dct import DctVideoCodec, VideoMoments
from mutual_forcing.model.codecs.mdct import AudioMoments
from mutual_forcing.model.timeline import Timeline

CONFIG = DataConfig(media="/media", clip_chunks=2)
TIMELINE = CONFIG.timeline
SECONDS = 2.1  # two clips of two chunks: 49 frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good film with a sidecar, and files that are refused at every stage."""
    folder = tmp_path_factory.mktemp("media")
    write_film(folder / "good.mp4", SECONDS)
    words = [{"word": "one", "start": 0.2, "end": 0.5}, {"word": "two", "start": 0.9, "end": 1.1}]
    (folder / "good.json").write_text(json.dumps({"caption": "Waves.", "transcript": words}))
    write_film(folder / "short.mp4", 0.9)
    write_film(folder / "words.mp4", SECONDS)
    (folder / "words.json").write_text("{")
    frames, audio = film(SECONDS, None)
    write_media(folder / "mute.mkv", frames, FPS, None, RATE)
    write_media(folder / "silent.mkv", frames, FPS, np.zeros_like(audio), RATE)
    write_media(folder / "black.mkv", np.zeros_like(frames), FPS, audio, RATE)
    audio[round(0.9 * RATE) :] = 0
    write_media(folder / "half.mkv", frames, FPS, audio, RATE)
    (folder / "text.mp4").write_text("no film")
    (folder / "notes.txt").write_text("no film")
    return folder


@pytest.fixture(scope="module")
def codecs(folder: Path) -> Codecs:
    return fitted(CONFIG, [source_at(folder / "good.mp4")])


def shard_of(out: Path) -> list[ClipRecord]:
    (path,) = out.glob("shard-*")
    shard = Shard(path)
    return [shard.row(i) for i in range(len(shard))]


def test_a_first_look_finds_what_can_be_used(folder: Path) -> None:
    found = look(CONFIG, source_at(folder / "good.mp4"))
    assert (found.stage, found.reason, found.has_text) == ("", "", True)
    assert found.seconds == pytest.approx(SECONDS, abs=1 / FPS)
    assert found.content == sha256_file(folder / "good.mp4")


@pytest.mark.parametrize(
    ("name", "stage", "reason"),
    [
        ("words.mp4", "text", "sidecar words.json: not JSON"),
        ("mute.mkv", "filter", "no sound"),
        ("text.mp4", "probe", "none of the containers"),
        ("notes.txt", "list", "not a media file (.txt)"),
    ],
)
def test_a_first_look_refuses_with_stage_and_reason(
    folder: Path, codecs: Codecs, tmp_path: Path, name: str, stage: str, reason: str
) -> None:
    source = source_at(folder / name)
    found = look(CONFIG, source)
    assert (found.stage, found.content) == (stage, "")
    assert reason in found.reason
    # Had the file changed after it, nothing else would trust it either.
    if stage != "list":
        assert not measure(CONFIG, source)["moments"] or stage == "text"
        (outcome,) = make(CONFIG, codecs, tmp_path, source).outcomes
        assert (outcome.stage, outcome.clips) == (stage, 0)
        assert reason in outcome.reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [("short.mp4", "too short: 0.92 s, a clip has 1.04 s"), ("silent.mkv", "silent: "), ("black.mkv", "black: ")],
)
def test_what_decoding_alone_shows_is_refused_where_clips_are_made(
    folder: Path, codecs: Codecs, tmp_path: Path, name: str, reason: str
) -> None:
    source = source_at(folder / name)
    assert not look(CONFIG, source).reason
    (outcome,) = make(CONFIG, codecs, tmp_path, source).outcomes
    assert (outcome.stage, outcome.clips) == ("filter", 0)
    assert reason in outcome.reason
    assert reason in measure(CONFIG, source)["refused"]
    assert not list(tmp_path.glob("shard-*"))


def test_what_cannot_be_read_says_nothing_of_the_source(tmp_path: Path, codecs: Codecs) -> None:
    write_film(path := tmp_path / "a.mp4", 1.2)
    inside = replace(source_at(path), path=f"{path}//member.mp4", size=10**9)  # of a tar that has been cut off meanwhile
    assert look(CONFIG, inside).unread
    assert measure(CONFIG, inside)["refused"]
    (outcome,) = make(CONFIG, codecs, tmp_path / "out", inside).outcomes
    assert (outcome.stage, outcome.clips) == (UNREAD, 0)


def test_moments_survive_the_table_and_add_up() -> None:
    parts = []
    for seed in range(2):
        video, audio = VideoMoments(8, 4), AudioMoments(512)
        frames, sound = film(1.05, seed=seed)
        video.update(torch.from_numpy(frames[None, :25]))
        audio.update(torch.from_numpy(sound[None, : 512 * 31]))
        parts.append((video, audio))
    for original, back in zip(parts[0], unpack_moments(pack_moments(*parts[0])), strict=True):
        for name, array in original.to_arrays().items():
            np.testing.assert_array_equal(back.to_arrays()[name], array)
    one, other = (unpack_moments(pack_moments(*part)) for part in parts)
    merged = one[0].merge(other[0]).to_arrays()
    again = parts[1][0].merge(parts[0][0]).to_arrays()
    assert all(np.array_equal(merged[name], again[name]) for name in merged)


def test_clips_are_made_with_their_text_and_what_was_found(folder: Path, codecs: Codecs, tmp_path: Path) -> None:
    receipt = make(CONFIG, codecs, tmp_path, source_at(folder / "good.mp4"))
    clips = shard_of(tmp_path)
    assert [clip.start_s for clip in clips] == [0.0, 1.0]
    assert [clip.caption for clip in clips] == ["Waves.", "Waves."]
    assert clips[0].words == (("one", 0.2, 0.5), ("two", 0.9, 1.1))
    assert clips[1].words == (("two", pytest.approx(-0.1), pytest.approx(0.1)),)
    assert all(
        {"av_offset_ms", "drift_ms", "priming_ms", "sound_gap_ms", "source_fps", "loudness_db", "motion"} <= dict(c.found).keys()
        for c in clips
    )
    assert receipt.quality[0][0] > 25
    decoded = decode(folder / "good.mp4", probe(folder / "good.mp4"), CONFIG.decoding)
    encode = DctVideoCodec.from_json(codecs[0]).encode
    for clip, first in zip(clips, (0, 24), strict=True):
        wanted = encode(torch.from_numpy(decoded.frames[first : first + 25].copy())[None])[0].half().numpy()
        np.testing.assert_array_equal(clip.video, wanted)
        assert clip.audio is not None
        assert clip.audio.shape[0] == TIMELINE.audio_latents(2)


def test_receipt_shard_and_table_tell_the_same(folder: Path, codecs: Codecs, tmp_path: Path) -> None:
    sources = [source_at(folder / name) for name in ("good.mp4", "half.mkv", "text.mp4")]
    receipt = make(CONFIG, codecs, tmp_path, *sources)
    clips = shard_of(tmp_path)
    assert [(o.name, o.clips) for o in receipt.outcomes] == [("good.mp4", 2), ("half.mkv", 1), ("text.mp4", 0)]
    assert [(row.clip_id, row.source, row.row, row.chunks) for row in receipt.clips] == [
        (c.clip_id, c.source, i, 2) for i, c in enumerate(clips)
    ]
    (left_out,) = receipt.outcomes[1].left_out
    assert left_out.start_s == 1.0
    assert left_out.reason.startswith("silent")
    assert receipt.outcomes[1].note == "1 of its clips left out: silent"
    assert receipt_of(receipt.to_json()) == receipt
    part = Part("0", ())
    store = LocalStore(tmp_path)
    assert finished(store, part, store.names()) == receipt
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    make(CONFIG, codecs, tmp_path, *sources)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before, "a repeated task writes the same files again"
    nothing = make(CONFIG, codecs, tmp_path, sources[2], name="1")
    assert names(tmp_path) == [".part-0.json", ".part-1.json", receipt.shards[0].file], "no clip, no shard"
    assert finished(store, Part("1", ()), store.names()) == nothing


def test_clip_ids_belong_to_the_content_and_the_place(folder: Path, codecs: Codecs, tmp_path: Path) -> None:
    ids = [clip.clip_id for clip in make(CONFIG, codecs, tmp_path / "a", source_at(folder / "good.mp4")).clips]
    assert ids == [clip_id(sha256_file(folder / "good.mp4"), start, 2) for start in (0.0, 1.0)]
    moved = tmp_path / "elsewhere.mp4"
    moved.write_bytes((folder / "good.mp4").read_bytes())
    assert [clip.clip_id for clip in make(CONFIG, codecs, tmp_path / "b", source_at(moved)).clips] == ids
    assert len(set(ids)) == 2
    write_film(moved, SECONDS, seed=1)
    assert not set(ids) & {clip.clip_id for clip in make(CONFIG, codecs, tmp_path / "c", source_at(moved)).clips}


def test_only_the_pieces_that_a_list_names_become_clips(tmp_path: Path, codecs: Codecs) -> None:
    write_film(path := tmp_path / "long.mp4", 8.0)
    spans = (Span(4.0, 6.1, "second", (("four", 4.2, 4.4),)), Span(0.5, 1.6, "first", tags=(("speaker", "A"),)))
    receipt = make(CONFIG, codecs, tmp_path / "out", source_at(path, spans=spans, caption="all", tags=(("licence", "CC0"),)))
    clips = shard_of(tmp_path / "out")
    assert [(clip.start_s, clip.caption) for clip in clips] == [(0.5, "first"), (4.0, "second"), (5.0, "second")]
    assert clips[1].words == (("four", pytest.approx(0.2), pytest.approx(0.4)),)
    assert [dict(clip.tags) for clip in clips] == [{"licence": "CC0", "speaker": "A"}, {"licence": "CC0"}, {"licence": "CC0"}]
    assert receipt.outcomes[0].clips == 3
    whole = make(CONFIG, codecs, tmp_path / "whole", source_at(path))
    assert {row.start_s for row in whole.clips} == {0, 1, 2, 3, 4, 5, 6}
    np.testing.assert_array_equal(clips[1].video, shard_of(tmp_path / "whole")[4].video)


def test_shorter_and_overlapping_clips_when_they_are_asked_for(tmp_path: Path, codecs: Codecs) -> None:
    write_film(path := tmp_path / "a.mp4", 2.6)  # five chunks
    for changes, wanted in (
        ({}, [(0.0, 2), (1.0, 2)]),
        ({"min_chunks": 1}, [(0.0, 2), (1.0, 2), (2.0, 1)]),
        ({"stride_chunks": 1}, [(0.0, 2), (0.5, 2), (1.0, 2), (1.5, 2)]),
    ):
        receipt = make(replace(CONFIG, **changes), codecs, tmp_path / str(changes), source_at(path))
        assert [(row.start_s, row.chunks) for row in receipt.clips] == wanted, changes


@pytest.mark.parametrize(("modality", "other"), [("video", "audio"), ("audio", "video")])
def test_a_set_of_one_modality_needs_the_other_in_no_source(
    folder: Path, codecs: Codecs, tmp_path: Path, modality: str, other: str
) -> None:
    config = replace(CONFIG, modalities=(modality,))
    name = "mute.mkv" if modality == "video" else "sound.wav"
    if modality == "audio":
        _, audio = film(SECONDS)
        with wave.open(str(tmp_path / name), "wb") as file:
            file.setparams((1, 2, RATE, len(audio), "NONE", ""))
            file.writeframes((20000 * audio).astype("<i2").tobytes())
    source = source_at((folder if modality == "video" else tmp_path) / name)
    assert not look(config, source).reason
    given = fitted(config, [source])
    receipt = make(config, given, tmp_path / "out", source)
    assert receipt.outcomes[0].clips == 2
    for clip in shard_of(tmp_path / "out"):
        assert getattr(clip, modality) is not None
        assert getattr(clip, other) is None
        assert clip.end_s - clip.start_s == pytest.approx(config.timeline.seconds(config.clip_chunks))
    line = line_of(source, Looked(), receipt.outcomes[0], 1)
    assert line.av_offset_ms is None, "it has one of the two"
    mine, others = {"video": "source_fps", "audio": "drift_ms"}[modality], {"video": "drift_ms", "audio": "source_fps"}[modality]
    assert mine in dict(line.timing)
    assert not {others, "av_offset_ms"} & dict(line.timing).keys()
    assert all(isfinite(q[modality == "audio"]) != isfinite(q[modality == "video"]) for q in receipt.quality)
    both = make(config, given, tmp_path / "both", source_at(folder / "good.mp4"))
    assert both.outcomes[0].clips == 2, "of a film the rest is left"


@pytest.mark.parametrize("broken", [0, 1])
def test_latents_that_16_bits_do_not_hold_are_left_out_by_name(folder: Path, codecs: Codecs, tmp_path: Path, broken: int) -> None:
    """Fitted to clips that hardly vary, a codec divides by next to nothing."""
    data = [dict(codec) for codec in codecs]
    data[broken]["scale"] = [1e-9 * x for x in data[broken]["scale"]]
    (outcome,) = make(CONFIG, (data[0], data[1]), tmp_path, source_at(folder / "good.mp4")).outcomes
    assert (outcome.stage, outcome.clips) == ("filter", 0)
    assert outcome.reason == f"its {('video', 'audio')[broken]} latents are not finite in 16 bits; fit the codec to clips like this one"


def test_what_cannot_be_written_ends_the_job_and_condemns_no_source(folder: Path, codecs: Codecs, tmp_path: Path) -> None:
    make_part = maker(CONFIG, codecs, tmp_path / "out")
    (tmp_path / "out").rmdir()
    (tmp_path / "out").symlink_to("/dev/full")
    source = source_at(folder / "good.mp4")
    with pytest.raises(OSError, match="File exists"):
        make_part.make(Part("0", (Item(source, "x", 1),)))


def test_parts_travel_as_rows_and_hold_what_a_shard_does(folder: Path, codecs: Codecs, tmp_path: Path) -> None:
    sources = [Source(f"{i}.mp4", f"/m/{i}.mp4", "1", spans=(Span(0.0, 1.0, "é", (("a", 0.1, 0.2),)),)) for i in range(70)]
    items = [Item(source, "c", 2, (0, 5)) for source in sources]
    parts = parts_of(items, CONFIG.clip_bytes, "s")
    assert [item for part in parts for item in part.items] == items
    assert len({part.name for part in parts}) == len(parts) == 35  # of 140 clips 1/32nd each: two sources
    assert [part_of(part_row(part)["part"]) for part in parts] == parts
    assert parts_of(items, CONFIG.clip_bytes, "s") == parts
    assert not {part.name for part in parts_of(items, CONFIG.clip_bytes, "other")} & {part.name for part in parts}
    big = parts_of(items, 64 << 20, "s")
    assert len(big) == 70, "a shard of 128 MiB holds two such clips"
    pickle.loads(pickle.dumps(maker(CONFIG, codecs, tmp_path)))


def test_settings_that_shape_clips_are_told_apart_by_name() -> None:
    there = json.loads(json.dumps(CONFIG.shaping()))
    assert first_difference(there, CONFIG.shaping()) == ""
    for other, said in (
        (replace(CONFIG, seed=1), "data.seed=0 there, 1 here"),
        (replace(CONFIG, filters=FilterConfig(min_luma=1.0)), "data.filters.min_luma=6.0 there, 1.0 here"),
        (replace(CONFIG, modalities=("audio",)), "data.modalities=['video', 'audio'] there, ['audio'] here"),
    ):
        assert first_difference(there, other.shaping()) == said
    for same in (replace(CONFIG, media=("/elsewhere", "x")), replace(CONFIG, pool=PoolConfig(4)), replace(CONFIG, synthetic_count=9)):
        assert first_difference(there, same.shaping()) == "", "where sources lie and who works at them shapes no clip"


@pytest.mark.parametrize(
    "bad",
    [
        {"held_out_share": 0.0},
        {"held_out_share": 1.0},
        {"clip_chunks": 0},
        {"min_chunks": 6},
        {"stride_chunks": -1},
        {"codec_fit_sources": 0},
        {"modalities": ()},
        {"modalities": ("video", "text")},
        {"media": ()},
        {"width": 65},
        {"height": 12},
        {"timeline": Timeline(audio_hop=320)},
        {"timeline": Timeline(video_stride=2)},
    ],
)
def test_bad_settings_name_the_field(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=rf"data\.{next(iter(bad))}"):
        DataConfig(**bad)  # type: ignore[arg-type]


def test_sound_alone_keeps_the_clock_of_the_pictures(tmp_path: Path, codecs: Codecs) -> None:
    """Words and spans are on it: of a film whose sound begins later, they would be late by as much."""
    frames, audio = film(2.1, 1.0)
    write_media(tmp_path / "a.mkv", frames, FPS, audio, RATE)
    moved = tmp_path / "late.mkv"
    command = [ffmpeg_path(), "-v", "error", "-i", str(tmp_path / "a.mkv"), "-itsoffset", "0.3", "-i", str(tmp_path / "a.mkv")]
    subprocess.run([*command, "-map", "0:v", "-map", "1:a", "-c", "copy", str(moved)], check=True)
    found = probe(moved)
    assert found.av_offset_s == pytest.approx(0.3, abs=0.03)
    for modalities in (("video", "audio"), ("audio",)):
        config = replace(CONFIG, modalities=modalities)
        reel = Reel(moved, found, config, (), ())
        sound = next(clip for clip in reel if clip.start_s == 1.0).audio
        assert sound is not None
        assert np.abs(sound).argmax() / RATE == pytest.approx(0.3, abs=0.03), modalities
        list(reel)
        assert reel.seen.av_offset_ms == pytest.approx(300, abs=30)
        assert not any(note.startswith("no ") for note in reel.seen.notes)


@pytest.mark.parametrize("right", ["licence", "consent"])
def test_a_source_without_an_allowed_licence_or_consent_is_refused(folder: Path, right: str) -> None:
    """The source's own counts for pieces that tell none."""
    free = replace(CONFIG, filters=replace(CONFIG.filters, **{f"{right}s": ("CC0-1.0",)}))
    path = folder / "good.mp4"
    own, other = ((right, "cc0-1.0"),), ((right, "CC-BY-NC-4.0"),)
    for tags, pieces, told in (
        (own, (), ""),
        ((), (), f"{right}: none is told"),
        (other, (), f"{right}: 'CC-BY-NC-4.0', one of CC0-1.0 wanted"),
        (own, (Span(0.0, 1.0),), ""),
        (own, (Span(0.0, 1.0, tags=other),), f"{right}: 'CC-BY-NC-4.0'"),
        ((), (Span(0.0, 1.0, tags=own), Span(1.0, 2.0)), f"{right}: none is told"),
    ):
        looked = look(free, source_at(path, tags=tags, spans=pieces))
        assert (looked.stage, looked.reason[: len(told)]) == (("filter", told) if told else ("", "")), (tags, pieces, looked)
    assert f"{right}s" not in CONFIG.shaping()["filters"], "datasets of earlier releases can grow"
    assert free.shaping()["filters"][f"{right}s"] == ["CC0-1.0"]
