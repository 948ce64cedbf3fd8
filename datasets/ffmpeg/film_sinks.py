"""Where a film's bytes go (sinks of ffmpeg_child.py): pictures into the clip that is read, sound beside them."""

from __future__ import annotations

import numpy as np

from .ffmpeg_child import CHUNK_BYTES


class Pictures:
    """Raw pictures: straight into the clip that is read, those after it into a buffer of at most `most` pictures."""

    def __init__(self, frame_bytes: int, most: int) -> None:
        self.frame_bytes, self.most = frame_bytes, most
        self.allowed = 0  # pictures that may be read ahead of the clip now
        self._ahead, self._ahead_bytes = np.empty(most * frame_bytes, np.uint8).data, 0
        self._clip, self._clip_bytes = memoryview(b""), 0

    @property
    def count(self) -> int:
        """Whole pictures of the clip and ahead of it."""
        return (self._clip_bytes + self._ahead_bytes) // self.frame_bytes

    def begin(self, clip: memoryview) -> None:
        """Pictures go there now; the first are those that had been read ahead."""
        known = min(len(clip), self._ahead_bytes)
        clip[:known] = self._ahead[:known]
        self._ahead_bytes -= known
        self._ahead[: self._ahead_bytes] = self._ahead[known : known + self._ahead_bytes]
        self._clip, self._clip_bytes = clip, known

    def end(self) -> None:
        """The clip is taken."""
        self._clip, self._clip_bytes = memoryview(b""), 0

    def room(self) -> memoryview:
        if self._clip_bytes < len(self._clip):
            return self._clip[self._clip_bytes :]
        return self._ahead[self._ahead_bytes : self.allowed * self.frame_bytes]

    def took(self, count: int) -> None:
        if self._clip_bytes < len(self._clip):
            self._clip_bytes += count
        else:
            self._ahead_bytes += count


class Sound:
    """Samples (float32) from the sample `begin` on: those from `floor` on are kept until the floor is raised, none from `limit` on."""

    def __init__(self, begin: int) -> None:
        self.end = begin  # what has come, kept or not
        self.floor = begin
        self.limit: int | None = None
        self.silent = begin  # up to here it was given out, as silence where nothing had come
        self.belated = 0  # samples that came after all and are not silent
        self._begin, self._data, self._part = begin, bytearray(), b""
        self._scratch = memoryview(bytearray(CHUNK_BYTES))

    def room(self) -> memoryview:
        return self._scratch

    def took(self, count: int) -> None:
        data = self._part + self._scratch[:count]
        whole = len(data) // 4 * 4
        self._part = data[whole:]
        if self.silent > self.end:
            late = np.frombuffer(data, np.float32, min(whole // 4, self.silent - self.end))
            self.belated += int(np.count_nonzero(late))
        self._data += data[:whole]
        self.end += whole // 4
        self.trim()

    def trim(self) -> None:
        """Forget what is below the floor or beyond the limit."""
        if self.limit is not None:
            del self._data[4 * max(0, self.limit - self._begin) :]
        gone = min(len(self._data) // 4, max(0, self.floor - self._begin))
        del self._data[: 4 * gone]
        self._begin += gone
        if not self._data and self.limit is None:
            self._begin = self.end

    def take(self, begin: int, count: int) -> np.ndarray:
        """float32 `[count]` from a sample on: silence where nothing has come; what is no number or beyond full scale, as float codecs
        may hold, is brought into [-1, 1].
        """
        taken = np.zeros(count, np.float32)
        skip = begin - self._begin
        known = np.frombuffer(bytes(self._data[4 * max(0, skip) : 4 * max(0, skip + count)]), np.float32)
        at = max(0, -skip)
        taken[at : at + len(known)] = np.clip(np.nan_to_num(known), -1.0, 1.0)
        return taken
