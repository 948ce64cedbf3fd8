"""A spectrogram, read back from its pixels: a tone stands at its height, and when it sounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.views.spectrogram import LOWEST_HZ, spectrogram

RATE = 16000


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


@pytest.mark.parametrize("hertz", [200, 1000, 5000])
def test_a_tone_stands_at_its_height(hertz: float) -> None:
    picture = spectrogram(tone(hertz), RATE, 50, 120)
    row = int(picture[:, 25].sum(axis=1).argmax())
    found = LOWEST_HZ * (RATE / 2 / LOWEST_HZ) ** (1 - row / 119)
    assert found == pytest.approx(hertz, rel=0.06)


def test_a_burst_stands_where_it_sounds() -> None:
    audio = np.zeros(2 * RATE, np.float32)
    audio[RATE : round(1.5 * RATE)] = tone(700, 0.5)
    light = spectrogram(audio, RATE, 200, 40).sum(axis=(0, 2))
    heard = np.flatnonzero(light > 0.5 * light.max())
    assert abs(heard[0] - 100) <= 2
    assert abs(heard[-1] - 150) <= 2


def test_silence_is_black_and_what_is_no_number_is_silence() -> None:
    for audio in (np.zeros(100, np.float32), np.full(5000, np.nan, np.float32), np.zeros(1, np.float32)):
        assert not (spectrogram(audio, RATE, 30, 10) > 4).any()


@given(st.integers(1, 3000), st.integers(1, 300), st.sampled_from([8000, 16000, 44100, 48000]))
def test_any_length_fits_any_picture(samples: int, width: int, rate: int) -> None:
    picture = spectrogram(np.ones(samples, np.float32), rate, width, 20)
    assert (picture.shape, picture.dtype) == ((20, width, 3), np.uint8)
