"""How much later than the picture the sound of a clip is, estimated from what is seen and heard, and how sure that is.

    frames + face track -> mouth: darkness, contrast -> their changes -+
                                   motion                              +-> correlation at each lag -> face_lag
    audio -> voice envelope -> its changes ----------------------------+
    frames -> sudden pictures -+-> differences of all pairs that agree -> onset_lag
    audio  -> sudden sounds   -+

Changes are compared, not levels: how far a mouth is open follows how loud a voice is so slowly that the best lag is anywhere within
half a second, while opening and closing coincide with syllables. The confidence is the probability that the estimate is right to one
frame, under a model whose one free number was fitted on other clips than those that docs/data.md reports on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..drawn.sync import voice_envelope
from .faces import FaceTrack, need_detector
from .thumbnails import grey, thumbnails

REACH_S = 0.5  # lags beyond it are not found
SHORTEST_S = 1.5
MOUTH_SIDE = 48
MOUTH_DOWN, MOUTH_REACH = 0.80, 0.31  # of a face's box: how far down it the mouth is; half of what is cut, of its width
MOUTH_WINDOW = (0.83, 0.71)  # half width and half height of the soft window, of half of what is cut
INDEPENDENT = 0.35  # of the frames: as many independent ones give the spread that was seen; fitted
RELATED = 0.5  # how probable it is beforehand that what is seen is what is heard
MOST = 500.0  # of a logarithm, so that its exponential stays a number

SUDDEN = 6.0  # times the median change of the neighbourhood
LEAST_CHANGE = 8.0  # of 255, of a sudden picture
HOP_S = 0.005
LOUDER = 4.0  # times: a sudden sound is so much louder than what was before it
APART_S = 0.08  # sudden sounds that follow sooner are one
AGREE_S = 0.03
MOST_EVENTS = 64


@dataclass(frozen=True)
class LagConfig:
    """Clips whose sound is in time. max_av_lag_ms: a clip whose sound is surely further than this before or behind its pictures is refused;
    0 turns the rule off.

    measure: estimate the lag also where nothing is refused by it. min_confidence: from which an estimate counts as sure, 0..1. Faces need
    the extra `faces`.
    """

    max_av_lag_ms: float = 0.0
    measure: bool = False
    min_confidence: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.max_av_lag_ms < 1000 * REACH_S:
            raise ValueError(
                f"data.lag.max_av_lag_ms={self.max_av_lag_ms}: must be from 0 (off) to {1000 * REACH_S:g}, beyond which none is found"
            )
        if not 0.5 <= self.min_confidence <= 1:
            raise ValueError(f"data.lag.min_confidence={self.min_confidence}: must be from 0.5 to 1")
        if self.max_av_lag_ms or self.measure:
            need_detector("data.lag")


@dataclass(frozen=True)
class Lag:
    """ms: positive when the sound comes late. confidence: 0..1. by: `face` or `onset`."""

    ms: float
    confidence: float
    by: str


def av_lag(frames: np.ndarray, audio: np.ndarray, fps: float, sample_rate: int, track: FaceTrack | None) -> Lag | None:
    """The surer of the two estimates of a clip, frames uint8 [N, H, W, 3] and audio float32 [S]; None where neither applies."""
    found = [onset_lag(frames, audio, fps, sample_rate)]
    if track is not None:
        found.append(face_lag(frames, audio, fps, sample_rate, track))
    return max((lag for lag in found if lag is not None), key=lambda lag: lag.confidence, default=None)


def refuse_late(lag: Lag | None, config: LagConfig) -> str | None:
    """Why a clip with such a lag is of no use, or None; what is not sure is not refused."""
    if not config.max_av_lag_ms or lag is None or lag.confidence < config.min_confidence or abs(lag.ms) <= config.max_av_lag_ms:
        return None
    late = "late" if lag.ms > 0 else "early"
    wanted = f"at most {config.max_av_lag_ms:g} ms wanted"
    return f"out of sync: the sound comes {abs(lag.ms):.0f} ms {late}, {wanted} (confidence {lag.confidence:.2f}, by {lag.by})"


def face_lag(frames: np.ndarray, audio: np.ndarray, fps: float, sample_rate: int, track: FaceTrack) -> Lag | None:
    """The lag between a mouth and the voice; None without a face in most pictures, without sound, and below 1.5 s."""
    if len(frames) < SHORTEST_S * fps or track.share < 0.5 or len(track.faces) < 2:
        return None
    reach = round(REACH_S * fps)
    curve = lag_curve(face_changes(frames, audio, fps, sample_rate, track), reach)
    if not curve.any():
        return None
    best = int(np.argmax(curve))
    return Lag(1000 * peak(curve) / fps, confidence(curve, best, len(frames), fps), "face")


def face_changes(frames: np.ndarray, audio: np.ndarray, fps: float, sample_rate: int, track: FaceTrack) -> np.ndarray:
    """What is seen of a mouth and what is heard, [3, 2, N]: three changes of the mouth, each with the change of the voice it follows."""
    voice = np.gradient(voice_envelope(audio, sample_rate, fps, len(frames)))
    darkness, contrast, moved = _mouth_tracks(mouth_pictures(frames, track))
    return np.array([(np.gradient(darkness), voice), (np.gradient(contrast), voice), (moved, np.abs(voice))])


def lag_curve(pairs: np.ndarray, reach: int) -> np.ndarray:
    """Correlation of seen with heard at each lag [2 reach + 1], a mean over pairs [K, 2, N]; at lags above 0 what is heard comes late."""
    return np.mean([_correlations(seen, heard, reach) for seen, heard in pairs], axis=0)


def peak(curve: np.ndarray) -> float:
    """Where the highest point of a curve [2 reach + 1] of lags is, in frames, between frames too."""
    best = int(np.argmax(curve))
    return best - len(curve) // 2 + _refine(curve, best)


def mouth_pictures(frames: np.ndarray, track: FaceTrack) -> np.ndarray:
    """Brightness float32 [N, 48, 48] of the mouth, steadied by the box of the face, which moves evenly between those found."""
    seen = [(n, face) for n, face in zip(track.at, track.faces, strict=True) if face is not None]
    at = np.array([n for n, _ in seen])
    width = float(np.median([face.width for _, face in seen]))
    height = float(np.median([face.height for _, face in seen]))
    x = np.interp(np.arange(len(frames)), at, [face.x + face.width / 2 for _, face in seen])
    y = np.interp(np.arange(len(frames)), at, [face.y + face.height / 2 for _, face in seen]) + (MOUTH_DOWN - 0.5) * height
    return np.stack([_cut(frame, x[n], y[n], max(2.0, MOUTH_REACH * width)) for n, frame in enumerate(frames)])


def _cut(frame: np.ndarray, x: float, y: float, reach: float) -> np.ndarray:
    tall, wide, _ = frame.shape
    x, y = min(max(x, 1.0), wide - 1.0), min(max(y, 1.0), tall - 1.0)
    left, top, right, bottom = max(0.0, x - reach), max(0.0, y - reach), min(float(wide), x + reach), min(float(tall), y + reach)
    column, row = int(left), int(top)
    step = max(1, int(reach / MOUTH_SIDE))  # of a large face, every so many pixels are more than enough
    piece = grey(frame[row : int(np.ceil(bottom)) : step, column : int(np.ceil(right)) : step])
    high, broad = piece.shape
    box = ((left - column) / step, (top - row) / step, min((right - column) / step, broad), min((bottom - row) / step, high))
    return np.asarray(Image.fromarray(piece).resize((MOUTH_SIDE, MOUTH_SIDE), Image.Resampling.BILINEAR, box=box), np.float32)


def _mouth_tracks(mouth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Darkness, contrast and motion [N] within a soft window of mouth pictures [N, 48, 48], relative to the skin around."""
    across = (np.arange(MOUTH_SIDE) + 0.5) / MOUTH_SIDE * 2 - 1
    columns, rows = (np.cos(np.pi / 2 * np.clip(across / half, -1, 1)) for half in MOUTH_WINDOW)
    weight = rows[:, None] * columns
    weight /= weight.sum()
    skin = np.maximum(np.median(mouth, axis=(1, 2), keepdims=True), 1.0)
    light = mouth / skin
    darkness = (np.maximum(1 - light, 0) * weight).sum((1, 2))
    contrast = np.sqrt(((light - light.mean((1, 2), keepdims=True)) ** 2 * weight).sum((1, 2)))
    steps = (np.abs(np.diff(light, axis=0)) * weight).sum((1, 2))
    return darkness, contrast, (np.append(steps[:1], steps) + np.append(steps, steps[-1:])) / 2


