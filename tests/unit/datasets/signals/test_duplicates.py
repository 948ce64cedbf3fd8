"""Copies are near, other clips are not, whoever looks first; and a million need neither much time nor much memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_material import FPS, RATE
from PIL import Image

from mutual_forcing.datasets.drawn.characters import draw_identity, move, voice_of
from mutual_forcing.datasets.drawn.portrait import paint_portrait
from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, make_character_clip
from mutual_forcing.datasets.drawn.voice import articulate, plan_speech, speak
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe, write_media
from mutual_forcing.datasets.signals.duplicates import PICTURE_BYTES, SOUND_BYTES, Fingerprint, fingerprint, first_near, near

Clip = tuple[np.ndarray, np.ndarray]
SECONDS = 2.5


def person(index: int, words: int | None = None) -> Clip:
    """Clip of one character; `words`: the same person, before the same wall, who says and does something else."""
    size, count = 96, round(SECONDS * FPS)
    who = draw_identity(np.random.default_rng([21, index]))
    rhythm, motion, noise = (np.random.default_rng([21, index if words is None else words, part]) for part in range(1, 4))
    plan, times = plan_speech(rhythm, voice_of(who), SECONDS), np.arange(count) / FPS
    said = articulate(plan, times)
    frames = paint_portrait(who, move(motion, who, said, times), said, size, size)
    return frames, speak(plan, voice_of(who), noise, RATE, round(SECONDS * RATE))


def print_of(clip: Clip) -> Fingerprint:
    return fingerprint(*clip, RATE)


def scaled(frames: np.ndarray, side: int, crop: float = 0.0) -> np.ndarray:
    edge = round(crop * frames.shape[1] / 2)
    kept = frames[:, edge : frames.shape[1] - edge, edge : frames.shape[2] - edge]
    return np.stack([np.asarray(Image.fromarray(frame).resize((side, side), Image.Resampling.BILINEAR)) for frame in kept])


@pytest.mark.parametrize("index", range(2))
def test_copies_are_near(index: int) -> None:
    frames, audio = person(index)
    original = print_of((frames, audio))
    noise = np.random.default_rng(0)
    copies: dict[str, Clip] = {
        "half the size": (scaled(frames, 48), audio),
        "cropped by 4 %": (scaled(frames, 96, 0.04), audio),
        "louder by 3 dB": (frames, np.clip(audio * 1.413, -1, 1)),
        "quieter by 12 dB": (frames, audio * 0.25),
        "brighter": (np.clip(frames * 1.15 + 10, 0, 255).astype(np.uint8), audio),
        "noisier": (
            np.clip(frames + noise.normal(0, 8, frames.shape), 0, 255).astype(np.uint8),
            audio + 0.002 * noise.standard_normal(len(audio)).astype(np.float32),
        ),
    }
    for name, copy in copies.items():
        assert near(original, print_of(copy)), name


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_what_another_encoder_made_is_near(suffix: str, tmp_path) -> None:
    clip = person(2)
    path = tmp_path / f"copy{suffix}"
    write_media(path, clip[0], FPS, clip[1], RATE)
    copy = decode(path, probe(path), DecodeConfig(width=64, height=64))
    assert near(print_of(clip), fingerprint(copy.frames, copy.audio, RATE))


def test_another_sample_rate_is_near() -> None:
    frames, audio = person(3)
    times = np.arange(round(SECONDS * 44100)) / 44100
    copy = np.interp(times, np.arange(len(audio)) / RATE, audio).astype(np.float32)
    assert near(fingerprint(frames, audio, RATE), fingerprint(frames, copy, 44100))


def test_other_clips_are_not_near() -> None:
    prints = [print_of(person(index)) for index in range(5)]
    prints += [print_of(person(index, words=100 + index)) for index in range(3)]  # the same people, other words
    assert not any(near(a, b) for n, a in enumerate(prints) for b in prints[:n])
    assert (first_near(prints) == -1).all()


def test_the_same_pictures_with_other_sound_are_no_copy_and_neither_is_the_reverse() -> None:
    (frames, audio), (others, sound) = person(0), person(1)
    assert not near(print_of((frames, audio)), print_of((frames, sound)))
    assert not near(print_of((frames, audio)), print_of((others, audio)))


def test_one_stream_alone_is_told_by_it() -> None:
    (frames, audio), (others, sound) = person(0), person(1)
    assert near(fingerprint(frames, None, RATE), fingerprint(scaled(frames, 64), None, RATE))
    assert not near(fingerprint(frames, None, RATE), fingerprint(others, None, RATE))
    assert near(fingerprint(None, audio, RATE), fingerprint(None, audio * 0.5, RATE))
    assert not near(fingerprint(None, audio, RATE), fingerprint(None, sound, RATE))
    assert not near(fingerprint(frames, audio, RATE), fingerprint(None, audio, RATE))


def test_nothing_to_tell_apart_is_near_to_nothing() -> None:
    black, silence = np.zeros((30, 32, 32, 3), np.uint8), np.zeros(RATE, np.float32)
    empty = fingerprint(black, silence, RATE)
    assert empty == Fingerprint()
    assert not near(empty, empty)
    assert first_near([empty, empty]).tolist() == [-1, -1]
    assert fingerprint(None, np.ones(10, np.float32), RATE) == Fingerprint()


def test_text_and_back() -> None:
    clip = print_of(person(0))
    assert (len(clip.picture), len(clip.sound)) == (PICTURE_BYTES, SOUND_BYTES)
    for p in (clip, Fingerprint(), Fingerprint(sound=clip.sound)):
        assert Fingerprint.unpack(p.pack()) == p
    for text in ("", "zz:", "00:", clip.pack() + "00"):
        with pytest.raises(ValueError):  # noqa: PT011  hexadecimal has its own words
            Fingerprint.unpack(text)


def brute(prints: list[Fingerprint]) -> list[int]:
    first: list[int] = []
    for n, p in enumerate(prints):
        first.append(next((k for k in range(n) if first[k] < 0 and near(prints[k], p)), -1))
    return first


@st.composite
def families(draw: st.DrawFn) -> list[Fingerprint]:
    """Some clips and copies of them, in any order. Of two copies 2 bits differ at most: they share a stretch of 24 for certain."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    kinds = draw(st.sampled_from([(12, 32), (12, 0), (0, 32)]))
    roots = [rng.bytes(sum(kinds)) for _ in range(draw(st.integers(1, 5)))]
    found = []
    for _ in range(draw(st.integers(0, 14))):
        bits = bytearray(roots[draw(st.integers(0, len(roots) - 1))])
        for place in rng.integers(0, len(bits), draw(st.integers(0, 1))):
            bits[place] ^= 1 << int(rng.integers(8))
        found.append(Fingerprint(bytes(bits[: kinds[0]]), bytes(bits[kinds[0] :])))
    return found


