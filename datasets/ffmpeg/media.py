"""From one media file to pictures and sound on one clock, whose zero is the first picture shown, and back.

    path -> probe (probe.py): what a file holds, and exactly when its first picture and its first sound are due
         -> open_film (film.py): pictures at a constant rate and sound resampled onto the same clock, as they are needed
         -> decode: all of them at once
    frames -> write_media (media_write.py): the way back

What is used and what is refused: a file that ends early is used up to shortly before its end, with a note, so that every picture is
whole and in its place. Pictures or sound that the decoders report as damaged are refused beyond `DecodeConfig.max_damage`. A file
without sound is used, with `audio=None`; one without pictures is refused, unless `probe` is told otherwise.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .ffmpeg_child import MediaError, ffmpeg_path
from .film import Cut, Film, Verdict, open_film
from .film_command import DecodeConfig
from .media_write import write_media
from .probe import Probe, probe
from .timing import Timing

__all__ = [
    "Cut",
    "DecodeConfig",
    "Decoded",
    "Film",
    "MediaError",
    "Probe",
    "Timing",
    "Verdict",
    "decode",
    "ffmpeg_path",
    "open_film",
    "probe",
    "write_media",
]

LONGEST_BLOCK_S = 120  # that is decoded into one array


@dataclass(frozen=True)
class Decoded:
    """Pictures and sound on one clock: frame n is shown at n / fps, sample s sounds at s / sample_rate.

    `frames`: uint8 `[N, H, W, 3]` RGB. `audio`: float32 `[S]` mono in [-1, 1] with S = round(N * sample_rate / fps), None without sound.
    `av_offset_s`: how much later than the pictures the sound starts in the file (already corrected for). `notes`: what a user should know.
    """

    frames: np.ndarray
    audio: np.ndarray | None
    av_offset_s: float
    notes: tuple[str, ...]


def decode(path: Path | str, probe: Probe, config: DecodeConfig) -> Decoded:
    """Decode all of one file at once; the memory that it takes grows with the film. Safe in threads and Ray workers.

    Args:
        path: the file that `probe` describes; it has pictures.

    Raises:
        MediaError: nothing decodes, more than `config.max_damage` of the frames are damaged, or it costs more than the limits allow.
    """
    assert probe.has_video
    seconds = min(LONGEST_BLOCK_S, config.max_seconds, 1 + (LONGEST_BLOCK_S if probe.duration_s is None else probe.duration_s))
    block = math.ceil(seconds) * config.fps  # whole seconds, so that the sound of two blocks joins
    with open_film(path, probe, config) as film:
        cuts = list[Cut]()
        while cut := film.read(film.first + len(cuts) * block, block):
            cuts.append(cut)
        verdict = film.verdict()
    frames = [cut.frames for cut in cuts if cut.frames is not None]
    audio = [cut.audio for cut in cuts if cut.audio is not None]
    return Decoded(
        frames[0] if len(frames) == 1 else np.concatenate(frames),
        (audio[0] if len(audio) == 1 else np.concatenate(audio)) if probe.has_audio else None,
        probe.av_offset_s,
        verdict.notes,
    )
