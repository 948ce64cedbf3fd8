"""Where scenes begin, from the pictures alone, and which clips are cut between.

    frames, block by block -> SceneFinder.push -> first frames of scenes, `settled` frames behind the newest -+
                                                  spans that a list names                                    -+-> plan_clips

A hard cut is a picture that differs from the one before by much more than its neighbours do (PySceneDetect's adaptive rule), and whose
other side does not come back within `flash_s`: that was a flash. Dissolves are not found: a network that finds most of them
(TransNetV2) costs several times what decoding costs. Frames are counted on the output clock: frame n is shown at n / fps.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ...model.timeline import Timeline
from .thumbnails import thumbnails

SIDE = 64
WINDOW = 2  # neighbours on each side that a change is compared with
ALIKE = 0.5  # of a change: what lies behind it and looks so much like what was before it, is it again


@dataclass(frozen=True)
class SceneConfig:
    """Clips on scene boundaries. detect: whether they are looked for (needs the extra `scenes`).

    ratio: how many times the change of its neighbours a cut is. min_change: mean change of brightness, of 255, below which nothing is
    a cut. flash_s: what is shown for no longer than these seconds, between pictures that are alike, is no scene.
    """

    detect: bool = False
    ratio: float = 3.0
    min_change: float = 12.0
    flash_s: float = 0.25

    def __post_init__(self) -> None:
        if not self.ratio > 1:  # nor NaN
            raise ValueError(f"data.scenes.ratio={self.ratio}: must be above 1; 3 finds hard cuts")
        if not 0 < self.min_change <= 255:
            raise ValueError(f"data.scenes.min_change={self.min_change}: must be above 0 and at most 255")
        if not 0 <= self.flash_s <= 2:
            raise ValueError(f"data.scenes.flash_s={self.flash_s}: must be seconds from 0 to 2")
        if self.detect and importlib.util.find_spec("scenedetect") is None:
            raise ValueError("data.scenes.detect=true: needs PySceneDetect; install mutual-forcing[scenes], or leave it off")


class SceneFinder:
    """Finds scene starts in a stream of frames. The result does not depend on how the stream is cut into blocks."""

    def __init__(self, config: SceneConfig, fps: float) -> None:
        from scenedetect import FrameTimecode
        from scenedetect.detectors import AdaptiveDetector

        # Of brightness alone: hue jumps in what is nearly black or grey.
        self._detector: Any = AdaptiveDetector(
            config.ratio, min_scene_len=1, window_width=WINDOW, min_content_val=config.min_change, luma_only=True
        )
        self._timecode, self._fps = FrameTimecode, float(fps)
        self._reach = round(config.flash_s * fps)
        self._kept: dict[int, np.ndarray] = {}
        self._open: list[int] = []
        self._count = 0

    @property
    def settled(self) -> int:
        """Starts before this frame are all known."""
        return self._open[0] if self._open else max(0, self._count - WINDOW)

    def push(self, frames: np.ndarray) -> list[int]:
        """The next frames, uint8 [N, H, W, 3], all of one size; returns the starts that are certain now, rising from call to call."""
        found: list[int] = []
        for picture in thumbnails(frames, SIDE):
            self._kept[self._count] = picture.astype(np.int16)
            self._kept.pop(self._count - WINDOW - 2 * self._reach - 2, None)
            # The library counts in blue, green, red.
            cuts = self._detector.process_frame(self._timecode(self._count, self._fps), np.ascontiguousarray(picture[..., ::-1]))
            self._open += [cut.frame_num for cut in cuts if cut.frame_num > 0]
            self._count += 1
            found += self._decide(self._count)
        return found

    def finish(self) -> list[int]:
        """The starts that were still open when the stream ended."""
        return self._decide(self._count + self._reach)

    def _decide(self, seen: int) -> list[int]:
        sure = [cut for cut in self._open if cut + self._reach < seen]
        self._open = self._open[len(sure) :]
        return [cut for cut in sure if not self._is_flash(cut)]

    def _is_flash(self, cut: int) -> bool:
        before, after = self._kept[cut - 1], self._kept[cut]
        limit = ALIKE * np.abs(after - before).mean()
        later = (self._kept[n] for n in range(cut + 1, min(cut + self._reach + 1, self._count)))
        earlier = (self._kept[n] for n in range(max(cut - 1 - self._reach, min(self._kept)), cut - 1))
        return any(np.abs(p - before).mean() < limit for p in later) or any(np.abs(p - after).mean() < limit for p in earlier)


def scene_starts(frames: np.ndarray, fps: float, config: SceneConfig) -> list[int]:
    """First frames of the scenes after the first, of frames uint8 [N, H, W, 3]."""
    finder = SceneFinder(config, fps)
    return finder.push(frames) + finder.finish()


def plan_clips(
    frames: int,
    starts: Sequence[int],
    spans: Sequence[tuple[int, int]],
    clip_chunks: int,
    min_chunks: int,
    stride_chunks: int,
    timeline: Timeline,
    ended: bool = True,
) -> list[tuple[int, int]]:
    """(first frame, chunks) of the clips of a source, by first frame, each once.

    Args:
        frames: how many there are; of a source that is still being read, how many are settled so far.
        starts: first frames of scenes. No clip, neither its pictures nor its sound, lies on both sides of one.
        spans: (first frame, frame behind the last) of the pieces that are wanted, in any order; none: all of it.
        clip_chunks: chunks of a clip. min_chunks: below clip_chunks, the rest of a scene becomes a clip of so many whole chunks or more.
        stride_chunks: from the start of a clip to that of the next; below clip_chunks, they overlap. A clip shares at least its first
            frame with the clip before.
        ended: False: more frames may come; what comes back is the beginning of what will come back then.

    Raises:
        ValueError: not 1 <= min_chunks <= clip_chunks, not 1 <= stride_chunks <= clip_chunks, or a span without frames.
    """
    if not 1 <= min_chunks <= clip_chunks:
        raise ValueError(f"min_chunks={min_chunks}: must be from 1 to clip_chunks={clip_chunks}")
    if not 1 <= stride_chunks <= clip_chunks:
        raise ValueError(f"stride_chunks={stride_chunks}: must be from 1 to clip_chunks={clip_chunks}")
    for first, end in spans:
        if not 0 <= first < end:
            raise ValueError(f"span {first}..{end}: must begin at 0 or later and end after it begins")
    cuts = sorted({start for start in starts if 0 < start < frames})
    found: set[tuple[int, int]] = set()
    certain = frames  # the first place where a clip may still begin of which nothing is known
    for first, end in spans or [(0, frames if ended else frames + 1)]:
        edges = [first, *(cut for cut in cuts if first < cut < end), end]
        for here, there in pairwise(edges):
            if here >= frames:
                continue
            closed = there <= frames
            clips, rest = _piece(here, min(there, frames), closed or ended, clip_chunks, min_chunks, stride_chunks, timeline)
            found.update(clips)
            if not closed:
                certain = min(certain, rest)
    return sorted(clip for clip in found if ended or clip[0] < certain)


def _piece(
    first: int, end: int, closed: bool, clip_chunks: int, min_chunks: int, stride_chunks: int, t: Timeline
) -> tuple[list[tuple[int, int]], int]:
    """Clips within [first, end), and where the next one would begin."""
    clips: list[tuple[int, int]] = []
    while _fits(first, clip_chunks, end, t):
        clips.append((first, clip_chunks))
        first += stride_chunks * t.chunk_frames
    if closed:
        rest = next((n for n in range(clip_chunks - 1, min_chunks - 1, -1) if _fits(first, n, end, t)), 0)
        covered = clip_chunks - stride_chunks if clips else 0
        if rest > covered:
            clips.append((first, rest))
    return clips, first


def _fits(first: int, chunks: int, end: int, t: Timeline) -> bool:
    """Whether a clip's pictures and its sound, whole latents, lie before a frame."""
    sound = round(first * t.sample_rate / t.fps) + t.samples(chunks) <= round(end * t.sample_rate / t.fps)
    return sound and first + t.frames(chunks) <= end
