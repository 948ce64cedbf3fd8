"""What a metric is given, and what it gives back: the interface of all metrics, those with pretrained weights included.

    EvalClip --cut(start, end)--> EvalClip of a window -> ClipMetric.of_clip          -> figures, or NotApplicable with its reason
    real clips, generated clips --cut--------------> SetMetric.of_sets                -> the same
                                                     FeatureMetric.features, .between -> the same, with intervals (bootstrap over clips)
                                                     PeersMetric.keep, .of_each       -> figures of each clip next to the others

A metric never makes a number up: where it does not apply (no sound, no face, clips too short) it raises `NotApplicable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from ...model.timeline import Layout, Timeline
from ...model.types import AV

Need = Literal["picture", "sound", "text", "reference"]


class NotApplicable(ValueError):
    """A metric does not apply to a clip or to sets of clips; its words are the reason, which stands where the number would."""


@dataclass(frozen=True)
class EvalClip:
    """A clip, real or generated, or the part of one that lies in a window.

    frames: uint8 [N, H, W, 3], frame n shown at n / fps. samples: float32 [S] in [-1, 1], mono, sample s at s / sample_rate. words: (text,
    start, end) in seconds. Metrics may use what follows, and must do without it. first: the first frame uint8 [H, W, 3] of the whole clip.
    seams: the frames of this part with which a chunk begins, without frame 0 of the clip. latents: [1, ...] of the whole clip, first frame
    included; layout: the chunks of them that are in this part. synthetic: whether it shows drawn characters (`datasets.drawn`).
    """

    id: str
    frames: np.ndarray
    fps: float
    samples: np.ndarray
    sample_rate: int
    caption: str = ""
    words: tuple[tuple[str, float, float], ...] = ()
    first: np.ndarray | None = None
    seams: tuple[int, ...] = ()
    latents: AV | None = None
    layout: Layout | None = None
    synthetic: bool = False

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[-1] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(f"clip {self.id!r}: frames are {self.frames.dtype} {self.frames.shape}; pass uint8 [N, H, W, 3]")
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            raise ValueError(f"clip {self.id!r}: samples are {self.samples.dtype} {self.samples.shape}; pass float32 [S]")
        if not self.fps > 0 or self.sample_rate <= 0:
            raise ValueError(f"clip {self.id!r}: fps={self.fps}, sample_rate={self.sample_rate}; both must be above 0")

    @property
    def seconds(self) -> float:
        """How long its pictures are shown; of a clip without pictures, how long it sounds."""
        return len(self.frames) / self.fps if len(self.frames) else len(self.samples) / self.sample_rate

    @classmethod
    def of(cls, name: str, media: tuple[np.ndarray, np.ndarray], timeline: Timeline, chunks: int, **known: Any) -> EvalClip:
        """A whole clip of `chunks` chunks from its pictures and sound, with its seams; known: the fields that are known besides."""
        seams = tuple(timeline.frames(k) for k in range(1, chunks))
        layout = Layout(timeline, chunks)
        return cls(name, media[0], timeline.fps, media[1], timeline.sample_rate, seams=seams, layout=layout, **known)

    def cut(self, start: float, end: float) -> EvalClip:
        """The part from `start` to `end` seconds, on a clock of its own: words and seams are moved, words that reach out are cut.

        Raises:
            NotApplicable: nothing of the clip is there.
        """
        a, b = round(start * self.fps), round(end * self.fps)
        frames = self.frames[a:b]
        samples = self.samples[round(start * self.sample_rate) : round(end * self.sample_rate)]
        if not len(frames) and not len(samples):
            raise NotApplicable(f"the clip ends before {start:g} s")
        words = tuple((w, max(s, start) - start, min(e, end) - start) for w, s, e in self.words if s < end and e > start)
        return replace(
            self,
            frames=frames,
            samples=samples,
            words=words,
            first=self.frames[0] if self.first is None and len(self.frames) else self.first,
            seams=tuple(n - a for n in self.seams if a < n < a + len(frames)),
            layout=self._chunks(a, a + len(frames)),
        )

    def _chunks(self, first_frame: int, end_frame: int) -> Layout | None:
        """The chunks of these frames; the last may lack one frame, by which windows of whole seconds miss its end. None without any."""
        if self.layout is None:
            return None
        t = self.layout.timeline
        inside = [k for k in self.layout.chunk_range if t.frames(k) >= first_frame and t.frames(k + 1) <= end_frame + 1]
        return Layout(t, len(inside), inside[0]) if inside else None


@dataclass(frozen=True)
class About:
    """A figure: its name (letters, digits, `_`), its unit, and which way is better (None: neither, it is compared with real clips).

    protocol: the reference implementation and the version of what is computed, so that figures with equal protocols may be compared.
    """

    name: str
    unit: str
    higher_is_better: bool | None
    protocol: str
    needs: tuple[Need, ...] = ()


@runtime_checkable
class ClipMetric(Protocol):
    """Figures of one clip. Those names of `about` that `of_clip` leaves out do not apply to it."""

    @property
    def about(self) -> tuple[About, ...]: ...

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """Raises: NotApplicable."""
        ...


@runtime_checkable
class SetMetric(Protocol):
    """Figures of generated clips against real ones, as distributions."""

    @property
    def about(self) -> tuple[About, ...]: ...

    def of_sets(self, real: Sequence[EvalClip], generated: Sequence[EvalClip]) -> dict[str, float]:
        """Raises: NotApplicable."""
        ...


@runtime_checkable
class PeersMetric(Protocol):
    """Figures of each clip that need the others of its set, such as how much better a mouth fits its own voice than theirs."""

    @property
    def about(self) -> tuple[About, ...]: ...

    def keep(self, clip: EvalClip) -> Any:
        """What is kept of one clip: little, since the clip itself is let go. Raises: NotApplicable."""
        ...

    def of_each(self, kept: Sequence[Any]) -> list[dict[str, float]]:
        """Figures of each clip of a set; those that do not apply to one are left out of its own."""
        ...


@runtime_checkable
class FeatureMetric(Protocol):
    """A metric of sets that looks at features of clips alone. They are computed once, so that its figures get intervals by bootstrap."""

    @property
    def about(self) -> tuple[About, ...]: ...

    def features(self, clip: EvalClip) -> np.ndarray:
        """Vectors [n, D] of one clip, n at least 1. Raises: NotApplicable."""
        ...

    def between(self, real_ND: np.ndarray, generated_ND: np.ndarray) -> dict[str, float]:
        """Figures of two sets of vectors. Raises: NotApplicable."""
        ...
