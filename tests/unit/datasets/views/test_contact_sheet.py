"""The contact sheet, read back from its pixels: frames, sound and words must stand at the same time, and hostile text must not matter."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from mutual_forcing.datasets.views.contact_sheet import MARGIN, MAX_CLIPS, SLOT, SPECTROGRAM, TITLE, WAVEFORM, SheetClip, contact_sheet

FPS, RATE = 24, 16000


def clip_of(seconds: float, title: str = "clip", **fields: object) -> SheetClip:
    frames = np.full((round(seconds * FPS), 32, 32, 3), 200, np.uint8)
    audio = np.zeros(round(seconds * RATE), np.float32)
    return SheetClip(**({"title": title, "frames": frames, "audio": audio, "fps": FPS, "sample_rate": RATE} | fields))  # pyright: ignore


def drawn(clips: list[SheetClip], path: Path, columns: int = 12) -> np.ndarray:
    contact_sheet(clips, path, columns)
    return imread(path)[..., :3]


def test_each_column_shows_the_middle_frame_of_its_span(tmp_path: Path) -> None:
    levels = np.arange(48, dtype=np.uint8) * 5  # the frame's number can be read from its grey
    clip = clip_of(2, frames=np.broadcast_to(levels[:, None, None, None], (48, 32, 32, 3)).copy())
    sheet = drawn([clip], tmp_path / "sheet.png", columns=8)
    middle = MARGIN + TITLE + SLOT // 2
    seen = [round(float(sheet[middle, MARGIN + column * SLOT + SLOT // 2, 0]) * 255 / 5) for column in range(8)]
    assert seen == [3, 9, 15, 21, 27, 33, 39, 45]


def test_a_burst_of_sound_stands_under_the_frame_of_its_time(tmp_path: Path) -> None:
    clip = clip_of(4)
    assert clip.audio is not None
    clip.audio[2 * RATE : round(2.5 * RATE)] = np.tile(np.array([0.5, -0.5], np.float32), RATE // 4)
    sheet = drawn([clip], tmp_path / "sheet.png")
    quarter = MARGIN + TITLE + (SLOT - 2) + 6 + (WAVEFORM - 6) // 4  # halfway between the axis and the peak
    inked = np.flatnonzero(sheet[quarter].sum(axis=-1) < 2.5) - MARGIN
    width = 12 * SLOT
    assert abs(inked.min() - width * 2 / 4) <= 2
    assert abs(inked.max() - width * 2.5 / 4) <= 2


def test_sound_alone_is_seen_as_a_spectrogram_above_its_wave(tmp_path: Path) -> None:
    audio = np.zeros(4 * RATE, np.float32)
    audio[2 * RATE : round(2.5 * RATE)] = np.tile(np.array([0.5, 0.5, -0.5, -0.5], np.float32), RATE // 8)
    sheet = drawn([clip_of(4, frames=None, audio=audio, words=[("ma", 2.0, 2.5)])], tmp_path / "sheet.png")
    width, light = 12 * SLOT, sheet[MARGIN + TITLE : MARGIN + TITLE + SPECTROGRAM, MARGIN : MARGIN + 12 * SLOT].sum(axis=(0, 2))
    heard = np.flatnonzero(light > 0.5 * light.max())
    assert abs(heard.min() - width * 2 / 4) <= 8
    assert abs(heard.max() - width * 2.5 / 4) <= 8
    wave = np.flatnonzero(sheet[MARGIN + TITLE + SPECTROGRAM + 6 + (WAVEFORM - 6) // 4].sum(axis=-1) < 2.5) - MARGIN
    assert abs(wave.min() - width * 2 / 4) <= 2


def test_words_shade_their_spans_and_words_outside_the_clip_change_nothing(tmp_path: Path) -> None:
    plain = drawn([clip_of(2)], tmp_path / "plain.png")
    spoken = drawn([clip_of(2, words=[("ma", 0.5, 1.0)])], tmp_path / "spoken.png")
    changed = np.flatnonzero((plain != spoken).any(axis=(0, 2))) - MARGIN
    assert abs(changed.min() - 12 * SLOT * 0.25) <= 2
    assert abs(changed.max() - 12 * SLOT * 0.5) <= 2
    outside = drawn([clip_of(2, words=[("x", 5, 6), ("y", float("nan"), 1), ("z", 1, 1)])], tmp_path / "outside.png")
    assert (outside == plain).all()


@pytest.mark.parametrize("text", ["$\\frac{", "a\nb\tc", "x" * 5000, "", "<b>&amp;</b>"])
def test_any_text_is_drawn_as_it_is(tmp_path: Path, text: str) -> None:
    clip = clip_of(1, title=text, caption=text, words=[(text, 0.1, 0.9)])
    sheet = drawn([clip], tmp_path / "sheet.png")
    assert (sheet[:, -MARGIN // 2 :] == 1).all(), "text ran over the margin"


def test_clips_of_different_shape_and_a_clip_without_sound_share_a_sheet(tmp_path: Path) -> None:
    wide = clip_of(1, frames=np.zeros((24, 20, 80, 3), np.uint8))
    tall = clip_of(3, frames=np.zeros((72, 90, 20, 3), np.uint8), audio=None)
    nan = clip_of(0.05, frames=np.zeros((1, 8, 8, 3), np.uint8), audio=np.full(800, np.nan, np.float32))
    assert drawn([wide, tall, nan], tmp_path / "sheet.png").shape[1] == 2 * MARGIN + 12 * SLOT


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([], "1 to"),
        ([clip_of(0.1)] * (MAX_CLIPS + 1), str(MAX_CLIPS + 1)),
        ([clip_of(1, title="bad", frames=np.zeros((24, 8, 8, 3), np.float32))], "'bad'.*float32"),
        ([clip_of(1, frames=np.zeros((0, 8, 8, 3), np.uint8))], "at least one frame"),
        ([clip_of(1, audio=np.zeros((2, 100), np.float32))], "mono"),
        ([clip_of(1, fps=0)], "fps=0"),
        ([clip_of(1, title="empty", frames=None, audio=None)], "'empty': has neither frames nor sound"),
    ],
)
def test_unusable_clips_are_refused_and_nothing_is_left_behind(tmp_path: Path, clips: list[SheetClip], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contact_sheet(clips, tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []
