"""The mark is found after our encoders and others, in a part of a clip, at another size; and not where there is none."""

from __future__ import annotations

import subprocess
from math import exp
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, make_character_clip
from mutual_forcing.datasets.ffmpeg.ffmpeg_program import ffmpeg_path
from mutual_forcing.datasets.ffmpeg.media import write_media
from mutual_forcing.datasets.marks.watermark import (
    CELLS,
    PERIOD_S,
    PICTURES,
    PUBLIC_KEY,
    RATE,
    SURE,
    Marker,
    cells_of,
    find_mark,
    score_pictures,
    score_sound,
    signs,
)

CLIP = make_character_clip(SyntheticConfig(count=2, seconds=5.2, seed=3), 0)


def marked(frames: np.ndarray, audio: np.ndarray, rate: int = RATE, pieces: tuple[int, int] = (12, 7000)) -> tuple[np.ndarray, np.ndarray]:
    marker = Marker(rate)
    pictures = [marker.pictures(frames[i : i + pieces[0]]) for i in range(0, len(frames), pieces[0])]
    sound = [marker.sound(audio[i : i + pieces[1]]) for i in range(0, len(audio), pieces[1])]
    return np.concatenate(pictures), np.concatenate([*sound, marker.rest()])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("marked")
    with_mark = marked(CLIP.frames, CLIP.audio)
    for name, (frames, audio) in {"marked": with_mark, "plain": (CLIP.frames, CLIP.audio)}.items():
        write_media(folder / f"{name}.mp4", frames, 24, audio, RATE)
    return folder / "marked.mp4", folder / "plain.mp4"


CODED = {
    "as it was written": None,
    "encoded again": ["-crf", "20", "-b:a", "64k"],
    "twice as large, quieter": ["-vf", "scale=iw*2:ih*2", "-af", "volume=0.3"],
    "without its beginning": ["-ss", "0.73"],
    "as webm": ["-c:v", "libvpx-vp9", "-crf", "20", "-b:v", "0", "-cpu-used", "6", "-deadline", "realtime", "-c:a", "libopus"],
}


@pytest.mark.parametrize("how", CODED)
def test_the_mark_is_found_after_encoders_and_nowhere_else(files: tuple[Path, Path], tmp_path: Path, how: str) -> None:
    for path, there in zip(files, (True, False), strict=True):
        words = CODED[how]
        coded = path
        if words is not None:
            coded = tmp_path / f"coded{'.webm' if how == 'as webm' else '.mp4'}"
            subprocess.run([ffmpeg_path(), "-v", "error", "-y", "-i", str(path), *words, str(coded)], check=True)
        found = find_mark(coded)
        assert (found.pictures.marked, found.sound.marked) == (there, there), (how, found)
        if there:
            other = find_mark(coded, "another key")
            assert not other.marked


def test_the_mark_is_hardly_there() -> None:
    frames, audio = marked(CLIP.frames, CLIP.audio)
    assert np.abs(frames.astype(int) - CLIP.frames).max() == 1
    difference = audio - CLIP.audio
    assert 10 * np.log10((CLIP.audio**2).mean() / (difference**2).mean()) > 20
    assert np.abs(difference[np.abs(CLIP.audio) < 1e-6]).max(initial=0) < 0.02, "silence stays quiet"


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_pieces_do_not_matter(sizes: list[int]) -> None:
    """Any pieces give the samples that one gives, as many as went in."""
    audio = np.random.default_rng(0).standard_normal(sum(sizes)).astype(np.float32) * 0.1
    whole, parts = Marker(RATE), Marker(RATE)
    expected = np.concatenate([whole.sound(audio), whole.rest()])
    given_out, at = list[np.ndarray](), 0
    for size in sizes:
        given_out.append(parts.sound(audio[at : at + size]))
        at += size
    given_out.append(parts.rest())
    assert len(expected) == len(audio)
    np.testing.assert_allclose(np.concatenate(given_out), expected, atol=1e-6)


@pytest.mark.parametrize("rate", [16000, 24000, 44100, 48000])
def test_sound_of_every_rate_is_marked_alike(rate: int) -> None:
    """Marked at one rate, read at another."""
    noise = np.random.default_rng(1).standard_normal(4 * rate).astype(np.float32) * 0.1
    _, sound = marked(np.zeros((1, 16, 16, 3), np.uint8), noise, rate)
    spectrum = np.fft.rfft(sound)[: 2 * RATE + 1]
    read = np.fft.irfft(np.pad(spectrum, (0, max(0, 2 * RATE + 1 - len(spectrum)))), 4 * RATE).astype(np.float32) * RATE / rate
    assert score_sound(read, PUBLIC_KEY).z > 10


def test_scores_without_a_mark_keep_to_the_bound() -> None:
    """Of many keys the share above z is at most what Hoeffding's inequality gives; of sound and pictures as unlike noise as they come."""
    cells = cells_of(CLIP.frames)
    keys = [f"key {i}" for i in range(150)]
    for z, places in ((3.5, PICTURES),):
        above = np.mean([score_pictures(cells, key).z > z for key in keys])
        assert above <= places * exp(-(z**2) / 2) + 3 * (0.25 / len(keys)) ** 0.5
    assert max(score_pictures(cells, key).z for key in keys) < 6
    assert max(score_sound(CLIP.audio, key).z for key in keys[:20]) < 7
    assert all(score_sound(CLIP.audio, key).chance > SURE for key in keys[:20])


def test_signs_are_the_keys_own() -> None:
    one, again, other = (
        signs("a", "sound", (PERIOD_S * RATE,)),
        signs("a", "sound", (PERIOD_S * RATE,)),
        signs("b", "sound", (PERIOD_S * RATE,)),
    )
    assert np.array_equal(one, again)
    assert set(np.unique(one)) == {-1, 1}
    assert abs(float((one.astype(float) * other).mean())) < 0.02
    assert abs(float(one.astype(float).mean())) < 0.02


@pytest.mark.parametrize("size", [(64, 64), (90, 160), (17, 33)])
def test_every_picture_has_all_cells(size: tuple[int, int]) -> None:
    frames = np.full((5, *size, 3), 100, np.uint8)
    marker = Marker(RATE)
    steps = cells_of(marker.pictures(frames)) - 100
    np.testing.assert_allclose(steps, signs(PUBLIC_KEY, "pictures", (PICTURES, CELLS, CELLS))[:5], atol=1e-4)


def test_next_to_nothing_has_no_score() -> None:
    assert score_sound(np.zeros(100, np.float32), PUBLIC_KEY).chance == 1
    assert score_sound(np.zeros(50_000, np.float32), PUBLIC_KEY).chance == 1
    assert score_pictures(np.zeros((2, CELLS, CELLS)), PUBLIC_KEY).chance == 1
    assert score_pictures(np.full((50, CELLS, CELLS), 7.0), PUBLIC_KEY).chance == 1
