"""A film, or the pieces of it that a list names, as clips: pixels and samples of whole chunks, one after the other as they are decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, isfinite, nan
from pathlib import Path

import numpy as np

from ...model.timeline import Timeline
from ..config import DataConfig
from ..ffmpeg.film import Cut, Film, open_film
from ..ffmpeg.probe import Probe
from ..ffmpeg.timing import Timing
from ..format.clip_table import Found
from ..intake.sources import Span
from ..signals.scenes import SIDE, SceneFinder, plan_clips

LEFT_OUT = ("no pictures", "no sound", "its sound does not decode")  # notes of what a set is not of: else it would have been refused
OF_PICTURES, OF_SOUND = (
    ("picture_gap_ms", "source_fps", "rate_varies"),
    ("priming_ms", "sound_gap_ms", "sound_gaps", "drift_ms"),
)  # of Timing
APART_S = 30.0  # pieces of a film that lie further apart are decoded for themselves


Known = Callable[[float, int], bool]


@dataclass(frozen=True)
class Clip:
    """Frames uint8 [N, H, W, 3] and audio float32 [S], None where the set has none; where it starts in its source, its length in chunks,
    and the span of a list that it lies in.
    """

    start_s: float
    chunks: int
    frames: np.ndarray | None
    audio: np.ndarray | None
    span: Span | None = None


@dataclass(frozen=True)
class Seen:
    """What was seen of a source when all its clips are cut; see `SourceLine`."""

    frames: int = 0
    samples: int = 0
    av_offset_ms: float | None = None
    timing: Found = ()
    notes: tuple[str, ...] = ()


class Reel:
    """The clips of a source, to be gone through once; after that, `seen`, and how many were `passed_over` because `known` knows them by
    their start in seconds and their chunks.

    Raises:
        MediaError: while it is gone through: the source does not decode, or is damaged beyond what is let pass.
    """

    def __init__(
        self, path: Path, found: Probe, config: DataConfig, spans: Sequence[Span], starts: Sequence[int], known: Known = lambda *_: False
    ) -> None:
        self._path, self._found, self._config = path, only(found, config.modalities), config
        self._offset_ms = 1000 * found.av_offset_s if found.has_video and found.has_audio else nan
        self._spans, self._starts = sorted(spans, key=lambda s: (s.start_s, s.end_s)), starts
        self._known, self.passed_over = known, 0
        self.seen = Seen()

    def __iter__(self) -> Iterator[Clip]:
        for spans in _stretches(self._spans):
            yield from self._stretch(spans)

    def _stretch(self, spans: Sequence[Span]) -> Iterator[Clip]:
        """The clips of pieces that lie close to one another, or of the whole source where there are none."""
        t, done = self._config.timeline, set[tuple[int, int]]()
        begin_s, end_s = (spans[0].start_s, max(s.end_s for s in spans)) if spans else (0.0, None)
        with open_film(self._path, self._found, self._config.decoding, begin_s, end_s) as film:
            frames, end = film.end, film.end
            stated = ceil((self._found.duration_s or 0.0) * t.fps)  # a plan goes a little beyond what the container states
            plan = [clip for clip in self._plan(spans, frames) if clip[0] + t.frames(clip[1]) <= stated]
            if plan and all(self._known(first / t.fps, chunks) for first, chunks, _ in plan):
                self.passed_over += len(plan)
                return  # without decoding any of it
            while True:
                for first, chunks, span in self._plan(spans, frames):
                    if (first, chunks) in done:
                        continue
                    if self._known(first / t.fps, chunks):
                        self.passed_over += 1
                        done.add((first, chunks))
                        continue
                    cut = film.read(first, frames_of(chunks, t))
                    if (media := _trimmed(cut, chunks, t)) is None:
                        end = first + (cut.count if cut else 0)
                        break
                    done.add((first, chunks))
                    yield Clip(first / t.fps, chunks, *media, span)
                if end == frames:
                    break
                frames = end  # planned as if it were longer: now for what it has, of which the first clips are the same
            self._see(film)

    def _plan(self, spans: Sequence[Span], frames: int) -> list[tuple[int, int, Span | None]]:
        """(first frame, chunks, span) of each clip, by its first frame."""
        c, t = self._config, self._config.timeline
        pieces = [(span, [(first_frame(span.start_s, t), first_frame(span.end_s, t))]) for span in spans]
        plan = [
            (first, chunks, span)
            for span, piece in pieces or [(None, [])]
            if not piece or piece[0][0] < piece[0][1]
            for first, chunks in plan_clips(frames, self._starts, piece, c.clip_chunks, c.shortest, c.stride, t)
        ]
        return sorted(plan, key=lambda clip: clip[:2])

    def _see(self, film: Film) -> None:
        verdict, seen = film.verdict(), self.seen
        self.seen = Seen(
            frames=seen.frames + verdict.frames,
            samples=seen.samples + verdict.samples,
            av_offset_ms=self._offset_ms,
            timing=facts(replace(verdict.timing, av_offset_ms=self._offset_ms), self._found),
            notes=tuple(dict.fromkeys(note for note in (*seen.notes, *verdict.notes) if note not in LEFT_OUT)),
        )


def only(found: Probe, modalities: Sequence[str]) -> Probe:
    """A source as one that has only what a set is of: the rest is not decoded, but the clock, on which text and spans are, is the same."""
    return replace(
        found,
        video_start_s=found.video_start_s if "video" in modalities else None,
        audio_start_s=found.audio_start_s if "audio" in modalities else None,
        clock_zero_s=found.zero_s,
    )


def first_frame(seconds: float, t: Timeline) -> int:
    """The first frame that is shown then or later."""
    return ceil(seconds * t.fps - 1e-6)


def scenes_of(path: Path, found: Probe, config: DataConfig, spans: Sequence[Span]) -> tuple[int, ...]:
    """First frames of the scenes of a source, as far as its spans reach; decoded for this alone, in small pictures and without sound.

    Raises:
        MediaError: it does not decode.
    """
    t, finder, starts = config.timeline, SceneFinder(config.scenes, config.timeline.fps), list[int]()
    begin_s, end_s = (min(s.start_s for s in spans), max(s.end_s for s in spans)) if spans else (0.0, None)
    small = replace(config.decoding, width=SIDE, height=SIDE)
    with open_film(path, replace(found, audio_start_s=None), small, begin_s, end_s) as film:
        first = film.first
        while (cut := film.read(first, t.fps)) is not None and cut.frames is not None:
            starts += finder.push(cut.frames)
            first += cut.count
        film.verdict()
        return tuple(film.first + start for start in (*starts, *finder.finish()))


def frames_of(chunks: int, t: Timeline) -> int:
    """Frames to read for a clip: its own, and where its last audio latent ends behind them, so many more that its samples are there."""
    return max(t.frames(chunks), ceil(Fraction(t.samples(chunks) * t.fps, t.sample_rate)))


def facts(timing: Timing, read: Probe) -> Found:
    """What was found on a source's clock, by name with its unit; what is not known, or is of what was not read, is left out."""
    absent = (*(() if read.has_video else OF_PICTURES), *(() if read.has_audio else OF_SOUND))
    return tuple((name, round(float(x), 3)) for name, x in vars(timing).items() if isfinite(x) and name not in absent)


def _trimmed(cut: Cut | None, chunks: int, t: Timeline) -> tuple[np.ndarray | None, np.ndarray | None] | None:
    """A clip's own frames and samples; None where the film ends before them."""
    if cut is None or cut.count < t.frames(chunks) or (cut.audio is not None and len(cut.audio) < t.samples(chunks)):
        return None
    return None if cut.frames is None else cut.frames[: t.frames(chunks)], None if cut.audio is None else cut.audio[: t.samples(chunks)]


def _stretches(spans: Sequence[Span]) -> list[list[Span]]:
    """Spans in their order, together where they lie close to one another; one empty stretch where there are none."""
    stretches, end = list[list[Span]](), 0.0
    for span in spans:
        if not stretches or span.start_s > end + APART_S:
            stretches.append([])
            end = span.end_s
        stretches[-1].append(span)
        end = max(end, span.end_s)
    return stretches or [[]]
