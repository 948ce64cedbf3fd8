"""One stream on its way to who watches it: chunks in, numbered pieces of a fragmented mp4 out, and how it is going.

    a batch's thread: give(chunk) -> MediaStream -> its thread: bytes -> what waits here -> piece(n) -> the viewer

A viewer asks for piece 0, 1, ... and has received all before the one that it asks for; the last is kept, so that it can be asked for
again. What waits is bounded, because a clip gets no chunk while it is `ahead_s` before what was fetched: who reads slowly, or not at all,
slows down nobody else and fills no memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ...datasets.ffmpeg.fragments import Fragment, FragmentReader
from ...datasets.ffmpeg.media_stream import Format, MediaStream
from ..generation.playing import Chunk
from .limits import Refused
from .stream_request import Asked

PIECE_BYTES = 1 << 20
HELD_S = 0.5  # of film, at most, that the container's encoders hold back
RECENT = 12  # chunks that frames/s are of
OVER = ("ended", "stopped", "left", "failed")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Piece:
    """Bytes that follow those of the piece before; over: no more will come."""

    data: bytes
    over: bool


class Viewer:
    """State and bytes of one stream. `give`, `end` and `close` are for one thread, everything else for any."""

    def __init__(self, name: str, asked: Asked, film: Format, chunk_s: float, ahead_s: float, clock: Clock = time.monotonic) -> None:
        self.name, self.asked = name, asked
        self.began = self.seen = self.fetched_at = clock()
        self.state, self.reason = "waiting", ""
        self.first_s: float | None = None
        self.made, self.caption = 0, asked.caption
        self.full_since: float | None = None
        self.said_until = max((end for _, _, end in asked.words), default=0.0)
        self._film, self._chunk_s, self._clock = film, chunk_s, clock
        self._ahead_s = max(ahead_s, 2 * chunk_s + HELD_S)
        self._lock = threading.Lock()
        self._container: MediaStream | None = None
        self._waiting, self._waiting_bytes = deque[bytes](), 0
        self._reader, self._fragments = FragmentReader(), deque[Fragment]()
        self._fetched_bytes, self._fetched_s = 0, 0.0
        self._number, self._piece, self._told_over = -1, b"", False
        self._ready: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._turns = deque[float](maxlen=RECENT)
        self.on_room: Callable[[], None] = lambda: None

    @property
    def over(self) -> bool:
        return self.state in OVER

    @property
    def done(self) -> bool:
        """Whether all that will be made is."""
        return self.made >= self.asked.chunks

    @property
    def ahead_s(self) -> float:
        """Seconds that are made and were not fetched, with what is still encoded."""
        return max(0.0, self.made * self._chunk_s - self._fetched_s)

    @property
    def room(self) -> bool:
        """Whether another chunk may be made."""
        return self.ahead_s + self._chunk_s <= self._ahead_s + 1e-9

    @property
    def fetched(self) -> bool:
        """Whether it is over and nothing of it waits."""
        return self.over and not self._waiting

    @property
    def told(self) -> bool:
        """Whether its viewer knows that it is over."""
        return self._told_over

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    def open(self) -> None:
        """Start the container's encoder, which takes a while and needs nothing yet.

        Raises:
            MediaError: there is no ffmpeg.
        """
        self._container = MediaStream(self._took, self._film)

    def give(self, chunk: Chunk, turn_s: float) -> None:
        """What was made. turn_s: how long that took, from when it could have begun.

        Raises:
            MediaError: ffmpeg has failed.
        """
        assert self._container is not None, "open it first"
        self._container.push(chunk.frames, chunk.samples)
        with self._lock:
            self.made += 1
            self.state = "playing"
            self._turns.append(turn_s)

    def end(self, rest: Chunk | None) -> None:
        """Everything was made.

        Raises:
            MediaError: ffmpeg has failed.
        """
        assert self._container is not None
        if rest is not None:
            self._container.push(rest.frames, rest.samples)
        self._container.finish()
        self.close("ended")

    def close(self, state: str, reason: str = "") -> None:
        """No more will come. What waits may still be fetched if it has ended; else it goes."""
        assert state in OVER, state
        container, self._container = self._container, None
        if container is not None:
            container.abandon()
        with self._lock:
            if not self.over:
                self.state, self.reason = state, reason
            if state != "ended":
                self._waiting.clear()
                self._waiting_bytes = 0
        self._wake()

    async def piece(self, number: int, wait_s: float) -> Piece:
        """Piece `number`, as soon as there are bytes for it, or an empty one after `wait_s`, to be asked for again.

        Raises:
            Refused: it is neither the last one nor the next, or the stream was ended by somebody else than its viewer.
        """
        self.seen = self._clock()
        until = self._clock() + wait_s
        ready = asyncio.Event()
        self._ready = (asyncio.get_running_loop(), ready)
        while number == self._number + 1 and not self._waiting and not self.over and (left := until - self._clock()) > 0:
            try:
                await asyncio.wait_for(ready.wait(), left)
            except TimeoutError:
                break
            ready.clear()
        self.seen = self._clock()
        if number == self._number:  # also where somebody who asked for it twice has got it meanwhile
            return self._answer(self._piece)
        if number != self._number + 1:
            raise Refused(409, f"piece {number}: the next is {self._number + 1}; pieces are given in their order")
        if self.state in ("left", "failed"):
            raise Refused(410, f"stream {self.name}: {self.reason}")
        taken = self._next()
        if taken:
            self._number, self._piece = number, taken
            self.on_room()
        return self._answer(taken)

    def status(self) -> dict[str, object]:
        """How it is going, as JSON has it."""
        clock = self._film.fps
        turns = list(self._turns)
        rate = self._chunk_s * clock * len(turns) / sum(turns) if turns and sum(turns) > 0 else None
        return {
            "stream": self.name,
            "state": self.state,
            "reason": self.reason,
            "time_to_first_chunk_s": self.first_s,
            "frames_per_s": None if rate is None else round(rate, 2),
            "fps": clock,
            "made_s": round(self.made * self._chunk_s, 3),
            "fetched_s": round(self._fetched_s, 3),
            "ahead_s": round(self.ahead_s, 3),
            "waiting_bytes": self._waiting_bytes,
            "seconds": self.asked.chunks * self._chunk_s,
            "caption": self.caption,
            "notes": list(self.asked.notes),
        }

    def _took(self, data: bytes) -> None:
        with self._lock:
            if self.over:
                return
            if self.first_s is None:
                self.first_s = round(self._clock() - self.began, 4)
            self._waiting.append(data)
            self._waiting_bytes += len(data)
            self._fragments += self._reader.add(data)
        self._wake()

    def _next(self) -> bytes:
        with self._lock:
            parts = list[bytes]()
            while self._waiting and sum(map(len, parts)) + len(self._waiting[0]) <= PIECE_BYTES:
                parts.append(self._waiting.popleft())
            data = b"".join(parts)
            self._waiting_bytes -= len(data)
            self._fetched_bytes += len(data)
            while self._fragments and self._fragments[0].offset <= self._fetched_bytes:
                self._fetched_s = self._fragments.popleft().seconds
            if data:
                self.fetched_at = self._clock()
            return data

    def _answer(self, data: bytes) -> Piece:
        self._told_over = self.fetched
        return Piece(data, self._told_over)

    def _wake(self) -> None:
        if self._ready is not None:
            loop, ready = self._ready
            with contextlib.suppress(RuntimeError):  # the loop has ended, and whoever waited with it
                loop.call_soon_threadsafe(ready.set)
