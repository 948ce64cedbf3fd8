"""A mark that says "generated", spread thinly over pictures and sound: put in while a clip is made, found again without the original.

    pictures    16 x 16 cells; each is a level of 255 lighter or darker, as the key says for this picture, and the next one otherwise
    sound       noise of the key's from 300 to 3900 Hz, in every moment and band 20 dB below what is heard there

Signs repeat after a period, so a part of a clip has the mark too: the reader adds up whatever fits, at every place within the period.
They are drawn from the key and nothing else, so that by Hoeffding's inequality an unmarked clip has a score above z with a probability of
at most exp(-z^2 / 2) a place, whatever is seen and heard in it.

Spread spectrum: Cox et al. 1997. It is meant to survive our encoders, further encoding, another size of the whole picture, other volume and
cuts in time (docs/generation.md has what was measured). It does not survive cropped or turned pictures, another speed, nor somebody who
knows the key and wants it gone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import exp, log
from pathlib import Path

import numpy as np

from ..ffmpeg.film import open_film
from ..ffmpeg.film_command import DecodeConfig
from ..ffmpeg.probe import probe

PUBLIC_KEY = "mutual-forcing"
CELLS = 16  # a side of a picture
PICTURES = 64  # of a period
LEVEL = 1  # of 255
FRAME_S = 0.016  # from one spectrum to the next
PERIOD_S = 4
LOW_HZ, HIGH_HZ = 300.0, 3900.0
BELOW = 0.1  # of what is heard: -20 dB
BINS = 9  # over which a spectrum is smoothed
RATE = 16000  # at which sound is read
SURE = 1e-6  # chance that an unmarked clip is called marked, at most
LIMIT_S = 120.0  # of a film that are read
LIMIT_PIXELS = 640 * 360


@dataclass(frozen=True)
class Score:
    """z: how far what was found stands out; chance: that this happens without a mark, at most. 0 and 1 where there is nothing to read."""

    z: float = 0.0
    chance: float = 1.0

    @property
    def marked(self) -> bool:
        return self.chance < SURE


@dataclass(frozen=True)
class Found:
    """Of pictures and of sound."""

    pictures: Score
    sound: Score

    @property
    def marked(self) -> bool:
        return self.pictures.marked or self.sound.marked


def signs(key: str, what: str, shape: tuple[int, ...]) -> np.ndarray:
    """+1 and -1 as the key has them."""
    count = int(np.prod(shape))
    bits = np.unpackbits(np.frombuffer(hashlib.shake_256(f"{what}:{key}".encode()).digest(-(-count // 8)), np.uint8))[:count]
    return bits.reshape(shape).astype(np.int8) * 2 - 1


class Marker:
    """Marks one clip, piece by piece. rate: of its sound."""

    def __init__(self, rate: int, key: str = PUBLIC_KEY) -> None:
        self.rate = rate
        self._pictures = signs(key, "pictures", (PICTURES, CELLS, CELLS))
        self._noise = _noise(key, rate)
        self._hop = round(FRAME_S * rate)
        self._window = _window(self._hop)
        self._tail, self._added = np.zeros(self._hop, np.float32), np.zeros(self._hop)
        self._lag = self._hop  # what stands before the first sample and is not given out
        self._shown = self._spectra = self._heard = self._given = 0

    def pictures(self, frames: np.ndarray) -> np.ndarray:
        """Frames uint8 `[N, H, W, 3]` that follow the last ones, marked."""
        height, width = frames.shape[1:3]
        rows, columns = (np.arange(side) * CELLS // side for side in (height, width))
        step = self._pictures[(self._shown + np.arange(len(frames))) % PICTURES][:, rows][:, :, columns]
        self._shown += len(frames)
        return np.clip(frames.astype(np.int16) + LEVEL * step[..., None], 0, 255).astype(np.uint8)

    def sound(self, samples: np.ndarray) -> np.ndarray:
        """Samples float32 `[S]` that follow the last ones, marked; what is held back comes later."""
        self._heard += len(samples)
        self._tail = np.concatenate([self._tail, samples.astype(np.float32)])
        hop, made = self._hop, list[np.ndarray]()
        while len(self._tail) >= 2 * hop:
            heard = np.fft.rfft(self._window * self._tail[: 2 * hop])
            at = (self._spectra - 1) * hop + np.arange(2 * hop)  # the middle of the first spectrum is the clip's first sample
            noise = np.fft.rfft(self._window * self._noise[at % len(self._noise)])
            spectrum = heard + BELOW * _smooth(np.abs(heard)[None])[0] * noise / np.sqrt(hop)
            whole = self._window * np.fft.irfft(spectrum, 2 * hop)
            made.append(self._added + whole[:hop])
            self._added, self._tail, self._spectra = whole[hop:], self._tail[hop:], self._spectra + 1
        given = np.concatenate(made) if made else np.zeros(0)
        drop = min(self._lag, len(given))
        self._lag -= drop
        self._given += len(given) - drop
        return np.clip(given[drop:], -1, 1).astype(np.float32)

    def rest(self) -> np.ndarray:
        """The sound that is held back. Nothing follows."""
        left = self._heard - self._given
        return self.sound(np.zeros(2 * self._hop, np.float32))[:left]


def find_mark(path: Path | str, key: str = PUBLIC_KEY) -> Found:
    """Look for the mark in the first `LIMIT_S` of a film.

    Raises:
        MediaError: it cannot be read.
    """
    found = probe(path, needs_video=False)
    shrink = min(1.0, (LIMIT_PIXELS / max(1, found.width * found.height)) ** 0.5)
    width, height = (max(CELLS, round(side * shrink)) for side in (found.width, found.height))
    fps = round(found.fps) or 24
    pictures, sound = list[np.ndarray](), list[np.ndarray]()
    with open_film(path, found, DecodeConfig(fps, width, height, RATE), 0.0, LIMIT_S) as film:
        while cut := film.read(film.first + len(pictures) * 2 * fps, 2 * fps):
            pictures.append(cells_of(cut.frames) if cut.frames is not None else np.zeros((cut.count, 0, 0)))
            if cut.audio is not None:
                sound.append(cut.audio)
        film.verdict()
    seen = score_pictures(np.concatenate(pictures), key) if found.has_video and pictures else Score()
    return Found(seen, score_sound(np.concatenate(sound), key) if sound else Score())


def cells_of(frames: np.ndarray) -> np.ndarray:
    """Frames uint8 `[N, H, W, 3]` -> the mean of each cell `[N, CELLS, CELLS]`."""
    height, width = frames.shape[1:3]
    rows, columns = (np.searchsorted(np.arange(side) * CELLS // side, np.arange(CELLS)) for side in (height, width))
    light = frames.mean(axis=3, dtype=np.float32)
    sums = np.add.reduceat(np.add.reduceat(light, rows, axis=1), columns, axis=2)
    sizes = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    return sums / sizes


def score_pictures(cells: np.ndarray, key: str) -> Score:
    """cells: as `cells_of` gives them."""
    if len(cells) < 3:
        return Score()
    rest = cells[1:-1] - (cells[:-2] + cells[2:]) / 2  # what changes from picture to picture, as the mark does
    rest = np.clip(rest, -3, 3)
    pattern = signs(key, "pictures", (PICTURES, CELLS, CELLS)).reshape(PICTURES, -1).astype(float)
    folded = np.zeros((PICTURES, CELLS * CELLS))
    np.add.at(folded, (1 + np.arange(len(rest))) % PICTURES, rest.reshape(len(rest), -1))
    return _best([folded], pattern)


def score_sound(samples: np.ndarray, key: str) -> Score:
    """samples: float32 `[S]` at `RATE`."""
    hop, period = round(FRAME_S * RATE), PERIOD_S * RATE
    if len(samples) < 32 * hop:
        return Score()
    window, padded = _window(hop), np.concatenate([np.zeros(hop, np.float32), samples, np.zeros(2 * hop, np.float32)])
    blocks = np.lib.stride_tricks.sliding_window_view(padded, 2 * hop)[::hop]
    spectra = np.fft.rfft(blocks * window, axis=1)
    floor = 1e-3 * float(np.sqrt(hop * np.mean(samples**2))) + 1e-9
    white = (
        np.fft.irfft(spectra / (np.abs(spectra) + floor), 2 * hop, axis=1) * window
    )  # phases alone: what is loud must not drown the rest
    folded = np.zeros(period)
    for k, block in enumerate(white):
        np.add.at(folded, ((k - 1) * hop + np.arange(2 * hop)) % period, block)
    folded = _in_band(folded, RATE)
    return _best([folded[:, None]], signs(key, "sound", (period,)).astype(float)[:, None])


def _noise(key: str, rate: int) -> np.ndarray:
    """A period of the key's noise within the band, of variance 1 over all frequencies up to `RATE` / 2, at this rate."""
    spectrum = np.fft.rfft(signs(key, "sound", (PERIOD_S * RATE,)).astype(float))
    spectrum[~_band(RATE)] = 0
    count = PERIOD_S * rate // 2 + 1
    wanted = np.zeros(count, complex)
    wanted[: min(count, len(spectrum))] = spectrum[:count]
    return np.fft.irfft(wanted, PERIOD_S * rate) * (rate / RATE)


