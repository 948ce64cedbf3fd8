"""What goes into the pipes of an ffmpeg child, and what becomes of what comes out."""

import re
from collections.abc import Sequence
from typing import Protocol

STDERR_BYTES = 64 * 1024
CHUNK_BYTES = 1 << 20  # also the size of a pipe: the largest that needs no privilege


class Sink(Protocol):
    """Where the bytes of one pipe go."""

    def room(self) -> memoryview:
        """Where the next bytes may be written; empty: none are wanted now, and the child has to wait."""
        ...

    def took(self, count: int) -> None:
        """So many bytes stand now at the beginning of what `room` gave."""
        ...


class Feed(Protocol):
    """Where the bytes come from that the child reads from one pipe."""

    def data(self) -> memoryview | None:
        """What waits to go; empty: nothing does now; None: nothing will, the pipe is closed."""
        ...

    def gave(self, count: int) -> None:
        """So many of them have gone."""
        ...


class Overrun(Exception):
    """A sink has got more than it takes; says why the child is stopped."""


class Kept:
    """A sink that keeps all, up to `most` bytes: one more stops the child."""

    def __init__(self, most: int) -> None:
        self.data = bytearray()
        self._most, self._scratch = most, memoryview(bytearray(min(CHUNK_BYTES, most + 1)))

    def room(self) -> memoryview:
        return self._scratch

    def took(self, count: int) -> None:
        self.data += self._scratch[:count]
        if len(self.data) > self._most:
            raise Overrun(f"wrote more than {self._most} bytes")


class Whole:
    """A feed whose bytes are all there."""

    def __init__(self, data: memoryview) -> None:
        self._rest = data

    def data(self) -> memoryview | None:
        return self._rest if len(self._rest) else None

    def gave(self, count: int) -> None:
        self._rest = self._rest[count:]


class Words:
    """What the child says: the first `STDERR_BYTES` are kept, and every line is counted that matches one of the patterns."""

    def __init__(self, patterns: Sequence[re.Pattern[str]]) -> None:
        self.said, self.counts = bytearray(), [0] * len(patterns)
        self._patterns, self._line, self._scratch = patterns, b"", memoryview(bytearray(4096))

    def room(self) -> memoryview:
        return self._scratch

    def took(self, count: int) -> None:
        data = bytes(self._scratch[:count])
        self.said += data[: max(0, STDERR_BYTES - len(self.said))]
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[:STDERR_BYTES]
        self._count(lines)

    def close(self) -> None:
        self._count([self._line])
        self._line = b""

    def _count(self, lines: Sequence[bytes]) -> None:
        text = b"\n".join(lines).decode(errors="replace")
        for n, pattern in enumerate(self._patterns):
            self.counts[n] += len(pattern.findall(text))
