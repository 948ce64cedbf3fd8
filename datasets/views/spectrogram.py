"""Sound as a picture: time to the right, frequency upwards in octaves, level as brightness."""

from __future__ import annotations

import math

import numpy as np
from matplotlib import colormaps

WINDOW_S = 0.04
LOWEST_HZ = 60.0
RANGE_DB = 70.0  # below the loudest, that is shown
SILENT_DB = -50.0  # of the loudest, with windows that begin and end at 0: below it all is noise of rounding


def spectrogram(audio: np.ndarray, sample_rate: int, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3] of float mono [S]; the first column is at the first sample, the last one at the last. Levels are relative to
    the loudest in the picture; silence is black.
    """
    size = 1 << max(5, round(math.log2(WINDOW_S * sample_rate)))
    padded = np.pad(np.nan_to_num(audio.astype(np.float32)), size // 2)
    starts = np.linspace(0, max(0, len(padded) - size - 1), width).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[starts] * np.hanning(size).astype(np.float32)
    power = np.abs(np.fft.rfft(windows, axis=1)) ** 2
    place = np.geomspace(LOWEST_HZ, 0.5 * sample_rate, height)[::-1] * size / sample_rate
    low = np.minimum(place.astype(np.int64), power.shape[1] - 2)
    part = np.minimum(place - low, 1.0)
    level = 10 * np.log10(power[:, low] * (1 - part) + power[:, low + 1] * part + 1e-12)
    loudest = max(float(level.max()), SILENT_DB)
    return colormaps["magma"](np.clip(1 + (level.T - loudest) / RANGE_DB, 0, 1), bytes=True)[..., :3]
