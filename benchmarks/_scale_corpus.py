"""A corpus of as many files as wanted, made in seconds: one short film again and again, each with bytes of its own, and files of no use.

film.mp4 + an atom `free` that holds the number    another content, the same pictures and sound: used
1 KiB that is no container                         refused by ffmpeg
no bytes                                           refused before ffmpeg is asked
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets.config import DataConfig
from ..datasets.ffmpeg.media import write_media
from ..datasets.places.storage import make_folder
from ..datasets.signals.filters import FilterConfig

FOLDER = 1000  # files of a folder
FPS, RATE, SECONDS, SIDE = 24, 16000, 0.6, 32  # of the film: one clip of one chunk


@dataclass(frozen=True)
class Mix:
    """Of every hundred files so many are films, and so many are damaged; the others are empty."""

    films: int
    damaged: int


MIX = Mix(films=1, damaged=1)


def config_of(media: Path) -> DataConfig:
    """Settings under which each film is one small clip, which no rule refuses."""
    rules = FilterConfig(min_rms_db=-300.0, min_luma=0.0, max_still=1.0, max_clipped=1.0)
    return DataConfig(media=str(media), width=SIDE, height=SIDE, clip_chunks=1, codec_fit_sources=4, filters=rules)


def write_files(media: Path, first: int, count: int, mix: Mix) -> None:
    """Files number `first` and following, a thousand a folder; the kinds are spread evenly."""
    film, noise = _film(make_folder("media", media).parent / "film.mp4"), np.random.default_rng(0).bytes(1016)
    for number in range(first, first + count):
        folder = media / f"{number // FOLDER:05d}"
        if number % FOLDER == 0 or number == first:
            folder.mkdir(parents=True, exist_ok=True)
        kind = number * 37 % 100  # 37 and 100 have no divisor in common
        path, own = folder / f"{number:08d}.mp4", struct.pack(">Q", number)
        if kind < mix.films:
            path.write_bytes(film + struct.pack(">I4s", 16, b"free") + own)
        elif kind < mix.films + mix.damaged:
            path.write_bytes(own + noise)
        else:
            path.touch()


def _film(path: Path) -> bytes:
    rng, count = np.random.default_rng(1), round(SECONDS * FPS)
    frames = np.repeat(np.repeat(rng.integers(60, 200, (count, 4, 4, 3), np.uint8), SIDE // 4, 1), SIDE // 4, 2)
    write_media(path, frames, FPS, rng.uniform(-0.3, 0.3, round(count * RATE / FPS)).astype(np.float32), RATE)
    return path.read_bytes()
