"""What is measured on every clip to be looked at later: how loud it is and how much it moves. Nothing is refused by it."""

from __future__ import annotations

import numpy as np

from .thumbnails import grey, thumbnails

SIDE = 32
SILENCE = 1e-10  # of full scale: -200 dB, so that silence is a number


def loudness_db(audio: np.ndarray) -> float:
    """Level of the sound, float32 [S] in [-1, 1], in dB of full scale: its RMS over all of the clip; -200 of silence and of no sound."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if len(audio) else 0.0
    return 20 * float(np.log10(max(power**0.5, SILENCE)))


def motion(frames: np.ndarray) -> float:
    """Mean absolute difference of brightness, 0..255, between a picture (uint8 [N, H, W, 3]) and the next; 0 of a single picture.

    Measured on thumbnails, so that noise of single pixels does not count as motion.
    """
    if len(frames) < 2:
        return 0.0
    light = grey(thumbnails(frames, SIDE)).astype(np.int16)
    return float(np.abs(np.diff(light, axis=0)).mean())


def measure(frames: np.ndarray | None, audio: np.ndarray | None) -> tuple[tuple[str, float], ...]:
    """(name with its unit, value) of what there is of a clip: frames uint8 [N, H, W, 3], audio float32 [S]."""
    found: list[tuple[str, float]] = []
    if audio is not None:
        found.append(("loudness_db", loudness_db(audio)))
    if frames is not None:
        found.append(("motion", motion(frames)))
    return tuple(found)
