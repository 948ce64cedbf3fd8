"""Films for tests: a smooth moving picture with a tick in the sound and a flash in the picture at the same moment."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mutual_forcing.datasets.ffmpeg.media import write_media

FPS, RATE = 24, 16000
PACK = Path(__file__).resolve().parents[2] / "shared" / "media"


def film(
    seconds: float = 1.5, tick_s: float | None = 0.75, size: tuple[int, int] = (64, 64), seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [N, H, W, 3] and sound float32 [S]: waves of colour over a low hum; at `tick_s` a white frame and 10 ms of noise."""
    rng = np.random.default_rng(seed)
    count = round(seconds * FPS)
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    phase = np.arange(count)[:, None, None, None] / FPS + rng.uniform(0, 1, 3)
    frames = np.round(128 + 70 * np.sin(2 * np.pi * (phase + (x * rng.uniform(0.5, 1.5) + y)[None, :, :, None]))).astype(np.uint8)
    times = np.arange(round(count * RATE / FPS)) / RATE
    audio = (0.01 * np.sin(2 * np.pi * rng.uniform(80, 160) * times)).astype(np.float32)
    if tick_s is not None and tick_s < seconds:
        frames[round(tick_s * FPS)] = 250
        start = round(tick_s * RATE)
        audio[start : start + RATE // 100] += rng.uniform(-0.7, 0.7, RATE // 100).astype(np.float32)
    return frames, audio


def write_film(path: Path, seconds: float = 1.5, **how) -> Path:
    frames, audio = film(seconds, **how)
    write_media(path, frames, FPS, audio, RATE)
    return path


def decibels(reference: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of pictures."""
    return float(10 * np.log10(255**2 / np.mean((reference.astype(np.float64) - other) ** 2)))


def names(folder: Path) -> Sequence[str]:
    return sorted(entry.name for entry in folder.iterdir())
