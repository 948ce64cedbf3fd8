"""Where the fragments of a film in the making begin, however its bytes are cut."""

from __future__ import annotations

import numpy as np
import pytest

from mutual_forcing.datasets.ffmpeg.fragments import FragmentReader
from mutual_forcing.datasets.ffmpeg.media_stream import Format, MediaStream

PIECES, FRAMES, SAMPLES = 4, 12, 8000


@pytest.fixture(scope="module")
def film() -> bytes:
    noise, parts = np.random.default_rng(0), list[bytes]()
    with MediaStream(parts.append, Format(32, 32, 24, 16000)) as stream:
        for _ in range(PIECES):
            stream.push(noise.integers(0, 256, (FRAMES, 32, 32, 3), np.uint8), noise.uniform(-0.1, 0.1, SAMPLES).astype(np.float32))
        stream.push(np.zeros((0, 32, 32, 3), np.uint8), np.zeros(256, np.float32))  # sound alone
    return b"".join(parts)


@pytest.mark.parametrize("cut", [1, 7, 1000, 1 << 20])
def test_fragments_are_found_however_bytes_are_cut(film: bytes, cut: int) -> None:
    reader = FragmentReader()
    found = [fragment for i in range(0, len(film), cut) for fragment in reader.add(film[i : i + cut])]
    assert found[0].seconds == 0
    assert all(film[f.offset + 4 : f.offset + 8] == b"moof" for f in found)
    times = [f.seconds for f in found]
    assert times == sorted(set(times))
    assert PIECES * FRAMES / 24 - 0.3 < times[-1] < PIECES * FRAMES / 24
    assert max(np.diff(times)) < 0.2
    assert film.count(b"moof") - 1 <= len(found) <= film.count(b"moof")  # the last one may hold sound alone
