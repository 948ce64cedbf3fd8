"""How far a fragmented mp4 has come, read from its bytes as they pass: where each fragment begins, and at what time of its film.

Boxes: ISO/IEC 14496-12. The bytes are our own ffmpeg's, so what is missing is a bug.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

Box = tuple[bytes, memoryview]


@dataclass(frozen=True)
class Fragment:
    """The bytes before `offset` hold the pictures before `seconds`."""

    offset: int
    seconds: float


class FragmentReader:
    """Give it all bytes in their order, cut anywhere."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._offset, self._skip = 0, 0
        self._track = self._scale = 0

    def add(self, data: bytes) -> list[Fragment]:
        """The fragments whose head is complete with these bytes."""
        self._held += data
        found = list[Fragment]()
        while True:
            passed = min(self._skip, len(self._held))
            self._drop(passed)
            self._skip -= passed
            if self._skip or len(self._held) < 8:
                return found
            size, kind = struct.unpack_from(">I4s", self._held)
            assert size >= 8, (size, kind)
            if kind not in (b"moov", b"moof"):
                self._skip = size
                continue
            if len(self._held) < size:
                return found
            body = memoryview(bytes(self._held[8:size]))
            if kind == b"moov":
                self._track, self._scale = _pictures(body)
            else:
                found += [Fragment(self._offset, time / self._scale) for time in _times(body, self._track)]
            self._drop(size)

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self._offset += count


def _boxes(data: memoryview) -> Iterator[Box]:
    while len(data) >= 8:
        size, kind = struct.unpack_from(">I4s", data)
        assert 8 <= size <= len(data), (size, kind)
        yield kind, data[8:size]
        data = data[size:]


def _within(data: memoryview, *path: bytes) -> Iterator[memoryview]:
    """All boxes at a path."""
    for kind, body in _boxes(data):
        if kind == path[0]:
            if len(path) == 1:
                yield body
            else:
                yield from _within(body, *path[1:])


def _pictures(moov: memoryview) -> tuple[int, int]:
    """Number and time scale of the track of pictures."""
    for track in _within(moov, b"trak"):
        [kind] = (bytes(body[8:12]) for body in _within(track, b"mdia", b"hdlr"))
        if kind == b"vide":
            [number] = (struct.unpack_from(">I", body, 20 if body[0] else 12)[0] for body in _within(track, b"tkhd"))
            [scale] = (struct.unpack_from(">I", body, 20 if body[0] else 12)[0] for body in _within(track, b"mdia", b"mdhd"))
            return number, scale
    raise AssertionError("no track of pictures")


def _times(moof: memoryview, track: int) -> Iterator[int]:
    """When the fragment's pictures begin; nothing where it has none."""
    for part in _within(moof, b"traf"):
        [number] = (struct.unpack_from(">I", body, 4)[0] for body in _within(part, b"tfhd"))
        if number == track:
            yield from (struct.unpack_from(">Q" if body[0] else ">I", body, 4)[0] for body in _within(part, b"tfdt"))
