"""A small talking voice: pseudo-words, their exact times, their sound and the mouth shapes that make it.

    plan_speech (who says what when)  ->  speak (sound)        audio   float32 [S]
                                      ->  articulate (mouth)   Articulation, each track float32 [N]

Sound and mouth are both read off one plan, so their sync is exact by construction. The sound is additive source-filter
synthesis (Fant 1960; formant values near Peterson and Barney 1952): harmonics of a gliding pitch, weighted by the complex
response of three resonators, scaled so that the RMS follows the planned loudness. Noise bands make bursts and fricatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CONTROL_HZ = 200  # rate of the planned tracks; articulators move far slower
VOICE_TOP_HZ = 3800.0  # harmonics above this are left out: speech stays below 4 kHz
SOURCE_SLOPE = 0.6  # amplitude of harmonic k falls as k**-slope before the resonators: a bright, well-articulated voice
NEUTRAL_FORMANTS = (400.0, 1400.0, 2400.0)  # Hz, where the tract rests between phrases
HEADROOM_RMS = 0.16  # RMS of a fully stressed vowel; peaks stay below 1


@dataclass(frozen=True)
class Phone:
    """One sound: resonances in Hz, levels relative to an open vowel, length in seconds, mouth shape in 0..1."""

    formants: tuple[float, float, float]
    voiced: float
    seconds: float
    opening: float
    width: float
    rounding: float
    teeth: float = 0.0
    noise: float = 0.0
    noise_hz: tuple[float, float] = (0.0, 0.0)
    burst: bool = False  # noise only at the release, after a silent closure


PHONES: dict[str, Phone] = {
    "a": Phone((760.0, 1220.0, 2500.0), 1.00, 0.20, 1.00, 0.70, 0.0, teeth=0.25),
    "e": Phone((540.0, 1780.0, 2450.0), 0.82, 0.18, 0.62, 0.85, 0.0, teeth=0.55),
    "ee": Phone((300.0, 2150.0, 2750.0), 0.62, 0.19, 0.34, 1.00, 0.0, teeth=0.90),
    "o": Phone((500.0, 880.0, 2400.0), 0.86, 0.20, 0.70, 0.30, 0.8),
    "oo": Phone((320.0, 800.0, 2250.0), 0.60, 0.20, 0.34, 0.10, 1.0),
    "m": Phone((260.0, 1050.0, 2200.0), 0.20, 0.085, 0.00, 0.50, 0.1),
    "n": Phone((270.0, 1500.0, 2400.0), 0.22, 0.075, 0.14, 0.60, 0.0, teeth=0.60),
    "l": Phone((350.0, 1150.0, 2500.0), 0.32, 0.075, 0.22, 0.60, 0.0, teeth=0.40),
    "w": Phone((300.0, 700.0, 2200.0), 0.28, 0.075, 0.10, 0.05, 1.0),
    "b": Phone((260.0, 900.0, 2200.0), 0.07, 0.075, 0.00, 0.50, 0.1, noise=0.14, noise_hz=(300.0, 1200.0), burst=True),
    "p": Phone((300.0, 1000.0, 2200.0), 0.00, 0.085, 0.00, 0.50, 0.1, noise=0.20, noise_hz=(400.0, 1500.0), burst=True),
    "d": Phone((280.0, 1700.0, 2500.0), 0.07, 0.070, 0.14, 0.60, 0.0, teeth=0.70, noise=0.14, noise_hz=(1500.0, 2800.0), burst=True),
    "t": Phone((300.0, 1800.0, 2500.0), 0.00, 0.080, 0.14, 0.60, 0.0, teeth=0.70, noise=0.18, noise_hz=(1600.0, 3000.0), burst=True),
    "s": Phone((320.0, 1700.0, 2500.0), 0.00, 0.100, 0.14, 0.80, 0.0, teeth=1.00, noise=0.10, noise_hz=(2000.0, 3600.0)),
    "f": Phone((320.0, 1100.0, 2300.0), 0.00, 0.095, 0.06, 0.60, 0.0, teeth=0.80, noise=0.07, noise_hz=(1200.0, 3000.0)),
}
VOWELS = frozenset({"a", "e", "ee", "o", "oo"})
LEXICON = ("ma", "lo", "wee", "noo", "bapa", "sela", "teema", "poto", "nelo", "doowa", "faso", "leemoo")


@dataclass(frozen=True)
class Voice:
    """How one person speaks. pitch in Hz; tract > 1 is a shorter vocal tract (higher formants); rate 1 is ordinary speed."""

    pitch_hz: float = 140.0
    tract: float = 1.0
    rate: float = 1.0
    liveliness: float = 0.5
    level: float = 1.0


@dataclass(frozen=True)
class Word:
    """A spoken word; start and end in seconds on the video clock (0 = first frame shown)."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """One phone in time, with the stress (0..1) of its word."""

    phone: str
    start: float
    end: float
    stress: float


@dataclass(frozen=True)
class SpeechPlan:
    """What is said when: the single source of sound and mouth."""

    words: tuple[Word, ...]
    segments: tuple[Segment, ...]
    seconds: float


@dataclass(frozen=True)
class Articulation:
    """Mouth tracks, float32 [N] each, 0..1: opening, width (1 spread), rounding, teeth shown, loudness."""

    opening: np.ndarray
    width: np.ndarray
    rounding: np.ndarray
    teeth: np.ndarray
    loudness: np.ndarray


def spell(word: str) -> list[str]:
    """Split a word of the lexicon into phones, longest first ("doowa" -> d, oo, w, a). ValueError for a letter without a sound."""
    phones: list[str] = []
    at = 0
    while at < len(word):
        size = 2 if word[at : at + 2] in PHONES else 1
        if word[at : at + size] not in PHONES:
            raise ValueError(f"word {word!r} has no sound for {word[at]!r}: use the letters {sorted(PHONES)}")
        phones.append(word[at : at + size])
        at += size
    return phones


def plan_speech(rng: np.random.Generator, voice: Voice, seconds: float) -> SpeechPlan:
    """Fill `seconds` with phrases of one to four words and pauses of very different lengths; at least one word, silence at both ends."""
    margin = min(0.12, 0.08 * seconds)
    at = margin + rng.uniform(0.0, min(0.7, 0.15 * seconds))
    left_in_phrase = int(rng.integers(1, 5))
    words: list[Word] = []
    segments: list[Segment] = []
    while True:
        word = LEXICON[int(rng.integers(len(LEXICON)))]
        spoken = _time_word(rng, word, at, voice)
        if spoken[-1].end > seconds - margin:
            if words:
                return SpeechPlan(tuple(words), tuple(segments), seconds)
            spoken = _squeeze(spoken, at, seconds - margin)
        words.append(Word(word, round(spoken[0].start, 4), round(spoken[-1].end, 4)))
        segments.extend(spoken)
        left_in_phrase -= 1
        at = spoken[-1].end + (rng.uniform(0.03, 0.14) if left_in_phrase else rng.uniform(0.28, 1.05)) / voice.rate
        left_in_phrase = left_in_phrase or int(rng.integers(1, 5))


def _time_word(rng: np.random.Generator, word: str, start: float, voice: Voice) -> list[Segment]:
    stress = rng.uniform(0.55, 1.0)
    at, spoken = start, []
    for name in spell(word):
        stretch = rng.uniform(0.7, 1.7) if name in VOWELS else rng.uniform(0.85, 1.2)
        end = at + PHONES[name].seconds * stretch / voice.rate
        spoken.append(Segment(name, at, end, stress))
        at = end
    return spoken


def _squeeze(spoken: list[Segment], start: float, end: float) -> list[Segment]:
    factor = (end - start) / (spoken[-1].end - start)
    return [Segment(s.phone, start + (s.start - start) * factor, start + (s.end - start) * factor, s.stress) for s in spoken]


def articulate(plan: SpeechPlan, times: np.ndarray) -> Articulation:
    """Mouth tracks at `times` (seconds, [N]). Opening follows the vowel and its loudness; smoothing is symmetric, so it adds no lag."""
    opening = _track(plan, lambda p, s: p.opening * (0.3 + 0.7 * s), rest=0.0, smooth_s=0.022)
    shape_s = 0.045
    tracks = (
        opening,
        _track(plan, lambda p, _: p.width, rest=0.5, smooth_s=shape_s),
        _track(plan, lambda p, _: p.rounding, rest=0.0, smooth_s=shape_s),
        _track(plan, lambda p, _: p.teeth, rest=0.0, smooth_s=shape_s),
        _loudness(plan),
    )
    clock = (np.arange(len(opening)) + 0.5) / CONTROL_HZ
    return Articulation(*(np.interp(times, clock, track).astype(np.float32) for track in tracks))


def speak(plan: SpeechPlan, voice: Voice, rng: np.random.Generator, sample_rate: int, samples: int) -> np.ndarray:
    """The sound of a plan, float32 [samples] in [-1, 1], exactly silent in long pauses."""
    clock = np.maximum(np.arange(samples) / sample_rate * CONTROL_HZ - 0.5, 0.0)
    sound = _voiced(plan, voice, rng, sample_rate, clock) + _unvoiced(plan, rng, sample_rate, samples)
    return np.clip(HEADROOM_RMS * voice.level * sound, -1.0, 1.0).astype(np.float32)


def _voiced(plan: SpeechPlan, voice: Voice, rng: np.random.Generator, sample_rate: int, clock: np.ndarray) -> np.ndarray:
    """Harmonics with complex formant weights, interpolated from the control clock; unit RMS times loudness."""
    loudness = _loudness(plan)
    pitch = _pitch(plan, voice, rng, len(loudness))
    formants = [
        _track(plan, lambda p, _, i=i: p.formants[i], rest=rest, smooth_s=0.02) * voice.tract for i, rest in enumerate(NEUTRAL_FORMANTS)
    ]
    top = min(VOICE_TOP_HZ, 0.45 * sample_rate)
    order = np.arange(1, int(top / pitch.min()) + 1)[:, None]
    hertz = order * pitch
    weight = _resonance(hertz, formants) / order**SOURCE_SLOPE * (hertz < top)
    weight *= loudness / np.maximum(np.sqrt((np.abs(weight) ** 2).sum(0) / 2), 1e-9)

    low = np.minimum(clock.astype(np.int64), len(loudness) - 2)
    part = (clock - low).astype(np.float32)
    phase = np.cumsum(np.interp(clock, np.arange(len(pitch)), pitch)) / sample_rate
    turn = np.exp(2j * np.pi * (phase % 1.0)).astype(np.complex64)
    step = np.ones_like(turn)
    sound = np.zeros(len(clock), np.float32)
    for row, rise in zip(weight.astype(np.complex64), np.diff(weight, axis=1).astype(np.complex64), strict=True):
        step *= turn
        sound += ((row[low] + part * rise[low]) * step).real
    return sound


def _resonance(hertz: np.ndarray, formants: list[np.ndarray]) -> np.ndarray:
    """Complex response of second-order resonators in series at `hertz` [K, T]."""
    response = np.ones(hertz.shape, np.complex128)
    for formant, bandwidth in zip(formants, (90.0, 110.0, 170.0), strict=True):
        response *= formant**2 / (formant**2 - hertz**2 + 1j * bandwidth * hertz)
    return response


def _unvoiced(plan: SpeechPlan, rng: np.random.Generator, sample_rate: int, samples: int) -> np.ndarray:
    sound = np.zeros(samples, np.float32)
    for segment in plan.segments:
        phone = PHONES[segment.phone]
        if phone.noise == 0.0:
            continue
        start = max(segment.start, segment.end - 0.022) if phone.burst else segment.start
        first, last = round(start * sample_rate), min(samples, round((segment.end + 0.008) * sample_rate))
        size = last - first
        if size < 8:
            continue
        spectrum = np.fft.rfft(rng.standard_normal(size))
        hertz = np.fft.rfftfreq(size, 1.0 / sample_rate)
        spectrum *= (hertz >= phone.noise_hz[0]) & (hertz <= min(phone.noise_hz[1], 0.45 * sample_rate))
        noise = np.fft.irfft(spectrum, size)
        rms = np.sqrt(np.mean(noise**2))
        sound[first:last] += (phone.noise * segment.stress / max(float(rms), 1e-9) * noise * np.hanning(size)).astype(np.float32)
    return sound


def _pitch(plan: SpeechPlan, voice: Voice, rng: np.random.Generator, size: int) -> np.ndarray:
    """Pitch in Hz on the control clock: slow drift, a fall in each word, an accent with stress."""
    time = np.arange(size) / CONTROL_HZ
    octaves = 0.06 * np.sin(2 * np.pi * (rng.uniform(0.25, 0.5) * time + rng.uniform()))
    for word in plan.words:
        inside = np.clip((time - word.start) / (word.end - word.start), 0.0, 1.0)
        octaves += np.where((inside > 0) & (inside < 1), rng.uniform(-0.05, 0.22) * (1.0 - 1.4 * inside), 0.0)
    return voice.pitch_hz * 2.0 ** (voice.liveliness * 2.0 * _smooth(octaves, 0.04))


def _loudness(plan: SpeechPlan) -> np.ndarray:
    return _track(plan, lambda p, s: p.voiced * s, rest=0.0, smooth_s=0.016)


def _track(plan: SpeechPlan, value: Callable[[Phone, float], float], rest: float, smooth_s: float) -> np.ndarray:
    """`value(phone, stress)` on the control clock, `rest` in pauses, smoothed by a Gaussian of `smooth_s` seconds.

    Entry i stands for the time (i + 0.5) / CONTROL_HZ, the middle of its interval.
    """
    track = np.full(int(np.ceil(plan.seconds * CONTROL_HZ)) + 2, rest, np.float64)
    for segment in plan.segments:
        track[round(segment.start * CONTROL_HZ) : round(segment.end * CONTROL_HZ)] = value(PHONES[segment.phone], segment.stress)
    return _smooth(track, smooth_s)


def _smooth(track: np.ndarray, seconds: float) -> np.ndarray:
    """Symmetric Gaussian smoothing with the ends held."""
    reach = int(np.ceil(3 * seconds * CONTROL_HZ))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / (seconds * CONTROL_HZ)) ** 2)
    return np.convolve(np.pad(track, reach, mode="edge"), kernel / kernel.sum(), mode="valid")
