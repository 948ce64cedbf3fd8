"""Loudness and motion are what a calculation by hand gives, and thumbnails are what the picture shows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.datasets.signals.measures import loudness_db, measure, motion
from mutual_forcing.datasets.signals.thumbnails import grey, thumbnails


@pytest.mark.parametrize(("level", "decibels"), [(1.0, 0.0), (0.1, -20.0), (0.001, -60.0)])
def test_loudness_is_rms_in_decibels_of_full_scale(level: float, decibels: float) -> None:
    assert loudness_db(np.full(1600, level, np.float32)) == pytest.approx(decibels, abs=1e-5)


def test_silence_and_no_sound_are_numbers() -> None:
    assert loudness_db(np.zeros(100, np.float32)) == loudness_db(np.zeros(0, np.float32)) == -200.0


@pytest.mark.parametrize("size", [(64, 64), (704, 1280), (90, 64)])
def test_motion_is_the_mean_change_of_brightness(size: tuple[int, int]) -> None:
    frames = np.full((10, *size, 3), 100, np.uint8)
    frames[1::2] = 110
    assert motion(frames) == pytest.approx(10.0)
    assert motion(frames[:1]) == 0.0
    frames[:, size[0] // 2 :] = 100
    assert motion(frames) == pytest.approx(5.0, abs=0.4)


def test_noise_of_pixels_is_not_motion_of_the_size_of_the_noise() -> None:
    frames = np.random.default_rng(0).integers(80, 120, (6, 512, 512, 3)).astype(np.uint8)
    plain = np.abs(np.diff(grey(frames).astype(np.int16), axis=0)).mean()
    assert motion(frames) < 0.6 * plain


def test_what_is_there_is_measured() -> None:
    frames, audio = np.zeros((5, 16, 16, 3), np.uint8), np.ones(100, np.float32)
    assert measure(frames, audio) == (("loudness_db", pytest.approx(0.0)), ("motion", 0.0))
    assert [name for name, _ in measure(None, audio)] == ["loudness_db"]
    assert [name for name, _ in measure(frames, None)] == ["motion"]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 64), st.integers(0, 255))
def test_thumbnails_have_at_most_so_many_cells_and_keep_a_colour(tall: int, wide: int, side: int, light: int) -> None:
    frames = np.full((2, tall, wide, 3), light, np.uint8)
    small = thumbnails(frames, side)
    assert small.shape[0] == 2
    assert max(small.shape[1:3]) <= side
    assert min(small.shape[1:3]) >= 1
    assert (small == light).all()


def test_a_thumbnail_keeps_where_things_are() -> None:
    frames = np.zeros((1, 256, 256, 3), np.uint8)
    frames[:, 64:128, 128:] = 200
    small = thumbnails(frames, 8)[0, ..., 0]
    expected = np.zeros((8, 8), np.uint8)
    expected[2:4, 4:] = 200
    assert np.array_equal(small, expected)
