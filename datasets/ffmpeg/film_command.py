"""Which part of a file is decoded, and ffmpeg's command for it: up to four outputs of one child, each into a pipe of its own.

    V:0 -> zero of the clock -> constant rate -> crop, scale -> rgb24                          pictures
    a:0 -> zero of the clock -> resample, gaps filled, mono  -> f32le                          sound
    V:0 -> its packets, a line each                                                            table of pictures (timing.py)
    a:0 -> its decoded frames, a line each                                                     table of sound

From the middle of a file that has an index, ffmpeg seeks to a key picture long before it, so that what is wanted comes out as if all
had been decoded; of another file all is decoded, and what lies before is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg

from .probe import Probe, program, source

SEEKABLE = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")  # containers with an index of key pictures
SEEK_FROM_S = 30.0  # what begins earlier is decoded from the beginning
PRE_ROLL_S = 12  # before the first picture wanted: pictures that refresh bit by bit are whole after 250 of them, by x264's default
LONGEST_GROUP_S = 10  # before the place sought, as a rule, the key picture is where a seek ends
NEAR = 1e-6  # of a frame: 2.0 s at 24/s is frame 48, whatever the product says


@dataclass(frozen=True)
class DecodeConfig:
    """What is made of a file, and what one file may cost.

    `fps`, `width`, `height`, `sample_rate`: of the output, which covers width x height and is cropped at the centre.
    `max_seconds`: what lies behind is not read. `timeout_s`: how long the child may take, besides ten times the length that is read;
    `stall_s`: how long nothing may come of it. `memory_bytes`: address space of the child. `max_damage`: the share of frames that may be
    damaged; a file with more is refused. `max_gap_s`: the same for a longer gap between two pictures.
    """

    fps: int = 24
    width: int = 64
    height: int = 64
    sample_rate: int = 16000
    max_seconds: float = 4 * 3600.0
    timeout_s: float = 60.0
    stall_s: float = 30.0
    memory_bytes: int = 2 << 30
    max_damage: float = 0.02
    max_gap_s: float = 10.0


@dataclass(frozen=True)
class Part:
    """Output frames first..end of a source's clock; `wanted`: whether somebody asked for that end, which otherwise is at `limit_s`, the
    most that is read. `seek_s` and `base_s` (whole seconds): where the input is entered, and where the clock of the resampler begins;
    None and 0 where all is decoded.
    """

    first: int
    end: int
    limit_s: float
    wanted: bool
    seek_s: int | None = None
    base_s: int = 0


def part_of(found: Probe, config: DecodeConfig, start_s: float, end_s: float | None, seek: bool = True) -> Part:
    """The frames with start_s <= n / fps < end_s; seek: whether the input may be entered in its middle.

    Raises:
        ValueError: not 0 <= start_s < end_s.
    """
    limit_s = start_s + config.max_seconds
    wanted = end_s is not None and end_s < limit_s
    last_s = end_s if end_s is not None and wanted else limit_s
    if not 0 <= start_s < last_s < float("inf"):
        raise ValueError(f"start_s={start_s}, end_s={end_s}: must be 0 <= start_s < end_s, in seconds of the source's clock")
    first, end = (max(0, math.ceil(edge * config.fps - NEAR)) for edge in (start_s, last_s))
    if not (seek and found.has_video and found.container in SEEKABLE and start_s >= SEEK_FROM_S):
        return Part(first, end, limit_s, wanted)
    seek_s = int(start_s) - PRE_ROLL_S
    return Part(first, end, limit_s, wanted, seek_s, max(0, seek_s - LONGEST_GROUP_S))


def sample_of(frame: int, config: DecodeConfig) -> int:
    """The sample that sounds when a frame is shown."""
    return round(frame * config.sample_rate / config.fps)


def command(path: Path, found: Probe, config: DecodeConfig, part: Part, pipes: Sequence[int]) -> list[str]:
    """pipes: of pictures and their table, if there are any, then of sound and its table, if there is any."""
    if part.seek_s is None:
        # Seconds are limited here because the same limit on the output would not stop a gap of hours between two timestamps.
        opened = source(path, t=part.limit_s)
    else:
        opened = source(path, ss=f"{part.seek_s + found.zero_s:.6f}", seek_timestamp=1, noaccurate_seek=None)
    numbers, outputs = iter(pipes), list[Any]()
    table: dict[str, Any] = {"f": "framecrc", "flush_packets": 1}
    if found.has_video:
        video = picture_filters(opened["V:0"], found, config, part)
        outputs.append(video.output(f"pipe:{next(numbers)}", f="rawvideo", pix_fmt="rgb24", fps_mode="passthrough", avioflags="direct"))
        outputs.append(ffmpeg.output(opened["V:0"], f"pipe:{next(numbers)}", **table, **{"c:v": "copy"}))
    if found.has_audio:
        audio = sound_filters(opened["a:0"], found, config, part)
        outputs.append(audio.output(f"pipe:{next(numbers)}", f="f32le", flush_packets=1))
        outputs.append(ffmpeg.output(opened["a:0"], f"pipe:{next(numbers)}", **table, **{"c:a": "pcm_s16le"}))
    return ffmpeg.merge_outputs(*outputs).compile(cmd=program("level+warning"))


def _zero(found: Probe) -> str:
    return f"round(PTS-({found.zero_s!r})/TB)"


def picture_filters(video: Any, found: Probe, config: DecodeConfig, part: Part) -> Any:
    """From a stream of ffmpeg-python to pictures of the part at the output's rate and size, on our clock."""
    width, height = config.width, config.height
    video = video.filter("setpts", _zero(found))

    def at_rate(video: Any) -> Any:
        # `fps` rounds its start to ticks of the input as well: only whole seconds are the same moment on both sides.
        video = video.filter("fps", config.fps, start_time=part.seek_s or 0, round="near")
        # The gap before a picture far behind the limit is filled by `fps` all the same, unless its output ends there.
        return video.filter("trim", start_pts=part.first, end=part.end / config.fps)

    repeats = 0 < found.fps <= config.fps  # then pictures are scaled once and repeated, else left out before they are scaled
    video = video if repeats else at_rate(video)
    # Cropped before it is scaled: the cost stays bounded whatever shape the file claims.
    video = video.filter("crop", f"min(iw,ih*{width}/{height}/sar)", f"min(ih,iw*sar*{height}/{width})")
    video = video.filter("scale", width, height, flags="bicubic+accurate_rnd+full_chroma_int")
    video = video.filter("format", "rgb24")
    return at_rate(video) if repeats else video


def sound_filters(audio: Any, found: Probe, config: DecodeConfig, part: Part) -> Any:
    """From a stream of ffmpeg-python to mono samples at the output's rate, the first at `part.base_s`."""
    rate = config.sample_rate
    # min_hard_comp: at its default, gaps below 100 ms are swallowed. rematrix_maxval: (L + R) / 2; else (L + R) / sqrt(2), which clips.
    resample: dict[str, Any] = {"async": 1, "first_pts": 0, "min_hard_comp": 0.01, "rematrix_maxval": 1}
    # Sound that drifts is stretched by up to 0.2 %; one frame with a wrong time moves it by 0.2 ms at most.
    resample |= {"min_comp": 0.0004, "comp_duration": 0.1, "max_soft_comp": 0.002}
    if part.seek_s is None:
        audio = audio.filter("asetpts", _zero(found))
    else:
        # Whole seconds are whole samples of every rate: the resampler begins at the same phase as from the beginning.
        audio = audio.filter("asetpts", f"{_zero(found)}-round({part.base_s}/TB)")
    audio = audio.filter("aresample", rate, **resample)
    return audio.filter("aformat", sample_fmts="flt", channel_layouts="mono", sample_rates=rate)
