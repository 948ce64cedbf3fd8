"""One media file, read as it is needed: pictures and sound on one clock, in memory that does not grow with its length.

    command (film_command.py) -> one ffmpeg child -> pictures -> the clip that is read, and a few frames ahead of it
                                                  -> sound    -> what belongs to it, and what comes before its pictures do
                                                  -> tables   -> timing.py
                                                  -> words    -> damage, an early end

A child whose pictures nobody takes stands still, so nothing runs while a clip is encoded. Pictures are read ahead of the clip until
its sound is there; how far either may be ahead is bounded. A film that has silence where its pictures were far ahead, and afterwards
turns out to have sound there, is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from .ffmpeg_child import Child, Limits, MediaError, Overrun, Sink, essence
from .film_command import DecodeConfig, Part, command, part_of, sample_of
from .film_sinks import Pictures, Sound
from .probe import Probe, plain_file
from .timing import PictureTimes, SoundTimes, Table, Timing, timing_of

PATIENCE = 10.0  # seconds that a second of film may take
LOST_PICTURES = 8  # pictures are stored out of order: so many before the end of a cut file may be missing between others
AHEAD_S = 60.0  # of pictures before their sound
AHEAD_BYTES = 192 << 20
SOUND_AHEAD_S = 120.0  # of sound before its pictures
BELATED_S = 0.02  # of sound that comes after its place was given out as silence: what filters held back
MAX_SOUND_GAP_S = 600.0
BEHIND_S = 120.0  # when a picture is stored that is so much later than all that is wanted, no sound of it follows
LANDING_S = 2.0  # behind the place to which a seek goes
WORTH_A_NOTE_S = 0.15
SCRATCH_BYTES = 1 << 18
GATHER_S = 0.002  # as long as it takes to fill a pipe with 500 MB/s

DAMAGE = re.compile(r"corrupt decoded frame|Error submitting packet to decoder|Error while decoding stream")
CUT_SHORT = re.compile(r"partial file|Packet corrupt|File ended prematurely|Truncated|truncated")


@dataclass(frozen=True)
class Cut:
    """Output frames first, first + 1, ... of a film. `frames`: uint8 `[N, H, W, 3]` RGB, read-only, None of a film without pictures.
    `audio`: float32 `[S]` mono in [-1, 1] from the first frame on, S = round(N * sample_rate / fps), None of a film without sound.
    """

    first: int
    count: int
    frames: np.ndarray | None
    audio: np.ndarray | None


@dataclass(frozen=True)
class Verdict:
    """What a film was, as far as it was read: `frames` and `samples` given out at most, what a user should know, and its `timing`."""

    frames: int
    samples: int
    notes: tuple[str, ...]
    timing: Timing


def open_film(path: Path | str, found: Probe, config: DecodeConfig, start_s: float = 0.0, end_s: float | None = None) -> Film:
    """Open the frames of a file with start_s <= n / fps < end_s, to be read in order; a context manager.

    Args:
        path: the file that `found` describes.
        start_s, end_s: on the clock whose zero is the first picture, or the first sound of a file without pictures.

    Raises:
        MediaError: not a plain file, or none that ffmpeg enters.
        ValueError: not 0 <= start_s < end_s.
    """
    path = plain_file(path, "decode")
    part = part_of(found, config, start_s, end_s)
    film = Film(path, found, config, part)
    if part.seek_s is None or film.has_landed():
        return film
    film.close()  # its index has led us to a place behind the one that we want
    return Film(path, found, config, part_of(found, config, start_s, end_s, seek=False))


class Film:
    """Pictures and sound of one file; see `open_film`. Not for two threads at once."""

    def __init__(self, path: Path, found: Probe, config: DecodeConfig, part: Part) -> None:
        self.first, self.end = part.first, part.end
        self._path, self._found, self._config, self._part = path, found, config, part
        frame_bytes = config.width * config.height * 3
        fit = max(LOST_PICTURES, AHEAD_BYTES // frame_bytes)
        self._lost = min(fit, math.ceil(LOST_PICTURES * config.fps / (found.fps or config.fps)))
        self._pictures = Pictures(frame_bytes, max(self._lost, min(fit, int(AHEAD_S * config.fps)))) if found.has_video else None
        self._sound = Sound(part.base_s * config.sample_rate) if found.has_audio else None
        from_s, to_s = (found.zero_s + frame / config.fps for frame in (part.first, part.end))
        self._picture_times = PictureTimes(config.max_gap_s, from_s, to_s) if found.has_video else None
        self._sound_times = SoundTimes(MAX_SOUND_GAP_S, from_s, to_s) if found.has_audio else None
        self._tables = [Table(times) for times in (self._picture_times, self._sound_times) if times is not None]
        self._begin = self._at = part.first  # of what was given out last, and of what is not read yet
        self._held = np.empty((0, config.height, config.width, 3), np.uint8)
        self._over, self._came = False, 0  # whether the child has ended, and how many frames had come of it then
        self._excused = 0  # damage before the first picture that is wanted
        length_s = part.limit_s - (part.seek_s or 0)
        length_s = length_s if found.duration_s is None else min(length_s, found.duration_s)
        limits = Limits(config.timeout_s + PATIENCE * length_s, config.stall_s, config.memory_bytes)
        streams = [sink for sink in (self._pictures, self._sound) if sink is not None]
        sinks: list[Sink] = [sink for pair in zip(streams, self._tables, strict=True) for sink in pair]
        self._child = Child(lambda pipes: command(path, found, config, part, pipes), limits, (), sinks, (DAMAGE, CUT_SHORT))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child. May be called again."""
        self._child.close()

    def has_landed(self) -> bool:
        """After a seek: whether the input was entered before all that is wanted."""
        pictures, sound, found = self._picture_times, self._sound_times, self._found
        assert pictures is not None
        assert self._pictures is not None
        assert self._part.seek_s is not None
        self._pictures.allowed = self._lost
        while pictures.first_s is None or (sound is not None and sound.first_s is None):
            if self._pictures.count >= self._lost or not self._child.step():
                return False
        entered_s = [times.first_s - found.zero_s for times in (pictures, sound) if times is not None and times.first_s is not None]
        return max(entered_s) <= self._part.seek_s + LANDING_S

    def read(self, first: int, count: int) -> Cut | None:
        """Frames first, first + 1, ... with their sound: `count` of them, fewer at the end of the film, None past it.

        Args:
            first: on the film's clock, not before `self.first` nor before the `first` of the last call; what lies before it is dropped.

        Raises:
            MediaError: the child has failed or overrun a limit, pictures and sound lie too far apart, or a gap is too long.
        """
        assert count > 0
        assert first >= self._begin, f"frame {first} is behind frame {self._begin}, which was read last"
        count = min(count, self.end - first)
        if count <= 0:
            return None
        if self._sound is not None:
            self._sound.floor = sample_of(first, self._config)
            self._sound.trim()
        frames = None
        if self._pictures is not None:
            self._drop(first)
            if self._at < first:
                return None
            frames = self._fill(first, count)
            count = len(frames)
        else:
            count = self._hear(first, count)
        self._begin = first
        if count == 0:
            return None
        audio = None if self._sound is None else self._sound.take(sample_of(first, self._config), sample_of(count, self._config))
        return Cut(first, count, frames, audio)

    def verdict(self) -> Verdict:
        """What the film was, once `read` has returned None; before that, as far as it was read. Ends the child.

        Raises:
            MediaError: nothing came of it, more than `config.max_damage` of the frames are damaged, or ffmpeg has failed.
        """
        count = self._total()
        self._child.close()
        self._raise_if_stopped()
        said, damaged = essence(self._child.said), self._child.counts[0] - self._excused
        if count == 0:
            what = "no sound" if self._pictures is None else "no picture"
            raise MediaError(
                "decode", self._path, f"{what} decodes" + f" from {self.first / self._config.fps:g} s on" * (self.first > 0), said
            )
        if damaged > self._config.max_damage * count:
            raise MediaError("decode", self._path, f"damaged: in {damaged} places over {count} frames", said)
        if self._over and self._child.returncode:
            raise MediaError("decode", self._path, f"ffmpeg ended with status {self._child.returncode}", said)
        samples = 0 if self._sound is None else sample_of(count, self._config)
        timing = timing_of(self._found.av_offset_s, self._found.priming_s, self._picture_times, self._sound_times)
        return Verdict(count, samples, tuple(self._notes(count, damaged)), timing)

    def _drop(self, first: int) -> None:
        """Read and forget the pictures before `first`."""
        assert self._pictures is not None
        few = max(1, SCRATCH_BYTES // self._pictures.frame_bytes)
        scratch = memoryview(bytearray(few * self._pictures.frame_bytes)) if self._at < first else memoryview(b"")
        while self._at < first:
            count = min(few, first - self._at)
            self._pictures.begin(scratch[: count * self._pictures.frame_bytes])
            while self._pictures.count < count and self._step():
                pass
            came = min(count, self._pictures.count)
            self._pictures.end()
            self._at += came
            if came < count:
                return

    def _fill(self, first: int, count: int) -> np.ndarray:
        """Frames first..first+count: what is held of the last call, then new ones."""
        assert self._pictures is not None
        again = self._held[first - self._begin :]
        if count <= len(again):
            self._held = again
            return again[:count]
        frames = np.empty((count, *again.shape[1:]), np.uint8)
        frames[: len(again)] = again
        fresh = count - len(again)
        self._held = again = frames[: len(again)]  # so that the last clip is free before this one is filled
        self._pictures.begin(frames[len(again) :].reshape(-1).data)
        while not self._ready(first, count, fresh) and self._step():
            pass
        if self._over:
            fresh = max(0, min(fresh, self._came - (self._at - self.first)))
        self._pictures.end()
        self._at += fresh
        frames = frames[: len(again) + fresh]
        frames.flags.writeable = False  # the next clip may begin with some of them
        self._held = frames
        return frames

    def _ready(self, first: int, count: int, fresh: int) -> bool:
        """Whether the pictures are there, behind them those that a cut file may lose, and their sound."""
        pictures, sound, times = self._pictures, self._sound, self._picture_times
        assert pictures is not None
        assert times is not None
        spare = min(self._lost, self.end - self._at - fresh)
        pictures.allowed = spare
        if pictures.count < fresh + spare:
            return False
        wanted = sample_of(first, self._config) + sample_of(count, self._config)
        if sound is None or sound.end >= wanted or not self._child.is_open(sound):
            return True
        pictures.allowed = pictures.most
        behind_s = times.latest_s - self._found.zero_s - self.end / self._config.fps
        if pictures.count < fresh + pictures.most and behind_s < BEHIND_S:
            return False
        sound.silent = wanted
        return True

    def _hear(self, first: int, count: int) -> int:
        """How many of the frames from `first` on have sound, in a film without pictures."""
        assert self._sound is not None
        config = self._config
        while self._sound.end < sample_of(first, config) + sample_of(count, config) and self._step():
            pass
        return max(0, min(count, int(self._sound.end * config.fps / config.sample_rate + 1e-9) - first))

    def _step(self) -> bool:
        """Let the child move on; False when it has ended."""
        pictures, sound = self._pictures, self._sound
        if pictures is not None and sound is not None:
            shown = sample_of(self._at + pictures.count, self._config)
            if not self._child.is_open(pictures):
                sound.limit = shown
            elif sound.end > shown + SOUND_AHEAD_S * self._config.sample_rate or sound.belated > BELATED_S * self._config.sample_rate:
                self._child.stop("its pictures and its sound lie too far apart in the file")
        moved = self._child.step(GATHER_S)
        if not moved:
            self._came, self._over = self._total(), True
            self._raise_if_stopped()
        elif self.first and self._at == self.first and (pictures is None or pictures.count == 0):
            self._excused = self._child.counts[0]
        return moved

    def _raise_if_stopped(self) -> None:
        said = essence(self._child.said)
        try:
            if self._child.stopped or self._over:
                for table in self._tables:  # a gap that stands in the last rows is the cause of what came of it
                    table.close()
        except Overrun as error:
            raise MediaError("decode", self._path, str(error), said) from error
        if self._child.stopped:
            raise MediaError("decode", self._path, self._child.stopped, said)

    def _total(self) -> int:
        """Frames from the first on that are whole and in their place, as far as they have come."""
        config = self._config
        if self._over:
            return self._came
        if self._pictures is None:
            assert self._sound is not None
            return max(0, min(int(self._sound.end * config.fps / config.sample_rate + 1e-9), self.end) - self.first)
        came = self._at - self.first + self._pictures.count
        lost = self._lost if self._child.returncode is not None and self._child.counts[1] and came < self.end - self.first else 0
        return max(0, came - lost)

    def _notes(self, count: int, damaged: int) -> list[str]:
        found, limit_s = self._found, self._part.limit_s
        shown_s = (self.first + count) / self._config.fps
        notes = []
        if damaged:
            notes.append(f"damaged: in {damaged} places")
        if self._over and self._child.counts[1]:
            notes.append(f"the file ends early: used up to {shown_s:.2f} s")
        if found.duration_s is not None and not self._part.wanted:
            if found.duration_s > limit_s:
                notes.append(f"only the first {limit_s:g} s of {found.duration_s:.1f} s are used")
            elif found.has_video and found.duration_s - shown_s > WORTH_A_NOTE_S:
                notes.append(f"its pictures end at {shown_s:.2f} s of {found.duration_s:.2f} s")
        if self._sound is None:
            notes.append("its sound does not decode" if found.audio_codec else "no sound")
        elif (self._over or self._at >= self.end) and shown_s - (heard_s := self._sound.end / self._config.sample_rate) > WORTH_A_NOTE_S:
            notes.append(f"its sound ends {shown_s - heard_s:.2f} s before the pictures: silence follows")
        return notes + ["no pictures"] * (not found.has_video)