def _correlations(seen: np.ndarray, heard: np.ndarray, reach: int) -> np.ndarray:
    """Pearson correlation [2 reach + 1] of what is seen with what is heard so many frames later; 0 where one does not vary."""
    count, found = len(seen), np.zeros(2 * reach + 1)
    for lag in range(-reach, reach + 1):
        a, b = seen[max(0, -lag) : count - max(0, lag)], heard[max(0, lag) : count - max(0, -lag)]
        a, b = a - a.mean(), b - b.mean()
        size = np.linalg.norm(a) * np.linalg.norm(b)
        found[lag + reach] = a @ b / size if size > 1e-9 else 0.0
    return found


def _refine(curve: np.ndarray, best: int) -> float:
    """Where between frames the peak is, in frames from `best`: the top of a parabola."""
    if not 0 < best < len(curve) - 1:
        return 0.0
    before, peak, after = curve[best - 1 : best + 2]
    bend = before - 2 * peak + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def confidence(curve: np.ndarray, best: int, frames: int, fps: float) -> float:
    """Probability that the lag is within a frame of `best`: of two Gaussian signals at each lag, against all other lags and none at all."""
    independent = INDEPENDENT * frames * min(1.0, 24 / fps)
    gain = np.exp(np.minimum(-0.5 * independent * np.log(1 - np.clip(curve, 0, 0.999) ** 2), MOST))
    near = gain[max(0, best - 1) : best + 2].sum() / len(gain)
    return float(RELATED * near / (RELATED * gain.mean() + 1 - RELATED))


