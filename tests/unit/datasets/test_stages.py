"""The stages of preparation on files that were really written: clips cut exactly, refusals with reasons, ids that stay."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from media_material import FPS, RATE, film, names, write_film

from mutual_forcing.datasets.filters import FilterConfig
from mutual_forcing.datasets.media import Decoded, decode, probe, write_media
from mutual_forcing.datasets.parts import Part, finished
from mutual_forcing.datasets.shards import Shard
from mutual_forcing.datasets.stages import (
    DataConfig,
    Encode,
    MakePart,
    Row,
    Survey,
    cut_clips,
    pack_moments,
    settings_of,
    unpack_moments,
)
from mutual_forcing.datasets.storage import sha256_file
from mutual_forcing.model.codecs.dct import DctVideoCodec, VideoMoments
from mutual_forcing.model.codecs.mdct import AudioMoments, MdctAudioCodec
from mutual_forcing.model.timeline import Timeline

CONFIG = DataConfig(media="/media", clip_chunks=2)
TIMELINE = CONFIG.timeline
SECONDS = 2.1  # two clips of two chunks: 49 frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
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


def survey(path: Path, measure: bool = False) -> Row:
    return Survey(CONFIG)({"source": str(path), "measure": measure})


@pytest.fixture(scope="module")
def encode(folder: Path) -> Encode:
    video, audio = unpack_moments(survey(folder / "good.mp4", measure=True)["moments"])
    codecs = DctVideoCodec.fit(CONFIG.video_codec, video), MdctAudioCodec.fit(CONFIG.audio_codec, audio)
    return pickle.loads(pickle.dumps(Encode(CONFIG, *(codec.to_json() for codec in codecs))))  # as Ray ships it


@pytest.mark.parametrize("broken", ["video", "audio"])
def test_latents_that_16_bits_do_not_hold_are_refused_by_name(folder: Path, broken: str) -> None:
    """Fitted to clips that hardly vary, a codec divides by next to nothing."""
    video, audio = unpack_moments(survey(folder / "good.mp4", measure=True)["moments"])
    data = {
        "video": DctVideoCodec.fit(CONFIG.video_codec, video).to_json(),
        "audio": MdctAudioCodec.fit(CONFIG.audio_codec, audio).to_json(),
    }
    data[broken]["scale"] = [1e-9 * x for x in data[broken]["scale"]]
    rows = list(Encode(CONFIG, data["video"], data["audio"])({"source": str(folder / "good.mp4"), "content": "c"}))
    assert [row["clip_id"] for row in rows] == ["", ""]
    assert rows[1]["reason"] == f"clip at 1.00 s: its {broken} latents are not finite in 16 bits; fit the codec to clips like this one"


def encoded(encode: Encode, path: Path) -> list[Row]:
    return list(encode({"source": str(path), "content": sha256_file(path)}))


@given(
    fps=st.sampled_from([24, 25, 30]),
    rate=st.sampled_from([16000, 22050, 44100]),
    chunks=st.integers(1, 4),
    frames=st.integers(0, 140),
    spare=st.integers(-5000, 500),
)
def test_clips_are_cut_at_the_same_time_from_pictures_and_sound(fps, rate, chunks, frames, spare):
    """Every frame carries its number and every sample its own, so that a shift by one would show."""
    timeline = Timeline(fps=fps, sample_rate=rate)
    config = replace(CONFIG, timeline=timeline, clip_chunks=chunks)
    numbers = np.arange(frames, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    audio = np.arange(max(0, round(frames * rate / fps) + spare), dtype=np.float32)
    cuts = cut_clips(Decoded(numbers, audio, 0.0, ()), config)
    step = chunks * timeline.chunk_frames
    for i, cut in enumerate(cuts):
        assert cut.start_s == i * step / fps
        assert cut.frames[:, 0, 0, 0].tolist() == list(range(i * step, (i + 1) * step + 1))
        assert len(cut.audio) == timeline.samples(chunks)
        assert abs(cut.audio[0] - cut.start_s * rate) <= 0.5
        assert cut.audio[-1] - cut.audio[0] == len(cut.audio) - 1
    whole = max(0, (frames - 1) // step)
    assert len(cuts) <= whole
    if spare >= 0 and timeline.samples(chunks) <= timeline.seconds(chunks) * rate:
        assert len(cuts) == whole
    assert cut_clips(Decoded(numbers, None, 0.0, ()), config) == []


def test_moments_survive_the_table_and_add_up(folder):
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


def test_survey_finds_what_can_be_used(folder):
    row = survey(folder / "good.mp4")
    assert (row["status"], row["reason"], row["note"], row["moments"]) == ("used", "", "", b"")
    assert row["seconds"] == pytest.approx(SECONDS, abs=1 / FPS)
    assert row["content"] == sha256_file(folder / "good.mp4")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("short.mp4", "too short: 0.92 s, a clip has 1.04 s"),
        ("words.mp4", "sidecar words.json: not JSON"),
        ("mute.mkv", "no sound"),
        ("silent.mkv", "silent: "),
        ("black.mkv", "black: "),
        ("text.mp4", "none of the containers"),
        ("notes.txt", "not a media file (.txt)"),
        ("absent.mp4", "cannot be opened"),
    ],
)
def test_survey_refuses_with_a_reason(folder, encode, name, reason):
    row = survey(folder / name, measure=True)
    assert (row["status"], row["content"], row["moments"]) == ("refused", "", b"")
    assert reason in row["reason"]
    # Had the file changed after the survey, the encoder would not crash either.
    assert not any(clip["clip_id"] for clip in encode({"source": str(folder / name), "content": "x"}))


def test_encode_gives_the_latents_of_the_clips(folder, encode):
    rows = encoded(encode, folder / "good.mp4")
    assert [row["start_s"] for row in rows] == [0.0, 1.0]
    assert [json.loads(row["text"]) for row in rows] == [
        {"caption": "Waves.", "words": [["one", 0.2, 0.5], ["two", 0.9, 1.1]]},
        {"caption": "Waves.", "words": [["two", pytest.approx(-0.1), pytest.approx(0.1)]]},
    ]
    assert all(row["psnr_db"] > 25 for row in rows)
    decoded = decode(folder / "good.mp4", probe(folder / "good.mp4"), CONFIG.decoding)
    first = cut_clips(decoded, CONFIG)[0]
    video = encode._video.encode(torch.from_numpy(first.frames.copy())[None])[0].half().numpy()
    assert video.shape[0] == TIMELINE.video_latents(2)
    assert rows[0]["video"] == video.tobytes()


def test_a_clip_that_is_silent_is_left_out_with_its_time(folder, encode):
    rows = encoded(encode, folder / "half.mkv")
    assert [bool(row["clip_id"]) for row in rows] == [True, False]
    assert rows[1]["reason"].startswith("clip at 1.00 s: silent")


def test_clip_ids_belong_to_the_content_and_the_place(folder, encode, tmp_path):
    ids = [row["clip_id"] for row in encoded(encode, folder / "good.mp4")]
    moved = tmp_path / "elsewhere.mp4"
    moved.write_bytes((folder / "good.mp4").read_bytes())
    assert [row["clip_id"] for row in encoded(encode, moved)] == ids
    assert len(set(ids)) == 2
    write_film(moved, SECONDS, seed=1)
    assert not set(ids) & {row["clip_id"] for row in encoded(encode, moved)}


def test_written_shards_hold_the_clips_and_leave_the_refusals_in_the_table(folder, encode, tmp_path):
    rows = encoded(encode, folder / "good.mp4") + encoded(encode, folder / "half.mkv") + encoded(encode, folder / "text.mp4")
    part, write = Part("0", ()), MakePart(encode, str(tmp_path)).write
    table = write(part, rows)
    assert [row["clip_id"] for row in table] == [row["clip_id"] for row in rows]
    receipt, file = names(tmp_path)
    assert (receipt, file) == (part.receipt, part.shard)
    assert finished(tmp_path, part) == table
    assert {row["shard"] for row in table} == {file, ""}
    shard = Shard(tmp_path / file)
    assert shard.clip_ids == [row["clip_id"] for row in rows if row["clip_id"]]
    back = shard.row(0)
    assert (back.get("video").tobytes(), back.get("audio").tobytes()) == (rows[0]["video"], rows[0]["audio"])
    assert (back.caption, back.words[0], back.source) == ("Waves.", ("one", 0.2, 0.5), str(folder / "good.mp4"))
    assert len(back.get("audio")) == TIMELINE.audio_latents(2)
    write(part, rows)  # a repeated task writes the same files again
    assert names(tmp_path) == [receipt, file]
    nothing = Part("1", ())
    write(nothing, encoded(encode, folder / "text.mp4"))
    assert names(tmp_path) == [receipt, nothing.receipt, file], "no clip, no shard"
    assert [row["clip_id"] for row in finished(tmp_path, nothing) or []] == [""]


def test_settings_follow_everything_that_shapes_the_dataset(folder):
    sources = [folder / "good.mp4", folder / "half.mkv"]
    same = settings_of(CONFIG, sources)
    assert settings_of(replace(CONFIG), list(sources)) == same
    others = [replace(CONFIG, seed=1), replace(CONFIG, width=32), replace(CONFIG, filters=FilterConfig(min_luma=1.0))]
    hashes = {same, settings_of(CONFIG, sources[:1]), *(settings_of(other, sources) for other in others)}
    sidecar = folder / "half.json"
    sidecar.write_text("{}")
    hashes.add(settings_of(CONFIG, sources))
    sidecar.unlink()
    assert len(hashes) == 6
    assert settings_of(CONFIG, sources) == same


@pytest.mark.parametrize(
    "bad",
    [
        {"held_out_share": 0.0},
        {"held_out_share": 1.0},
        {"clip_chunks": 0},
        {"codec_fit_sources": 0},
        {"width": 65},
        {"height": 12},
        {"timeline": Timeline(audio_hop=320)},
        {"timeline": Timeline(video_stride=2)},
    ],
)
def test_bad_settings_name_the_field(bad):
    with pytest.raises(ValueError, match=rf"data\.{next(iter(bad))}"):
        DataConfig(**bad)
