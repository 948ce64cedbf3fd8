"""Where a film's bytes go: every picture once and in order, and sound in its place or silence."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.ffmpeg.film_sinks import Pictures, Sound


def pour(sink: Pictures | Sound, data: bytes, piece: int) -> bytes:
    """Give a sink as much as it has room for, in pieces; returns what is left."""
    while data and len(sink.room()):
        part = data[: min(piece, len(sink.room()))]
        sink.room()[: len(part)] = part
        sink.took(len(part))
        data = data[len(part) :]
    return data


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), max_size=12), st.integers(1, 9))
def test_every_picture_comes_once_and_in_order(reads, piece):
    sink, size = Pictures(4, 5), 4
    data = b"".join(bytes([n] * size) for n in range(100))
    got, rest = b"", data
    for count, ahead in reads:
        clip = bytearray(count * size)
        sink.allowed = ahead
        sink.begin(memoryview(clip))
        rest = pour(sink, rest, piece)
        assert sink.count >= count
        got += bytes(clip)
        sink.end()
    assert got == data[: len(got)]


def floats(sink: Sound, values: list[float], piece: int) -> None:
    assert pour(sink, np.array(values, np.float32).tobytes(), piece) == b""


@given(st.integers(0, 50), st.integers(0, 40), st.integers(1, 40), st.integers(1, 11))
def test_sound_is_in_its_place_and_silence_where_none_came(begin, skip, count, piece):
    sink = Sound(begin)
    sink.floor = begin + skip
    values = [(n + 1) / 100 for n in range(30)]
    floats(sink, values, piece)
    assert sink.end == begin + 30
    taken = sink.take(begin + skip, count)
    np.testing.assert_allclose(taken, [values[n] if n < 30 else 0 for n in range(skip, skip + count)], rtol=1e-6)


def test_sound_that_comes_where_silence_was_given_out_is_counted():
    sink = Sound(0)
    sink.silent = 10
    floats(sink, [0.0] * 8, 8)
    assert sink.belated == 0  # as it was given out
    floats(sink, [0.5] * 8, 8)
    assert sink.belated == 2


def test_beyond_a_limit_nothing_is_kept():
    sink = Sound(0)
    floats(sink, [0.1] * 6, 24)
    sink.limit = 8
    floats(sink, [0.2] * 6, 7)
    np.testing.assert_allclose(sink.take(0, 12), [0.1] * 6 + [0.2] * 2 + [0.0] * 4, rtol=1e-6)
    assert sink.end == 12


def test_what_is_no_number_or_too_loud_is_brought_into_range():
    sink = Sound(0)
    floats(sink, [float("nan"), 7.0, -7.0, float("inf"), 0.25], 20)
    np.testing.assert_array_equal(sink.take(0, 5), [0, 1, -1, 1, 0.25])
