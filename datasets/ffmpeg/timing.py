"""What was found on a source's clock, as a function of two tables that ffmpeg writes beside pictures and sound.

    packets of pictures, as the container times them   0, dts, pts, duration, size, checksum  -> PictureTimes  |
    frames of sound, as they are decoded               0, dts, pts, samples, size, checksum   -> SoundTimes    |-> Timing

Both are read line by line (`Table`), and what is kept does not grow with the film. The lines are of a file that nobody vouches for.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from .ffmpeg_child import Overrun

LONGEST_LINE = 4096
NOPTS = -(2**63)  # how ffmpeg writes that there is no timestamp
REORDERED = 16  # pictures that h264 and hevc may store before one that is shown earlier
GAP_S = 0.01  # of sound: what `aresample` fills with silence (min_hard_comp); less is drift
STEADY = 0.1  # of the mean: how much two intervals between pictures differ before the rate is called variable
STEADY_S = 0.0025  # Matroska and FLV keep whole milliseconds

HEADER = re.compile(rb"#(tb|sample_rate) 0: (\d+)(?:/(\d+))?\s*$")


@dataclass(frozen=True)
class Timing:
    """What was found on the clock of a source, or of the part of it that was read. All but the last three in milliseconds.

    `av_offset_ms`: how much later than the pictures the sound begins in the container. `priming_ms`: sound that the encoder had put in
    front and the decoder took away; NaN where the beginning does not tell. `sound_gap_ms`, `sound_gaps`: sum and count of gaps in the
    sound that were filled with silence. `drift_ms`: by how much the decoded samples last longer than their timestamps say, gaps left
    out. `picture_gap_ms`: the largest interval between two pictures. `source_fps`: their mean rate, 0 below two pictures;
    `rate_varies`: whether the intervals differ.
    """

    av_offset_ms: float = 0.0
    priming_ms: float = 0.0
    sound_gap_ms: float = 0.0
    drift_ms: float = 0.0
    picture_gap_ms: float = 0.0
    sound_gaps: int = 0
    source_fps: float = 0.0
    rate_varies: bool = False


class Times(Protocol):
    """What becomes of a table's rows."""

    def add(self, start_s: float, length_s: float) -> None: ...

    def close(self) -> None: ...


class PictureTimes:
    """Timestamps of pictures, in the order in which they are stored.

    Args:
        longest_gap_s: the largest interval between two pictures that are used one after the other.
        from_s, to_s: what lies before or behind is not looked at (it is read only so that the rest is right).
    """

    def __init__(self, longest_gap_s: float, from_s: float = float("-inf"), to_s: float = float("inf")) -> None:
        self.first_s: float | None = None  # of the first row
        self.latest_s = float("-inf")
        self.count, self.smallest_s, self.largest_s = 0, float("inf"), 0.0
        self._longest_gap_s, self._from_s, self._to_s = longest_gap_s, from_s, to_s
        self._begin_s = self._shown_s = 0.0
        self._pending: list[float] = []

    def add(self, start_s: float, length_s: float) -> None:
        if self.first_s is None:
            self.first_s = self.latest_s = start_s
        # So far ahead that those still to come cannot fill the gap: refused now, or ffmpeg would fill it first.
        jump = min(start_s, self._to_s) - max(self.latest_s, self._from_s)
        if jump > self._longest_gap_s + REORDERED * min(length_s, self._longest_gap_s):
            self._refuse(jump)
        self.latest_s = max(self.latest_s, start_s)
        heapq.heappush(self._pending, start_s)
        if len(self._pending) > REORDERED:
            self._show(heapq.heappop(self._pending))

    def close(self) -> None:
        while self._pending:
            self._show(heapq.heappop(self._pending))

    def _show(self, start_s: float) -> None:
        if self.count == 0:
            self._begin_s = start_s
        elif start_s >= self._from_s and self._shown_s < self._to_s:
            if start_s < self._to_s:
                interval = start_s - self._shown_s
                self.smallest_s, self.largest_s = min(self.smallest_s, interval), max(self.largest_s, interval)
            interval = min(start_s, self._to_s) - max(self._shown_s, self._from_s)
            if interval > self._longest_gap_s:
                self._refuse(interval)
        self.count += 1
        self._shown_s = start_s

    def _refuse(self, gap_s: float) -> None:
        raise Overrun(f"a gap of {gap_s:.1f} s between two pictures: {self._longest_gap_s:g} s are filled at most")

    @property
    def fps(self) -> float:
        lasted = self._shown_s - self._begin_s
        return (self.count - 1) / lasted if self.count > 1 and lasted > 0 else 0.0

    @property
    def rate_varies(self) -> bool:
        return self.fps > 0 and self.largest_s - self.smallest_s > max(STEADY_S, STEADY / self.fps)