@settings(max_examples=60, deadline=None)
@given(families())
def test_the_index_finds_what_comparing_all_pairs_finds(prints: list[Fingerprint]) -> None:
    assert first_near(prints).tolist() == brute(prints)


def test_a_copy_of_a_refused_copy_alone_is_kept() -> None:
    """The third is near to the second, which is not kept, and not to the first: it is no copy of anything that is there."""
    sound = np.random.default_rng(0).integers(0, 256, SOUND_BYTES, np.uint8)
    second, third = sound.copy(), sound.copy()
    second[:5] ^= 0xFF
    third[:10] ^= 0xFF
    a, b, c = (Fingerprint(bytes(PICTURE_BYTES), row.tobytes()) for row in (sound, second, third))
    assert near(a, b)
    assert near(b, c)
    assert not near(a, c)
    assert first_near([a, b, c]).tolist() == [-1, 0, -1]
    assert first_near([b, a, c]).tolist() == [-1, 0, 0]


def test_copies_among_many_are_found_and_only_they() -> None:
    rng, count, copies = np.random.default_rng(0), 20_000, 200
    rows = rng.integers(0, 256, (count, PICTURE_BYTES + SOUND_BYTES), np.uint8)
    rows[-copies:] = rows[:copies]
    rows[-copies:, rng.permutation(rows.shape[1])[:4]] ^= 1
    first = first_near([Fingerprint(row[:PICTURE_BYTES].tobytes(), row[PICTURE_BYTES:].tobytes()) for row in rows])
    assert (first[-copies:] == np.arange(copies)).all()
    assert (first[:-copies] == -1).all()


def test_a_folder_of_one_clip_alone_ends() -> None:
    clip = print_of(person(0))
    first = first_near([clip] * 50_000)
    assert first[0] == -1
    assert (first[1:] == 0).all()


def test_synthetic_clips_of_a_corpus_are_no_copies() -> None:
    clips = [make_character_clip(SyntheticConfig(seconds=SECONDS), index) for index in range(6)]
    assert (first_near([fingerprint(c.frames, c.audio, RATE) for c in clips]) == -1).all()
