"""Films to compare a clip with its source: panels with labels, beside each other or, of sound alone, above each other.

pictures    | source | from its latents |         at the same time, enlarged by a whole number: their pixels are what is looked at
sound       | source            ~~~|~~~ |         one after the other, with a line where it sounds
            | from its latents  ~~~~~~~ |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .spectrogram import spectrogram

LABEL = 24  # pixels of the band with the label
SIDE = 256  # that the longer side of small pictures has at least, as far as MOST allows
MOST = 1 << 29  # bytes of a film
GAP = 4
WIDTH, HEIGHT = 720, 160  # of a sound's panel
SOUND_FPS = 12.0
INK, PAPER, LINE = (235, 238, 242), (27, 31, 36), (255, 255, 255)


def side_by_side(panels: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """One film of several with their labels. Each uint8 [N, H, W, 3], all of one shape."""
    count, tall, wide, _ = panels[0][1].shape
    scale = max(1, -(-SIDE // max(tall, wide)))
    while scale > 1 and len(panels) * count * tall * wide * 3 * scale**2 > MOST:
        scale -= 1
    tall, wide = tall * scale, wide * scale
    film = np.empty((count, LABEL + tall, len(panels) * wide + GAP * (len(panels) - 1), 3), np.uint8)
    film[:] = PAPER
    for number, (label, frames) in enumerate(panels):
        left = number * (wide + GAP)
        film[:, :LABEL, left : left + wide] = _label(label, wide)
        film[:, LABEL:, left : left + wide] = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    return film


def one_after_the_other(panels: Sequence[tuple[str, np.ndarray]], sample_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """A film at SOUND_FPS of several sounds with their labels, and all of their samples. Each float mono [S]."""
    audio = np.concatenate([samples for _, samples in panels])
    drawn = spectrogram(audio, sample_rate, WIDTH * len(panels), HEIGHT)  # of all together: their levels are to be compared
    picture = np.empty((len(panels) * (LABEL + HEIGHT), WIDTH, 3), np.uint8)
    for number, (label, _) in enumerate(panels):
        top = number * (LABEL + HEIGHT)
        picture[top : top + LABEL] = _label(label, WIDTH)
        picture[top + LABEL : top + LABEL + HEIGHT] = drawn[:, number * WIDTH : (number + 1) * WIDTH]
    ends = np.cumsum([0, *(len(samples) for _, samples in panels)])
    film = np.broadcast_to(picture, (max(1, round(len(audio) / sample_rate * SOUND_FPS)), *picture.shape)).copy()
    for number, frame in enumerate(film):
        at = min(int((number + 0.5) / SOUND_FPS * sample_rate), len(audio) - 1)
        panel = int(np.searchsorted(ends, at, "right")) - 1
        across = int((at - ends[panel]) / (ends[panel + 1] - ends[panel]) * WIDTH)
        top = panel * (LABEL + HEIGHT) + LABEL
        frame[top : top + HEIGHT, max(0, across - 1) : across + 1] = LINE
    return film, audio


def _label(text: str, width: int) -> np.ndarray:
    """uint8 [LABEL, width, 3]"""
    image = Image.new("RGB", (width, LABEL), PAPER)
    ImageDraw.Draw(image).text((width / 2, LABEL / 2), text, fill=INK, font=ImageFont.load_default(14), anchor="mm")
    return np.asarray(image)
