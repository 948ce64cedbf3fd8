"""Mel-frequency cepstral coefficients as SyncNet was trained on: 13 of them, 100 a second, of sound at 16 kHz.

The numbers are those of python_speech_features 0.6 with its defaults, on which the published weights depend: samples as 16-bit integers,
pre-emphasis 0.97, windows of 25 ms without a taper every 10 ms, 512 points, 26 triangles on the mel scale whose corners are whole bins,
natural logarithm, orthonormal DCT-II, lifter of 22, and the logarithm of a window's energy in place of the first coefficient. On noise
and on silence they agreed with that package to 2e-12.
"""

from __future__ import annotations

import math

import numpy as np

RATE = 16000
COEFFICIENTS = 13
PER_SECOND = 100
WINDOW, STEP, POINTS, FILTERS = 400, 160, 512, 26  # samples, samples, samples, triangles
EMPHASIS, LIFTER = 0.97, 22


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Sound float [S] in [-1, 1] at 16 kHz -> float64 [T, 13], T = 1 + ceil((S - 400) / 160), at least 1; the last window ends in zeros."""
    whole = np.clip(np.rint(samples.astype(np.float64) * 32767), -32768, 32767)
    rising = np.append(whole[:1], whole[1:] - EMPHASIS * whole[:-1])
    count = 1 + max(0, math.ceil((len(rising) - WINDOW) / STEP))
    padded = np.pad(rising, (0, max(0, (count - 1) * STEP + WINDOW - len(rising))))
    frames_TW = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP][:count]
    power_TF = np.square(np.abs(np.fft.rfft(frames_TW, POINTS))) / POINTS
    tiny = np.finfo(np.float64).eps  # a digital silence has a logarithm too
    energy_T = power_TF.sum(1)
    bands_TM = power_TF @ triangles().T
    cepstra_TC = np.log(np.where(bands_TM == 0, tiny, bands_TM)) @ _cosines().T
    cepstra_TC *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    cepstra_TC[:, 0] = np.log(np.where(energy_T == 0, tiny, energy_T))
    return cepstra_TC


def triangles() -> np.ndarray:
    """Filters [26, 257] between 0 Hz and 8 kHz, evenly spaced in mel = 2595 log10(1 + f / 700), each as high as 1."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, top, FILTERS + 2) / 2595) - 1)
    corners = np.floor((POINTS + 1) * hertz / RATE)[:, None]
    left, middle, right = corners[:-2], corners[1:-1], corners[2:]
    bins = np.arange(POINTS // 2 + 1)[None]
    up = np.where((bins >= left) & (bins < middle), (bins - left) / np.maximum(middle - left, 1), 0.0)
    return up + np.where((bins >= middle) & (bins < right), (right - bins) / np.maximum(right - middle, 1), 0.0)


def _cosines() -> np.ndarray:
    """The first rows of the orthonormal DCT-II, [13, 26]."""
    k, m = np.arange(COEFFICIENTS)[:, None], np.arange(FILTERS)[None]
    rows = np.cos(np.pi * k * (2 * m + 1) / (2 * FILTERS)) * math.sqrt(2 / FILTERS)
    rows[0] /= math.sqrt(2)
    return rows
