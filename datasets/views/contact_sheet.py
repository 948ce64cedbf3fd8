"""A contact sheet: clips at a glance, as one PNG.

One row a clip, all on the row's own clock in seconds:

    title, small caption
    | frame | frame | frame | ...    the middle frame of each of `columns` equal spans of time; of sound alone, its spectrogram
    ~~~~~~~~ waveform ~~~~~~~~~~     the same spans, so a mouth stands above the sound it makes
       word    word   word           where the transcript says each word is spoken
    0.0 s        1.0        2.0

Drawn with Matplotlib's Agg canvas without pyplot: no global figure, so threads and Ray workers may draw at the same time.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, MultipleLocator
from PIL import Image

from ..places.storage import atomic_path
from .spectrogram import spectrogram

MAX_CLIPS = 12

INK, SOFT, RULE, WAVE, PAPER = "#1b1f24", "#6a7380", "#d9dde2", "#1f6f78", "#ffffff"

# Heights in pixels: the sheet is laid out in whole pixels, so that frames keep crisp edges.
MARGIN, GAP, SLOT = 32, 2, 128
TITLE, WAVEFORM, WORDS, AXIS, ROW_SPACE, SPECTROGRAM = 30, 56, 24, 28, 24, 96
DPI = 100


@dataclass(frozen=True)
class SheetClip:
    """One row of a sheet. `frames` uint8 `[N,H,W,3]` at `fps`; `audio` float32 mono `[S]` in [-1,1] at `sample_rate`; one may be None.

    `words` are `(word, start, end)` in seconds on the clip's clock, whose zero is the first frame.
    """

    title: str
    frames: np.ndarray | None
    audio: np.ndarray | None
    fps: float
    sample_rate: int
    words: Sequence[tuple[str, float, float]] = ()
    caption: str = ""

    @property
    def seconds(self) -> float:
        if self.frames is not None:
            return len(self.frames) / self.fps
        return 0.0 if self.audio is None else len(self.audio) / self.sample_rate


def contact_sheet(clips: Sequence[SheetClip], path: Path, columns: int = 12, tags: Mapping[str, str] | None = None) -> None:
    """Write the sheet of at most `MAX_CLIPS` clips to `path` (PNG), atomically: readers see the old file or the new one.

    tags: text that the file holds beside its pixels, such as `Comment`.

    Raises ValueError for no clip, too many clips, or arrays of another shape or type, naming the clip.
    """
    _check(clips, columns)
    frame_heights = [_strip_height(clip) for clip in clips]
    row_heights = [TITLE + frame + WAVEFORM + WORDS + AXIS for frame in frame_heights]
    width = 2 * MARGIN + columns * SLOT
    height = 2 * MARGIN + sum(row_heights) + ROW_SPACE * (len(clips) - 1)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    canvas = FigureCanvasAgg(figure)

    top = MARGIN
    for clip, frame_height, row_height in zip(clips, frame_heights, row_heights, strict=True):
        _draw_title(figure, clip, top)
        _draw_frames(figure, clip, top + TITLE, frame_height, columns)
        _draw_sound(figure, clip, top + TITLE + frame_height)
        top += row_height + ROW_SPACE
    with atomic_path(path) as part:
        canvas.print_png(part, metadata=dict(tags or {}))


def _check(clips: Sequence[SheetClip], columns: int) -> None:
    if not 1 <= len(clips) <= MAX_CLIPS:
        raise ValueError(f"clips: a contact sheet holds 1 to {MAX_CLIPS} clips, not {len(clips)}; choose some, or draw several sheets")
    if not 1 <= columns <= 64:
        raise ValueError(f"columns={columns}: use 1 to 64")
    for clip in clips:
        frames = clip.frames
        if frames is None and (clip.audio is None or not clip.audio.size):
            raise ValueError(f"clip {clip.title!r}: has neither frames nor sound; give one of the two")
        if frames is not None and (frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape):
            found = f"{frames.dtype} {list(frames.shape)}"
            raise ValueError(f"clip {clip.title!r}: frames must be uint8 [N,H,W,3] with at least one frame, not {found}")
        if clip.audio is not None and clip.audio.ndim != 1:
            raise ValueError(f"clip {clip.title!r}: audio must be mono [S], not {list(clip.audio.shape)}")
        if clip.fps <= 0 or clip.sample_rate <= 0:
            raise ValueError(f"clip {clip.title!r}: fps={clip.fps} and sample_rate={clip.sample_rate} must be positive")


def _strip_height(clip: SheetClip) -> int:
    return SPECTROGRAM if clip.frames is None else _frame_size(clip.frames)[0]


def _frame_size(frames: np.ndarray) -> tuple[int, int]:
    """Height and width in pixels at which a frame fills its slot; portrait pictures are limited to 1.5 slots."""
    height, width = frames.shape[1:3]
    scale = min((SLOT - GAP) / width, 1.5 * SLOT / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes placed by pixels from the top left corner."""
    sheet_width, sheet_height = figure.get_size_inches() * DPI
    rectangle = (left / sheet_width, 1 - (top + height) / sheet_height, width / sheet_width, height / sheet_height)
    return figure.add_axes(rectangle)


