"""Write a clip while it is made: pictures and sound come piece by piece, and one ffmpeg child makes one file or one stream of them.

    push(frames, samples) -> two queues -> a thread that feeds the child -> .mp4, .webm, .mkv, renamed at the end
                                                                         -> fragments of an mp4, given to `take` as they come

Both queues are filled before anybody waits, because the child reads pictures only as far as it has sound for them, and the other way
round. `push` waits until all pieces before its own are gone: no more than two are held, and who reads slowly slows down who makes.
Only the thread touches the child, so that a Ctrl-C between two pieces leaves no half of one.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

import ffmpeg

from .ffmpeg_child import Child, Limits, MediaError, essence, ffmpeg_path
from .media_write import AAC, H264, as_bytes, container_of, even_sides, picture, tagged

LIMITS = Limits(wall_s=48 * 3600.0, stall_s=120.0, memory_bytes=8 << 30, file_bytes=1 << 40)
FRAGMENT_S = 0.1  # of film in a fragment, besides what the encoders hold back
KEY_S = 2  # between two pictures at which a player can enter
FRAGMENTS: dict[str, Any] = {
    **H264,
    "tune": "zerolatency",
    **AAC,
    "ar": 48000,
    "f": "mp4",
    # delay_moov: the edit list then says how much of the first sound the encoder has put in front.
    "movflags": "+delay_moov+default_base_moof+frag_discont",
    "frag_duration": round(FRAGMENT_S * 1e6),
    "flush_packets": 1,
}
MIME = 'video/mp4; codecs="avc1.640028, mp4a.40.2"'
"""What Media Source Extensions call the bytes that `take` gets."""
SCRATCH_BYTES = 1 << 16
PATIENCE_S = 10.0  # for the first fragment

Take = Callable[[bytes], None]


@dataclass(frozen=True)
class Format:
    """Of a film: width and height in pixels, frames and samples a second. tags: of the container, such as `comment`."""

    width: int
    height: int
    fps: float
    sample_rate: int
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.fps, self.sample_rate) <= 0:
            raise ValueError(
                f"format: {self.width}x{self.height} at {self.fps} frames and {self.sample_rate} samples a second: must be above 0"
            )


class MediaStream:
    """One film in the making; a context manager that finishes it, or after an error leaves nothing. Not for two threads at once.

    Args:
        target: a path (see `write_media`), or what takes the bytes of a fragmented mp4, in a thread of this stream; while it waits, nothing
            goes on, and what it raises ends the stream.

    Raises:
        MediaError: an unknown suffix, a folder that does not exist, or ffmpeg has failed.
    """

    def __init__(self, target: Path | Take, of: Format) -> None:
        self._of, self._take = of, target if callable(target) else None
        self._path = None if callable(target) else Path(target).absolute()
        self._name = self._path or Path("stream")
        kind = None if self._path is None else container_of(self._path)
        self._part = self._path and self._path.with_name(f".{secrets.token_hex(8)}.part{self._path.suffix.lower()}")
        self._changed = threading.Condition()
        self._pictures, self._sound = _Queue(self._changed), _Queue(self._changed)
        self._error: BaseException | None = None
        self._came, self._over = False, False
        self.frames = self.samples = 0
        wake, self._bell = os.pipe()
        os.set_blocking(self._bell, False)
        sinks = [] if self._take is None else [_Taken(self._took)]
        try:
            self._child = Child(
                lambda pipes: _arguments(pipes, of, kind, self._part), LIMITS, [self._pictures, self._sound], sinks, wake=wake
            )
        except BaseException:
            os.close(wake)
            os.close(self._bell)
            raise
        self._thread = threading.Thread(target=self._feed, args=(wake,), name="media-stream", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.finish()
        else:
            self.abandon()

    def push(self, frames: np.ndarray, samples: np.ndarray) -> None:
        """Add frames uint8 `[N, H, W, 3]` and samples float `[S]` mono, clipped to [-1, 1]. Frame n is shown at n / fps, sample s sounds at
        s / sample_rate, both counted from the first; N or S may be 0.

        Raises:
            MediaError: they are of another shape, or ffmpeg has failed (no space, no permission). Nothing is left then.
        """
        assert not self._over, "the stream is finished"
        self._check(frames, samples)
        self.frames += len(frames)
        self.samples += len(samples)
        with self._changed:
            self._pictures.add(as_bytes(even_sides(frames)))
            self._sound.add(as_bytes(np.clip(samples, -1.0, 1.0).astype("<f4")))
            self._ring()
            first = self._take is not None and self.frames == len(frames)
            self._changed.wait_for(
                lambda: (
                    self._error is not None
                    or (self._pictures.waiting <= 1 and self._sound.waiting <= 1 and (self._came or not first or not self._can_come()))
                ),
                PATIENCE_S if first else None,
            )
        self._raise()

    def finish(self) -> None:
        """The film ends here: a file gets its name.

        Raises:
            MediaError: nothing was pushed, or ffmpeg has failed. Nothing is left then.
        """
        if self._over:
            return
        if self.frames == 0:
            self.abandon()
            raise MediaError("write", self._name, "a film without a picture: nothing was made")
        self._over = True
        with self._changed:
            self._pictures.end()
            self._sound.end()
            self._ring()
        self._thread.join()
        self._raise()
        if self._part is not None and self._path is not None:
            os.replace(self._part, self._path)

    def abandon(self) -> None:
        """Leave nothing. May be called again, and after `finish`, which it does not undo."""
        if self._over:
            return
        self._over = True
        with self._changed:
            self._error = self._error or MediaError("write", self._name, "was given up")
            self._ring()
        self._thread.join()
        self._remove()

    def _can_come(self) -> bool:
        """Whether so much was pushed that a fragment must come of it: two, and what the encoders hold back."""
        seconds = min(self.frames / self._of.fps, self.samples / self._of.sample_rate)
        return seconds > 2 * FRAGMENT_S + 0.1

    def _feed(self, wake: int) -> None:
        """What the thread does."""
        try:
            with self._child:
                while self._error is None and self._child.step():
                    pass
            if self._error is None:
                ended = self._child
                if ended.stopped or ended.returncode != 0 or not (self._pictures.over and self._sound.over):
                    raise MediaError("write", self._name, ended.stopped or "ffmpeg could not write it", essence(ended.said))
        except BaseException as error:  # noqa: BLE001  it is raised again by whoever pushes
            self._error = self._error or error
        finally:
            os.close(wake)
            with self._changed:
                os.close(self._bell)
                self._bell = -1
                self._changed.notify_all()

    def _took(self, data: bytes) -> None:
        assert self._take is not None
        self._take(data)
        if not self._came:
            with self._changed:
                self._came = b"moof" in data or self._came
                self._changed.notify_all()

    def _ring(self) -> None:
        if self._bell >= 0:
            os.write(self._bell, b"!")

    def _raise(self) -> None:
        if self._error is not None:
            self._over = True
            self._thread.join()
            self._remove()
            raise self._error

    def _remove(self) -> None:
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    def _check(self, frames: np.ndarray, samples: np.ndarray) -> None:
        size = (self._of.height, self._of.width, 3)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != size:
            raise MediaError(
                "write", self._name, f"frames must be uint8 [N, {size[0]}, {size[1]}, 3], got {frames.dtype} {list(frames.shape)}"
            )
        if samples.ndim != 1 or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            raise MediaError("write", self._name, f"samples must be finite float [S], got {samples.dtype} {list(samples.shape)}")


class _Queue:
    """A feed of pieces; `waiting` counts those that have not gone entirely."""

    def __init__(self, changed: threading.Condition) -> None:
        self._pieces: deque[memoryview] = deque()
        self._changed, self._ended = changed, False

    @property
    def waiting(self) -> int:
        return len(self._pieces)

    @property
    def over(self) -> bool:
        """Whether all has gone, and no more will come."""
        return self._ended and not self._pieces

    def add(self, piece: memoryview) -> None:
        if len(piece):
            self._pieces.append(piece)

    def end(self) -> None:
        self._ended = True

    def data(self) -> memoryview | None:
        with self._changed:
            return self._pieces[0] if self._pieces else None if self._ended else memoryview(b"")

    def gave(self, count: int) -> None:
        with self._changed:
            self._pieces[0] = self._pieces[0][count:]
            if not len(self._pieces[0]):
                self._pieces.popleft()
                self._changed.notify_all()


class _Taken:
    """A sink that hands on what comes."""

    def __init__(self, took: Take) -> None:
        self._took, self._scratch = took, memoryview(bytearray(SCRATCH_BYTES))

    def room(self) -> memoryview:
        return self._scratch

    def took(self, count: int) -> None:
        self._took(bytes(self._scratch[:count]))


def _arguments(pipes: Sequence[int], of: Format, kind: dict[str, dict[str, Any]] | None, part: Path | None) -> list[str]:
    width, height = (side + side % 2 for side in (of.width, of.height))
    at_once: dict[str, Any] = {"probesize": 32, "analyzeduration": 0}  # else seconds are read before anything begins
    frames = ffmpeg.input(f"pipe:{pipes[0]}", f="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=f"{of.fps:g}", **at_once)
    sound = ffmpeg.input(f"pipe:{pipes[1]}", f="f32le", ar=of.sample_rate, ac=1, **at_once)
    options: dict[str, Any] = {"threads": 1, "fflags": "+bitexact"}
    if kind is None:
        options |= FRAGMENTS | {"g": round(KEY_S * of.fps)}
    else:
        options |= kind["video"] | kind["audio"] | kind["file"]
    output = ffmpeg.output(picture(frames), sound, f"pipe:{pipes[2]}" if part is None else f"file:{part}", **options)
    return tagged(output.compile(cmd=[ffmpeg_path(), "-nostdin", "-v", "level+error", "-y", "-filter_complex_threads", "1"]), of.tags)
