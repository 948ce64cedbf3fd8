"""What is plainly wrong with a clip or plainly measurable of it: how it sounds, how it moves, how far it drifts, where chunks join.

samples -> Sound      frames -> Motion, Drift      frames, samples, seams -> Seams      both -> Faults (datasets.signals.filters)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ...datasets.signals.filters import FULL_SCALE, FilterConfig, refuse_reason
from ...datasets.signals.measures import loudness_db, motion
from ...datasets.signals.thumbnails import grey, thumbnails
from .clip import About, EvalClip, NotApplicable

SIDE = 32  # of the pictures that motion and seams are measured on: noise of single pixels does not count
CELLS = 8  # a side of what drift compares
HALF_S = 0.005  # of sound on either side of a seam
OFF = FilterConfig(min_rms_db=-300, min_luma=0, max_still=1, max_clipped=1)
_FILTERS = "mutual-forcing faults 1 (datasets.signals.filters at its defaults)"


class Sound:
    """Level and clipping."""

    about = (
        About("loudness_db", "dB of full scale", None, "mutual-forcing sound 1 (RMS; datasets.signals.measures)", ("sound",)),
        About("clipped_share", "of samples", False, "mutual-forcing sound 1 (|x| at least 0.999)", ("sound",)),
    )

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """See `about`."""
        samples = _sound(clip)
        return {"loudness_db": loudness_db(samples), "clipped_share": float(np.mean(np.abs(samples) >= FULL_SCALE))}


class Motion:
    """How much moves, and how unevenly.

    motion_jitter: mean |x[n+1] - 2 x[n] + x[n-1]| over mean |x[n+1] - x[n]| of brightness: 0 of even motion, 1.7 of independent noise, 2 of
    two pictures that alternate.
    """

    about = (
        About("motion", "of 255", None, "mutual-forcing motion 1 (32 pixels; datasets.signals.measures)", ("picture",)),
        About("motion_jitter", "", None, "mutual-forcing motion 1 (second over first differences)", ("picture",)),
    )

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """See `about`; nothing that stands still has jitter."""
        if len(clip.frames) < 3:
            raise NotApplicable(f"{len(clip.frames)} pictures are too few; needs 3")
        steps = np.diff(_light(clip.frames), axis=0)
        figures = {"motion": motion(clip.frames)}
        if (moved := float(np.abs(steps).mean())) > 0:
            figures["motion_jitter"] = float(np.abs(np.diff(steps, axis=0)).mean()) / moved
        return figures


class Drift:
    """How far the pictures are from the first frame of the whole clip: in layout and colour, in contrast, in detail.

    drift: RMS difference of 8 x 8 cells' mean colours, of the window's median picture and the first frame. drift_contrast, drift_detail:
    standard deviation of brightness, and mean |difference of neighbouring pixels|, over those of the first frame; 1 is no drift, detail
    below 1 is blur, above 1 noise.
    """

    about = (
        About("drift", "of 255", False, "mutual-forcing drift 1 (8 x 8 cells, RGB, median picture)", ("picture",)),
        About("drift_contrast", "of the first frame's", None, "mutual-forcing drift 1 (std of brightness)", ("picture",)),
        About("drift_detail", "of the first frame's", None, "mutual-forcing drift 1 (gradient of brightness)", ("picture",)),
    )

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """See `about`."""
        if not len(clip.frames):
            raise NotApplicable("needs pictures")
        first = clip.frames[0] if clip.first is None else clip.first
        cells = np.median(_cells(clip.frames), axis=0) - _cells(first[None])[0]
        figures = {"drift": float(np.sqrt(np.mean(np.square(cells))))}
        contrasts, details = zip(*(_spread(frame) for frame in clip.frames[:: max(1, len(clip.frames) // 32)]), strict=True)
        contrast, detail = _spread(first)
        if contrast > 0 and detail > 0:
            figures |= {"drift_contrast": float(np.median(contrasts)) / contrast, "drift_detail": float(np.median(details)) / detail}
        return figures


class Seams:
    """Whether a clip flickers or clicks where a chunk begins: 1 where nothing is to be seen or heard of it.

    seam_flicker: mean |change of brightness| over seams, over the mean where other latents begin (the codec may jump at all of them; where
    they are not known, over the mean within chunks). seam_click: RMS of the second difference of sound
    within 5 ms of seams, over that at four places of every chunk that lie evenly between.
    """

    about = (
        About(
            "seam_flicker",
            "of that at other latents",
            False,
            "mutual-forcing seams 1 (32 pixels, over other latents)",
            ("picture",),
        ),
        About("seam_click", "of that within chunks", False, "mutual-forcing seams 1 (5 ms, RMS of second differences)", ("sound",)),
    )

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """See `about`."""
        inside = [n for n in clip.seams if 0 < n < len(clip.frames)]
        if not inside:
            raise NotApplicable("no chunk begins in it")
        figures = {}
        steps = np.abs(np.diff(_light(clip.frames), axis=0)).mean((1, 2))
        stride = clip.layout.timeline.video_stride if clip.layout is not None else 1
        seam, like = (np.isin(np.arange(1, len(clip.frames)), places) for places in (inside, _alike(inside, stride, len(clip.frames))))
        if like.any() and steps[like].mean() > 0:
            figures["seam_flicker"] = float(steps[seam].mean() / steps[like].mean())
        rough = np.square(np.diff(clip.samples.astype(np.float64), n=2)) if len(clip.samples) > 2 else np.zeros(0)
        apart = inside[1] - inside[0] if len(inside) > 1 else max(inside[0], 1)
        seams = _around(rough, [n / clip.fps for n in inside], clip.sample_rate)
        others = _around(rough, [(n + apart * k / 5) / clip.fps for n in inside for k in range(1, 5)], clip.sample_rate)
        if seams and others and np.mean(others) > 0:
            figures["seam_click"] = float(np.sqrt(np.mean(seams) / np.mean(others)))
        if not figures:
            raise NotApplicable("nothing moves or sounds within chunks")
        return figures


class Faults:
    """Whether a clip would be refused as training data: 1 where it would, so that the mean over clips is a share."""

    about = (
        About("black", "of clips", False, _FILTERS, ("picture",)),
        About("frozen", "of clips", False, _FILTERS, ("picture",)),
        About("silent", "of clips", False, _FILTERS, ("sound",)),
        About("clipped", "of clips", False, _FILTERS, ("sound",)),
    )

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """See `about`; each rule is asked alone, so that one does not hide another."""
        usual = FilterConfig()
        figures = {}
        if len(clip.frames):
            figures["black"] = _refused(clip.frames, None, replace(OFF, min_luma=usual.min_luma))
        if len(clip.frames) > 1:
            figures["frozen"] = _refused(clip.frames, None, replace(OFF, max_still=usual.max_still))
        if len(clip.samples):
            figures["silent"] = _refused(None, clip.samples, replace(OFF, min_rms_db=usual.min_rms_db))
            figures["clipped"] = _refused(None, clip.samples, replace(OFF, max_clipped=usual.max_clipped))
        return figures


def _refused(frames: np.ndarray | None, samples: np.ndarray | None, rule: FilterConfig) -> float:
    return float(refuse_reason(frames, samples, rule) is not None)


def _alike(seams: list[int], stride: int, frames: int) -> list[int]:
    """Frames, but for the seams, with which a latent begins; where each chunk is a latent, all frames but the seams."""
    every = set(range(1, frames)) - set(seams)
    return sorted({n for n in every if (n - seams[0]) % stride == 0} or every)


def _sound(clip: EvalClip) -> np.ndarray:
    if not len(clip.samples):
        raise NotApplicable("needs sound")
    return clip.samples


def _light(frames: np.ndarray) -> np.ndarray:
    return grey(thumbnails(frames, SIDE)).astype(np.float32)


def _cells(frames: np.ndarray) -> np.ndarray:
    """Mean colours float32 [N, 8, 8, 3]; pictures below 8 pixels a side are their own cells."""
    small = thumbnails(frames, 8 * CELLS).astype(np.float32)
    rows, columns = (np.array_split(np.arange(length), min(CELLS, length)) for length in small.shape[1:3])
    small = np.stack([small[:, r].mean(1) for r in rows], axis=1)
    return np.stack([small[:, :, c].mean(2) for c in columns], axis=2)


def _spread(frame: np.ndarray) -> tuple[float, float]:
    """(standard deviation, mean absolute difference of neighbours) of brightness."""
    light = grey(frame[None])[0].astype(np.float32)
    steps = [np.abs(np.diff(light, axis=axis)).mean() for axis in (0, 1) if light.shape[axis] > 1]
    return float(light.std()), float(np.mean(steps)) if steps else 0.0


def _around(rough: np.ndarray, times: list[float], sample_rate: int) -> list[float]:
    """Mean within 5 ms of each time that lies wholly in the sound."""
    half = max(1, round(HALF_S * sample_rate))
    places = [round(t * sample_rate) - 1 for t in times]
    return [float(rough[p - half : p + half].mean()) for p in places if p >= half and p + half <= len(rough)]
