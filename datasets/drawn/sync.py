"""How well a mouth follows a voice: measured from pixels and samples alone.

    frames -> mouth_signal [N] --+
                                 +--> lagged_correlation -> (correlation, lag)   one clip
    audio -> voice_envelope [N] -+
    many clips -> matched_and_shuffled: own pairs against all other pairings of the same clips

The lag search makes even unrelated signals correlate (it takes a maximum), so a matched figure means nothing without the
shuffled one beside it. Made for the synthetic characters: a frontal face of known framing. Real faces need a face detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOUTH_CENTRE, MOUTH_REACH = (0.0, 0.41), (0.42, 0.40)  # of a portrait, in half pictures from the centre (x right, y down)
COMPRESSION_KNEE = 0.4  # of the loud level: louder sounds are compressed, as ears and jaws do; quieter ones count linearly
MAX_LAG_S = 0.2
BOOTSTRAP_DRAWS = 1000

SoundFilm = tuple[np.ndarray, np.ndarray]  # frames uint8 [N, H, W, 3], audio float32 [S]


@dataclass(frozen=True)
class SyncSummary:
    """Matched against shuffled pairs of `clips` clips. Correlations -1..1; lags in seconds, positive when the sound comes late.

    `low` and `high` bound the gap (matched - shuffled) at 95 %, by bootstrap over clips.
    """

    clips: int
    matched: float
    matched_spread: float
    shuffled: float
    shuffled_spread: float
    gap: float
    low: float
    high: float
    lag_s: float
    lag_spread_s: float


def mouth_signal(frames: np.ndarray) -> np.ndarray:
    """Mouth opening [N] of a portrait, uint8 [N, H, W, 3]; arbitrary scale, 0 where nothing differs from skin.

    The opening is dark against the skin around it whatever the identity, so the measure is darkness relative to the median of
    the lower face, in a soft window. It is linear in darkness: blur spreads the opening but keeps its sum.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or min(frames.shape[1:3]) < 16:
        raise ValueError(f"frames have shape {frames.shape}: pass [frames, height, width, 3] of at least 16 pixels a side")
    _, height, width, _ = frames.shape
    unit = min(height, width) / 2
    x = ((np.arange(width) + 0.5 - width / 2) / unit - MOUTH_CENTRE[0]) / MOUTH_REACH[0]
    y = ((np.arange(height) + 0.5 - height / 2) / unit - MOUTH_CENTRE[1]) / MOUTH_REACH[1]
    columns, rows = np.flatnonzero(np.abs(x) < 1), np.flatnonzero(np.abs(y) < 1)
    weight = (np.cos(np.pi / 2 * y[rows])[:, None] * np.cos(np.pi / 2 * x[columns])).astype(np.float32)
    light = frames[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32) @ np.array([0.3, 0.5, 0.2], np.float32)
    skin = np.maximum(np.median(light, axis=(1, 2), keepdims=True), 1.0)
    return (np.maximum(skin - light, 0.0) / skin * weight).sum((1, 2)) / weight.sum()


def voice_envelope(audio: np.ndarray, sample_rate: int, fps: float, frames: int) -> np.ndarray:
    """Loudness [frames] of mono audio [S] around each frame's time `n / fps`, 0 in silence.

    RMS in a Hann window of two frames, compressed logarithmically above a part of the clip's own loud level, so the recording
    level does not matter. Sound that ends before the pictures counts as silence.
    """
    if audio.ndim != 1 or not np.isfinite(audio).all():
        raise ValueError(f"audio has shape {audio.shape}: pass finite mono samples [S]")
    reach = round(sample_rate / fps)
    window = np.hanning(2 * reach + 1)
    power = np.pad(audio.astype(np.float64) ** 2, (reach, reach + max(0, round(frames * sample_rate / fps) - len(audio))))
    starts = np.round(np.arange(frames) * sample_rate / fps).astype(np.int64)
    rms = np.sqrt(np.stack([power[s : s + 2 * reach + 1] @ window for s in starts]) / window.sum())
    loud = float(np.quantile(rms, 0.95))
    return np.log1p(rms / (COMPRESSION_KNEE * loud)) if loud > 0 else rms


