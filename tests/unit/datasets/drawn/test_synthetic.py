"""Synthetic characters: exact sync by construction, the same clip for the same position, and a corpus that survives interruption."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mutual_forcing.datasets.drawn.sync import sync_score
from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, make_character_clip, write_corpus
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe

SMALL = SyntheticConfig(count=3, seconds=2.0, seed=7)


@pytest.fixture(scope="module")
def clip():
    return make_character_clip(SyntheticConfig(), 0)


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.iterdir())}


def test_clip_depends_on_seed_and_index_alone():
    first, again = make_character_clip(SMALL, 1), make_character_clip(replace(SMALL, count=50), 1)
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.audio, again.audio)
    assert (first.caption, first.words) == (again.caption, again.words)
    for other in (make_character_clip(SMALL, 2), make_character_clip(replace(SMALL, seed=8), 1)):
        assert not np.array_equal(first.audio, other.audio)
        assert not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize(("seconds", "fps", "rate"), [(5.2, 24, 16000), (1.0, 25, 22050), (3.3, 30, 44100)])
def test_sound_is_exactly_as_long_as_the_pictures(seconds, fps, rate):
    config = SyntheticConfig(seconds=seconds, fps=fps, sample_rate=rate, width=48, height=32)
    clip = make_character_clip(config, 0)
    assert clip.frames.shape == (round(seconds * fps), 32, 48, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.audio.shape == (round(len(clip.frames) * rate / fps),)
    assert clip.audio.dtype == np.float32
    assert 0.05 < np.abs(clip.audio).max() < 1.0
    assert clip.words
    assert clip.words[-1].end < seconds


def test_words_are_where_the_sound_is(clip):
    rate = SyntheticConfig().sample_rate
    spoken = np.zeros(len(clip.audio), bool)
    near = spoken.copy()
    for word in clip.words:
        start, end = round(word.start * rate), round(word.end * rate)
        spoken[start:end] = True
        near[max(0, start - rate // 15) : end + rate // 15] = True
        assert np.sqrt(np.mean(clip.audio[start:end] ** 2)) > 0.02
    assert (clip.audio[~near] ** 2).sum() < 1e-4 * (clip.audio**2).sum()
    assert (~near).mean() > 0.1  # there are silent stretches


def test_mouth_is_shut_in_silence_and_open_in_speech(clip):
    times = np.arange(len(clip.frames)) / SyntheticConfig().fps
    inside = np.any([(times > w.start) & (times < w.end) for w in clip.words], axis=0)
    away = np.all([(times < w.start - 0.07) | (times > w.end + 0.07) for w in clip.words], axis=0)
    assert clip.mouth_N[away].max() < 0.01
    assert clip.mouth_N[inside].mean() > 0.2


def test_captions_and_people_vary():
    people = [make_character_clip(replace(SMALL, seconds=1.0, width=32, height=32), i) for i in range(20)]
    assert len({p.caption for p in people}) >= 18
    assert all(p.identity.background in p.caption and p.identity.style in p.caption for p in people)
    assert {p.identity.gender for p in people} == {"woman", "man"}


def test_written_files_keep_sync_within_a_frame(tmp_path):
    config = SyntheticConfig(count=3, seed=3)
    paths = write_corpus(config, tmp_path / "media")
    assert [path.suffix for path in paths] == [".mp4", ".webm", ".mkv"]
    for index, path in enumerate(paths):
        clip = make_character_clip(config, index)
        found = decode(path, probe(path), DecodeConfig(fps=config.fps, width=config.width, height=config.height))
        assert found.audio is not None
        assert found.frames.shape == clip.frames.shape
        assert len(found.audio) == len(clip.audio)
        score, lag = sync_score(found.frames, found.audio, config.fps, config.sample_rate)
        drawn_score, drawn_lag = sync_score(clip.frames, clip.audio, config.fps, config.sample_rate)
        assert abs(lag - drawn_lag) < 0.25 / config.fps
        assert score == pytest.approx(drawn_score, abs=0.05)
        error = np.mean((found.frames.astype(np.float32) - clip.frames) ** 2)
        assert 10 * np.log10(255**2 / error) > 30


def test_sidecar_tells_caption_and_transcript(tmp_path):
    for index, path in enumerate(write_corpus(SMALL, tmp_path / "media", workers=1)):
        clip, sidecar = make_character_clip(SMALL, index), json.loads(path.with_suffix(".json").read_text())
        assert sidecar["caption"] == clip.caption
        assert [(w["word"], w["start"], w["end"]) for w in sidecar["transcript"]] == [(w.text, w.start, w.end) for w in clip.words]


def test_progress_counts_clips(tmp_path):
    counts = []
    write_corpus(SMALL, tmp_path / "media", progress=lambda *step: counts.append(step))
    assert counts == [("draw talking characters", done, SMALL.count) for done in range(SMALL.count + 1)]


def test_rerun_keeps_what_is_whole_and_redoes_the_rest(tmp_path):
    folder = tmp_path / "media"
    paths = write_corpus(SMALL, folder)
    before = stamps(folder)
    paths[1].unlink()
    paths[2].with_suffix(".json").unlink()
    (folder / "corpus.json").write_text((folder / "corpus.json").read_text().replace("true", "false"))
    assert write_corpus(SMALL, folder) == paths
    after = stamps(folder)
    assert after.keys() == before.keys()
    assert json.loads((folder / "corpus.json").read_text())["complete"] is True
    redone = {name for name in before if before[name] != after[name]} - {"corpus.json"}
    assert redone == {paths[1].name, paths[1].with_suffix(".json").name, paths[2].name, paths[2].with_suffix(".json").name}


def test_other_settings_and_foreign_folders_are_refused(tmp_path):
    write_corpus(SMALL, tmp_path / "media")
    before = stamps(tmp_path / "media")
    with pytest.raises(ValueError, match="corpus of other settings"):
        write_corpus(replace(SMALL, seed=8), tmp_path / "media")
    assert stamps(tmp_path / "media") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holiday\.mp4"):
        write_corpus(SMALL, tmp_path / "mine")
    (tmp_path / "media" / "corpus.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        write_corpus(SMALL, tmp_path / "media")


@pytest.mark.parametrize("bad", [{"count": 0}, {"seconds": 0.1}, {"width": 8}, {"fps": 0}, {"sample_rate": 100}, {"seconds": float("nan")}])
def test_bad_settings_name_the_field(bad):
    with pytest.raises(ValueError, match=f"synthetic.{next(iter(bad))} is"):
        SyntheticConfig(**bad)
