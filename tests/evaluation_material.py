"""Clips whose figures are known beforehand."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, make_character_clip
from mutual_forcing.datasets.ffmpeg.media import DecodeConfig, decode, probe
from mutual_forcing.workers.evaluation.clip import EvalClip

FPS, RATE = 24.0, 16000
PACK = Path(__file__).resolve().parents[2] / "shared" / "media"
CHARACTERS = SyntheticConfig(count=99, seconds=5.2, seed=23)


def clip(frames: np.ndarray | None = None, samples: np.ndarray | None = None, name: str = "clip", **known: Any) -> EvalClip:
    """A clip of what is given; what is not is empty."""
    nothing = np.zeros((0, 32, 32, 3), np.uint8)
    sound = np.zeros(0, np.float32) if samples is None else samples.astype(np.float32)
    return EvalClip(name, nothing if frames is None else frames, FPS, sound, RATE, **known)


@cache
def character(index: int) -> EvalClip:
    """A talking character, in sync but for 2 ms."""
    made = make_character_clip(CHARACTERS, index)
    words = tuple((word.text, word.start, word.end) for word in made.words)
    seams = tuple(range(13, len(made.frames), 12))
    return clip(made.frames, made.audio, f"character {index}", caption=made.caption, words=words, seams=seams, synthetic=True)


def delayed(samples: np.ndarray, seconds: float) -> np.ndarray:
    """Sound that comes later, or earlier, in as many samples."""
    shift = round(seconds * RATE)
    return np.pad(samples, (max(shift, 0), max(-shift, 0)))[max(-shift, 0) :][: len(samples)]


def noise(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """White noise."""
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def moving(count: int, side: int = 32, speed: float = 2.0) -> np.ndarray:
    """Pictures of a slope of brightness that brightens evenly, `speed` of 255 a picture."""
    base = np.linspace(0, 100, side)[None, :] * np.ones((side, 1))
    light = np.clip(base[None] + speed * np.arange(count)[:, None, None], 0, 255)
    return np.repeat(light[..., None], 3, axis=-1).astype(np.uint8)


def person(name: str) -> EvalClip:
    """A real clip of the optional folder beside the checkout."""
    film = decode(PACK / name, probe(PACK / name), DecodeConfig(width=360, height=288, fps=int(FPS), sample_rate=RATE))
    assert film.audio is not None
    return clip(film.frames, film.audio, name)
