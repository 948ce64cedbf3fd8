"""Windows of a clip: what lies in them, on their own clock, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_material import FPS, RATE, clip, moving, noise
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.model.timeline import Layout, Timeline
from mutual_forcing.model.types import AV
from mutual_forcing.workers.evaluation.clip import EvalClip, NotApplicable
from mutual_forcing.workers.evaluation.gathering import Window, parse_windows

CLOCK = Timeline()
CHUNKS = 10


def whole() -> EvalClip:
    media = (moving(CLOCK.frames(CHUNKS)), noise(CLOCK.seconds(CHUNKS)))
    return EvalClip.of("whole", media, CLOCK, CHUNKS, words=(("one", 0.5, 1.2), ("two", 2.0, 2.4)), latents=AV(torch.zeros(1, 1, 1, 1, 1)))


def test_a_window_has_its_own_clock() -> None:
    part = whole().cut(1.0, 3.0)
    np.testing.assert_array_equal(part.frames, whole().frames[24:72])
    np.testing.assert_array_equal(part.samples, whole().samples[RATE : 3 * RATE])
    assert part.words == (("one", 0.0, pytest.approx(0.2)), ("two", 1.0, pytest.approx(1.4)))
    assert part.seams == (1, 13, 25, 37), "chunks begin with frames 25, 37, 49 and 61"
    assert part.first is not None
    np.testing.assert_array_equal(part.first, whole().frames[0])


@given(st.integers(0, 100), st.integers(1, 60))
def test_chunks_of_a_window_are_those_whose_pictures_it_holds_but_for_one(first: int, count: int) -> None:
    part = whole().cut(first / FPS, (first + count) / FPS)
    end = min(first + count, CLOCK.frames(CHUNKS))
    held = [k for k in range(CHUNKS) if CLOCK.frames(k) >= first and CLOCK.frames(k + 1) <= end + 1]
    assert (list(part.layout.chunk_range) if part.layout else []) == held


def test_five_seconds_are_ten_chunks_wherever_they_begin() -> None:
    """A clip's first frame moves all chunks by one picture, which a window may lack at its end."""
    assert whole().cut(0.0, 5.0).layout == Layout(CLOCK, 10)
    assert whole().cut(1.0, 3.0).layout == Layout(CLOCK, 4, first=2)


def test_beyond_the_end_is_nothing() -> None:
    with pytest.raises(NotApplicable, match=r"ends before 6 s"):
        whole().cut(6.0, 8.0)


def test_two_cuts_are_one() -> None:
    once, twice = whole().cut(1.5, 2.5), whole().cut(1.0, 4.0).cut(0.5, 1.5)
    np.testing.assert_array_equal(once.frames, twice.frames)
    assert (once.words, once.seams) == (twice.words, twice.seams)


@pytest.mark.parametrize(
    ("frames", "samples"), [(np.zeros((2, 4, 4), np.uint8), None), (np.zeros((2, 4, 4, 3), np.float32), None), (None, np.zeros((2, 2)))]
)
def test_other_shapes_are_refused(frames: np.ndarray | None, samples: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="pass"):
        clip(frames, samples)


def test_windows_as_they_are_written() -> None:
    assert parse_windows("0-5, 5-15,15-25.5") == (Window(0, 5), Window(5, 15), Window(15, 25.5))
    assert Window(15, 25.5).name == "15-25.5 s"


@pytest.mark.parametrize("text", ["", "5", "5-0", "0-5,0-5", "a-b", "0-1e9", "-1-5", "nan-5", "0-inf"])
def test_other_windows_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--windows="):
        parse_windows(text)
