"""The pictures that SyncNet sees: a clip at 25 frames/s, cut around its most prominent face, 224 x 224.

    frames -> 25 a second -> a box on each (datasets/signals/faces) -> gaps filled, median of 13 -> square around its face -> 224 x 224

As `run_pipeline.py` of the authors' syncnet_python: s is half the larger side of a box; the cut reaches s above its centre, 1.8 s below and
1.4 s to each side; beyond the picture is grey (110). Two things differ, so that figures may differ a little from those of others on the
same clip: the boxes are libfacedetection's and not S3FD's, and pictures are not coded as JPEG and MPEG-4 in between.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from ....datasets.signals.faces import Face, FaceConfig, face_track
from ..clip import EvalClip, NotApplicable
from .material import seen

FPS = 25
SCALE = 0.4  # by which a box is enlarged
GREY = 110
SMOOTH = 13  # frames of the median
LEAST_SHARE = 0.8  # of the frames, that must show a face
SIDE = 224
CLOSE = 2.0  # boxes' half sides, by which a face may move from one frame to the next


def at_25(frames: np.ndarray, fps: float) -> np.ndarray:
    """The frame that is shown at each 1/25 s, as ffmpeg's `-r 25` chooses it: frame n moves to the nearest place, places without one
    repeat the last.
    """
    if fps == FPS:
        return frames
    places = np.floor(np.arange(len(frames)) * FPS / fps + 0.5).astype(int)
    count = max(1, round(len(frames) * FPS / fps))
    return frames[np.searchsorted(places, np.arange(count), side="right") - 1]


def faces_of(clip: EvalClip, least: int) -> np.ndarray:
    """The face of a clip, uint8 [N, 224, 224, 3] in RGB, a picture each 1/25 s from the clip's start on.

    Raises:
        NotApplicable: fewer than `least` pictures, or a face in too few of them, or another one after a cut.
        ValueError: the face detector is not installed.
    """
    frames = at_25(seen(clip, clip.fps), clip.fps)
    if len(frames) < least:
        raise NotApplicable(f"it has {len(frames) / FPS:.2f} s of pictures, at least {least / FPS:g} s are needed")
    track = face_track(frames, FPS, FaceConfig(every_s=1 / FPS))
    if track.share < LEAST_SHARE:
        raise NotApplicable(f"a face is in {100 * track.share:.0f} % of its pictures, {100 * LEAST_SHARE:.0f} % are needed")
    half_N, x_N, y_N = _smoothed(track.faces)
    if (np.hypot(np.diff(x_N), np.diff(y_N)) > CLOSE * half_N[1:]).any():
        raise NotApplicable("its face jumps, as at a cut; SyncNet follows one face")
    return np.stack([cut_face(frame, s, x, y) for frame, s, x, y in zip(frames, half_N, x_N, y_N, strict=True)])


def cut_face(frame: np.ndarray, half: float, x: float, y: float) -> np.ndarray:
    """A frame uint8 [H, W, 3] around a box with its centre at (x, y) and the larger side 2 `half` -> uint8 [224, 224, 3]."""
    margin = int(half * (1 + 2 * SCALE))
    padded = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)), constant_values=GREY)
    x, y = x + margin, y + margin
    top, bottom = int(y - half), int(y + half * (1 + 2 * SCALE))
    left, right = int(x - half * (1 + SCALE)), int(x + half * (1 + SCALE))
    cut = torch.from_numpy(np.ascontiguousarray(padded[max(0, top) : bottom, max(0, left) : right])).permute(2, 0, 1)[None].float()
    small = F.interpolate(cut, (SIDE, SIDE), mode="bilinear", align_corners=False)  # as OpenCV does: without a filter before it
    return small[0].permute(1, 2, 0).round().clamp(0, 255).byte().numpy()


def _smoothed(faces: tuple[Face | None, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half sides and centres of boxes: those that are missing lie between their neighbours, then a median that has zeros beyond the ends
    would pull them in, so the ends repeat.
    """
    found = [(n, face) for n, face in enumerate(faces) if face is not None]
    at = [n for n, _ in found]
    columns = (
        [max(face.width, face.height) / 2 for _, face in found],
        [face.x + face.width / 2 for _, face in found],
        [face.y + face.height / 2 for _, face in found],
    )
    whole = [np.interp(np.arange(len(faces)), at, column) for column in columns]
    reach = SMOOTH // 2
    views = [np.lib.stride_tricks.sliding_window_view(np.pad(x, reach, mode="edge"), SMOOTH) for x in whole]
    half_N, x_N, y_N = (np.median(view, axis=1) for view in views)
    return half_N, x_N, y_N