def onset_lag(frames: np.ndarray, audio: np.ndarray, fps: float, sample_rate: int) -> Lag | None:
    """The lag between sudden pictures and sudden sounds (claps, clicks, flashes); None with fewer than two of either.

    The confidence is 1 - the probability that so many pairs agree by chance anywhere within reach.
    """
    seen, heard = sudden_pictures(frames, fps), sudden_sounds(audio, sample_rate)
    if not 2 <= len(seen) <= MOST_EVENTS or not 2 <= len(heard) <= MOST_EVENTS:
        return None
    apart = heard[None, :] - seen[:, None]
    lags = apart[np.abs(apart) <= REACH_S]
    if not len(lags):
        return None
    agree = np.abs(apart[None] - lags[:, None, None]) <= AGREE_S
    counts = agree.any(axis=2).sum(axis=1)
    most = counts == counts.max()
    # Of those that agree equally well, the least lag: a sound that returns regularly agrees at each of its periods.
    best = lags[most][np.argmin(np.abs(lags[most]))]
    matched = apart[np.abs(apart - best) <= AGREE_S]
    chance = min(1.0, 2 * AGREE_S * len(heard) / max(len(audio) / sample_rate, 1e-9))
    by_chance = _at_least(int(counts.max()), len(seen), chance) * len(lags)
    rivals = [count for lag, count in zip(lags, counts, strict=True) if abs(lag - best) > 2 * AGREE_S]
    alone = 1.0 if not rivals or max(rivals) < counts.max() else 0.5
    return Lag(1000 * float(np.median(matched)), alone * max(0.0, 1 - by_chance), "onset")


def sudden_pictures(frames: np.ndarray, fps: float) -> np.ndarray:
    """Seconds at which a picture differs from the one before much more than its neighbours do; of a flash, its beginning."""
    if len(frames) < 3:
        return np.zeros(0)
    light = grey(thumbnails(frames, 64)).astype(np.int16)
    steps = np.abs(np.diff(light, axis=0)).mean((1, 2))
    usual = np.array([np.median(steps[max(0, n - 6) : n + 7]) for n in range(len(steps))])
    sudden = (steps > SUDDEN * usual) & (steps > LEAST_CHANGE)
    return _first_of((np.flatnonzero(sudden) + 1) / fps, 4 / fps)


def sudden_sounds(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Seconds at which the sound, float32 [S], becomes much louder within 5 ms than it was in the 50 ms before."""
    hop = max(1, round(HOP_S * sample_rate))
    power = np.square(audio[: len(audio) // hop * hop], dtype=np.float64).reshape(-1, hop).mean(1)
    if len(power) < 12:
        return np.zeros(0)
    level = np.sqrt(power)
    floor = max(0.05 * float(level.max()), 1e-4)
    before = np.array([level[max(0, n - 10) : n].max(initial=0.0) for n in range(len(level))])
    sudden = level > np.maximum(LOUDER * before, 4 * floor)
    return _first_of(np.flatnonzero(sudden) * hop / sample_rate, APART_S)


def _first_of(times: np.ndarray, apart_s: float) -> np.ndarray:
    kept: list[float] = []
    for time in times:
        if not kept or time - kept[-1] > apart_s:
            kept.append(float(time))
    return np.array(kept)


def _at_least(count: int, tries: int, chance: float) -> float:
    """Probability of at least `count` successes of `tries`."""
    from math import comb

    return sum(comb(tries, k) * chance**k * (1 - chance) ** (tries - k) for k in range(count, tries + 1))