def lagged_correlation(a: np.ndarray, b: np.ndarray, fps: float, max_lag_s: float = MAX_LAG_S) -> tuple[float, float]:
    """Highest Pearson correlation of a [N] with b [N] over lags within `max_lag_s`, and that lag in seconds (positive: b comes late).

    The lag is refined between frames by a parabola through the peak; a signal that does not move correlates 0.
    """
    if len(a) != len(b):
        raise ValueError(f"signals have {len(a)} and {len(b)} frames: cut them to the same clock first")
    reach = int(np.floor(max_lag_s * fps + 1e-6))
    if len(a) < reach + 8:
        raise ValueError(f"{len(a)} frames are too few for a lag of {max_lag_s} s: use at least {reach + 8}")
    late = [_correlation(a[: len(a) - lag], b[lag:]) for lag in range(reach + 1)]
    early = [_correlation(a[lag:], b[: len(b) - lag]) for lag in range(reach, 0, -1)]
    curve = np.array(early + late)
    if not curve.any():
        return 0.0, 0.0
    best = int(np.argmax(curve))
    shift = 0.0
    if 0 < best < 2 * reach:
        before, peak, after = curve[best - 1 : best + 2]
        bend = before - 2 * peak + after
        shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return float(curve[best]), (best - reach + shift) / fps


def sync_score(frames: np.ndarray, audio: np.ndarray, fps: float, sample_rate: int, max_lag_s: float = MAX_LAG_S) -> tuple[float, float]:
    """(correlation, lag in seconds, positive when the sound comes late) of one clip: uint8 [N, H, W, 3] with float32 [S]."""
    return lagged_correlation(mouth_signal(frames), voice_envelope(audio, sample_rate, fps, len(frames)), fps, max_lag_s)


def matched_and_shuffled(
    clips: Sequence[tuple[np.ndarray, np.ndarray]], fps: float, sample_rate: int, max_lag_s: float = MAX_LAG_S
) -> SyncSummary:
    """Every mouth against every voice of `clips` (frames, audio), all cut to the shortest: the own pairs and all others.

    The mean over all derangements is the mean over all unequal pairs, so no random shuffling is needed. ValueError below two clips.
    """
    count = len(clips)
    if count < 2:
        raise ValueError(f"{count} clip: a shuffled baseline needs at least 2")
    length = min(len(frames) for frames, _ in clips)
    mouths = [mouth_signal(frames[:length]) for frames, _ in clips]
    voices = [voice_envelope(audio, sample_rate, fps, length) for _, audio in clips]
    table = np.array([[lagged_correlation(mouth, voice, fps, max_lag_s) for voice in voices] for mouth in mouths])
    scores, own = table[..., 0], np.eye(count, dtype=bool)
    matched, shuffled, lags = scores[own], scores[~own], table[..., 1][own]
    low, high = _bootstrap_gap(scores)
    return SyncSummary(
        clips=count,
        matched=float(matched.mean()),
        matched_spread=float(matched.std()),
        shuffled=float(shuffled.mean()),
        shuffled_spread=float(shuffled.std()),
        gap=float(matched.mean() - shuffled.mean()),
        low=low,
        high=high,
        lag_s=float(np.median(lags)),
        lag_spread_s=float(lags.std()),
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; 0 where a signal varies by no more than rounding."""
    u, v = a - a.mean(), b - b.mean()
    size_u, size_v = np.linalg.norm(u), np.linalg.norm(v)
    if size_u <= 1e-6 * np.linalg.norm(a) or size_v <= 1e-6 * np.linalg.norm(b):
        return 0.0
    return float(u @ v / (size_u * size_v))


def _bootstrap_gap(scores: np.ndarray) -> tuple[float, float]:
    """95 % interval of matched - shuffled when clips are drawn again; a clip paired with its own copy is not a shuffled pair."""
    rng = np.random.default_rng(0)
    gaps = []
    for _ in range(BOOTSTRAP_DRAWS):
        drawn = rng.integers(len(scores), size=len(scores))
        pairs = scores[np.ix_(drawn, drawn)]
        other = drawn[:, None] != drawn[None, :]
        if other.any():
            gaps.append(pairs.diagonal().mean() - pairs[other].mean())
    low, high = np.quantile(gaps, (0.025, 0.975))
    return float(low), float(high)