class SoundTimes:
    """Times of the sound's frames after decoding, in their order.

    Args:
        longest_gap_s: the largest gap that is filled with silence.
        from_s, to_s: what lies before or behind is not looked at.
    """

    def __init__(self, longest_gap_s: float, from_s: float = float("-inf"), to_s: float = float("inf")) -> None:
        self.first_s: float | None = None
        self.gaps, self.gap_s, self.drift_s = 0, 0.0, 0.0
        self._longest_gap_s, self._from_s, self._to_s = longest_gap_s, from_s, to_s
        self._due_s = 0.0

    def add(self, start_s: float, length_s: float) -> None:
        if self.first_s is None:
            self.first_s = self._due_s = start_s
        due_s, self._due_s = self._due_s, start_s + length_s
        if start_s < self._from_s or due_s >= self._to_s:
            return
        late_s = min(start_s, self._to_s) - max(due_s, min(start_s, self._from_s))
        if late_s > self._longest_gap_s:
            raise Overrun(f"a gap of {late_s:.1f} s in its sound: {self._longest_gap_s:g} s are filled at most")
        if late_s > GAP_S:
            self.gaps, self.gap_s = self.gaps + 1, self.gap_s + late_s
        else:
            self.drift_s -= late_s

    def close(self) -> None:
        pass


class Table:
    """A sink (ffmpeg_child.py) for framecrc's text of one stream: gives each row's time and length in seconds to `times`."""

    def __init__(self, times: Times) -> None:
        self._times, self._rest, self._scratch = times, b"", memoryview(bytearray(1 << 16))
        self._tick_s = 0.0

    def room(self) -> memoryview:
        return self._scratch

    def took(self, count: int) -> None:
        *lines, self._rest = (self._rest + bytes(self._scratch[:count])).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise Overrun("its table of packets is no table")
        for line in lines:
            if line.startswith(b"#"):
                self._head(line)
            else:
                self._row(line)

    def close(self) -> None:
        """The last row of the file has come."""
        self._times.close()

    def _head(self, line: bytes) -> None:
        if (stated := HEADER.match(line)) and stated[1] == b"tb":
            self._tick_s = float(Fraction(int(stated[2]), int(stated[3] or 1)))

    def _row(self, line: bytes) -> None:
        cells = line.split(b",", 4)
        try:
            stored, shown, length = int(cells[1]), int(cells[2]), int(cells[3])
        except (IndexError, ValueError):
            return
        start = stored if shown == NOPTS else shown  # AVI times the order of storage alone
        self._times.add(start * self._tick_s, length * self._tick_s)


def timing_of(av_offset_s: float, priming_s: float | None, pictures: PictureTimes | None, sound: SoundTimes | None) -> Timing:
    """What the tables say, once they are closed, with what the probe said of the beginning."""
    return Timing(
        av_offset_ms=1000 * av_offset_s,
        priming_ms=float("nan") if priming_s is None else 1000 * priming_s,
        sound_gap_ms=1000 * sound.gap_s if sound else 0.0,
        drift_ms=1000 * sound.drift_s if sound else 0.0,
        picture_gap_ms=1000 * pictures.largest_s if pictures else 0.0,
        sound_gaps=sound.gaps if sound else 0,
        source_fps=pictures.fps if pictures else 0.0,
        rate_varies=pictures.rate_varies if pictures else False,
    )