def _draw_title(figure: Figure, clip: SheetClip, top: float) -> None:
    width = figure.get_size_inches()[0] * DPI - 2 * MARGIN
    axes = _axes(figure, MARGIN, top, width, TITLE)
    axes.set(xlim=(0, width), ylim=(0, TITLE))
    axes.axis("off")
    end = 0.0
    for text, size, weight, color in ((clip.title, 10.5, "bold", INK), (clip.caption, 10, "normal", SOFT)):
        label = _one_line(text, 400)
        # Titles are file names and captions are anyone's text: `$` must not start a formula.
        drawn = axes.text(end, 11, label, size=size, weight=weight, color=color, parse_math=False)
        while label and end + drawn.get_window_extent().width > width:
            label = label[: int(len(label) * 0.95)] if len(label) > 8 else ""
            drawn.set_text(label + "…" if label else "")
        end += drawn.get_window_extent().width + (12 if label else 0)


def _draw_frames(figure: Figure, clip: SheetClip, top: float, frame_height: int, columns: int) -> None:
    if clip.frames is not None:
        strip = _frames(clip.frames, frame_height, columns)
    else:
        assert clip.audio is not None
        strip = spectrogram(clip.audio, clip.sample_rate, columns * SLOT, frame_height)
    bottom = round(figure.get_size_inches()[1] * DPI) - top - frame_height
    figure.figimage(strip, MARGIN, bottom, origin="upper")


def _frames(frames: np.ndarray, frame_height: int, columns: int) -> np.ndarray:
    """All of a clip's as one picture: axes of their own for each would take most of the time."""
    centres = (np.arange(columns) + 0.5) * len(frames) / columns
    height, width = _frame_size(frames)
    strip = Image.new("RGB", (columns * SLOT, frame_height), PAPER)
    for column, index in enumerate(centres.astype(int)):
        frame = Image.fromarray(frames[index]).resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(frame, (column * SLOT + (SLOT - width) // 2, (frame_height - height) // 2))
    return np.asarray(strip)


def _draw_sound(figure: Figure, clip: SheetClip, top: float) -> None:
    width = figure.get_size_inches()[0] * DPI - 2 * MARGIN
    axes = _axes(figure, MARGIN, top + 6, width, WAVEFORM + WORDS - 6)
    # The wave fills the band from -1 to 1; the words have the band below, in the same pixels.
    below = 2 * WORDS / (WAVEFORM - 6)
    axes.set(xlim=(0, clip.seconds), ylim=(-1 - below, 1), facecolor="none")
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(RULE)
    axes.yaxis.set_visible(False)
    axes.xaxis.set_major_locator(MultipleLocator(_tick_step(clip.seconds)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g s"))
    axes.tick_params(axis="x", colors=SOFT, labelsize=9, length=3, color=RULE)
    axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
    if clip.audio is None:
        axes.text(0, 0, "no sound", size=9, color=SOFT, va="center", backgroundcolor=PAPER)
    else:
        times, low, high = _envelope(clip, round(width))
        axes.fill_between(times, low, high, color=WAVE, linewidth=0.4)
    _draw_words(axes, clip, -1 - below * 0.5)


def _draw_words(axes: Axes, clip: SheetClip, middle: float) -> None:
    pixels_per_second = axes.get_window_extent().width / clip.seconds
    for word, start, end in clip.words:
        if not (math.isfinite(start) and math.isfinite(end)) or min(clip.seconds, end) <= max(0.0, start):
            continue
        start, end = max(0.0, start), min(clip.seconds, end)
        axes.axvspan(start, end, color=WAVE, alpha=0.08, linewidth=0)
        shown = _one_line(word, 80)
        label = axes.text((start + end) / 2, middle, shown, size=9.5, color=INK, ha="center", va="center", parse_math=False, clip_on=True)
        # Fast speech at a small scale: a shaded span says more than letters on top of each other.
        if label.get_window_extent().width > (end - start) * pixels_per_second + 10:
            label.remove()


def _envelope(clip: SheetClip, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times in seconds, minima and maxima a bin, `[bins]` each, scaled so that the clip's peak is 0.95 (near-silence stays flat)."""
    assert clip.audio is not None
    samples = np.zeros(max(round(clip.seconds * clip.sample_rate), bins), dtype=np.float32)
    heard = np.nan_to_num(clip.audio[: len(samples)])
    samples[: len(heard)] = heard
    starts = np.arange(bins) * len(samples) // bins
    scale = 0.95 / max(float(np.abs(samples).max()), 0.02)
    times = (np.arange(bins) + 0.5) * clip.seconds / bins
    return times, np.minimum.reduceat(samples, starts) * scale, np.maximum.reduceat(samples, starts) * scale


def _one_line(text: str, length: int) -> str:
    """Text without line breaks or control characters, cut to what could ever fit: laying out an endless line takes seconds."""
    return "".join(letter for letter in " ".join(text[: 2 * length].split()) if letter.isprintable())[:length]


def _tick_step(seconds: float) -> float:
    """The finest pleasant step that leaves at most 15 labels."""
    steps = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 300)
    return next((step for step in steps if seconds / step <= 15), seconds / 10)