def _in_band(period: np.ndarray, rate: int) -> np.ndarray:
    spectrum = np.fft.rfft(period)
    spectrum[~_band(rate)] = 0
    return np.fft.irfft(spectrum, len(period))


def _band(rate: int) -> np.ndarray:
    """Which frequencies of a period carry the noise."""
    hertz = np.fft.rfftfreq(PERIOD_S * rate, 1 / rate)
    return (hertz >= LOW_HZ) & (hertz <= HIGH_HZ)


def _window(hop: int) -> np.ndarray:
    """Its square and that of the next one sum to 1."""
    return np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop))


def _smooth(size: np.ndarray) -> np.ndarray:
    """Magnitudes `[K, F]`, each the mean of its neighbours."""
    around = np.pad(size, ((0, 0), (BINS // 2 + 1, BINS // 2)), mode="edge").cumsum(axis=1)
    return (around[:, BINS:] - around[:, :-BINS]) / BINS


def _best(folds: list[np.ndarray], pattern: np.ndarray) -> Score:
    """The highest score over all places within the period."""
    wave, best, places = np.fft.rfft(pattern, axis=0), 0.0, len(folds) * len(pattern)
    for folded in folds:
        power = float(np.sqrt((folded**2).sum()))
        if power > 0:
            match = np.fft.irfft((np.conj(np.fft.rfft(folded, axis=0)) * wave).sum(axis=1), len(pattern))
            best = max(best, float(match.max()) / power)
    return Score(best, min(1.0, exp(min(0.0, log(places) - best**2 / 2))))
