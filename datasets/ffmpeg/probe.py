"""Look into one media file: what it holds, and when on its own clock the first picture and the first sound are due.

    path -> one ffmpeg child: the first picture and the first sound, decoded        pipe 1: a line each, with their times
                              the first packets, as the container times them        pipe 2: what a decoder takes away of the first sound

The input rules (`plain_file`, `program`, `source`) hold for every child that reads a file: a plain local file, a short list of container
formats (a text playlist that calls itself .mp4 would open *other* files), a bound on the picture size and on the seconds read.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from .ffmpeg_child import Limits, MediaError, essence, ffmpeg_path, run_ffmpeg

FORMATS = "mov,matroska,avi,mpeg,mpegts,flv,ogg,mp3,wav,flac"
MAX_PIXELS = 4096 * 2176
PROBE_SECONDS = 60.0
PROBE_LIMITS = Limits(wall_s=30.0)
PROBE_BYTES = 1 << 20
FIRST_PACKETS = 64  # of pictures, among which the first packet of sound is looked for

# Anchored to the beginning of what ffmpeg says itself: a title may hold lines like these.
STREAM = re.compile(r"^\[info\]   Stream #0:(\d+) -> #0:\d+ \((\w+) [^\n]*-> (rawvideo|pcm_\w+) ", re.MULTILINE)
CONTAINER = re.compile(r"^\[info\] Input #0, (\S+), from ", re.MULTILINE)
DURATION = re.compile(r"^\[info\]   Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?),", re.MULTILINE)
FRAME_RATE = re.compile(r", ([\d.]+)(k?) (?:fps|tbr)\b")
ROTATION = re.compile(r"(?i)^\[info\] +display ?matrix: rotation of (-?[\d.]+) degrees", re.MULTILINE)


@dataclass(frozen=True)
class Probe:
    """What a file holds, by decoding its beginning. Times are seconds on the container's own clock.

    `video_start_s`, `audio_start_s`: when the first picture and the first sound are due (None: none that decode).
    `duration_s`: what the container states, None where it states nothing. `width`, `height`: pixels after `rotation` (degrees,
    counter-clockwise, as the container states it), before the sample aspect; 0 without pictures. `fps`: the mean rate, 0 where none is
    stated. `priming_s`: how much of the first sound the decoder takes away, because the encoder had put it in front; None where the
    beginning of the file does not tell. `clock_zero_s`: where a stream that is left out has put the zero.
    """

    duration_s: float | None
    video_start_s: float | None
    audio_start_s: float | None
    width: int
    height: int
    fps: float
    rotation: float
    video_codec: str | None
    audio_codec: str | None
    container: str
    priming_s: float | None = None
    clock_zero_s: float | None = None

    @property
    def has_video(self) -> bool:
        return self.video_start_s is not None

    @property
    def has_audio(self) -> bool:
        return self.audio_start_s is not None

    @property
    def zero_s(self) -> float:
        """Where on the container's clock ours begins: at the first picture, without pictures at the first sound."""
        if self.clock_zero_s is not None:
            return self.clock_zero_s
        zero = self.audio_start_s if self.video_start_s is None else self.video_start_s
        assert zero is not None
        return zero

    @property
    def av_offset_s(self) -> float:
        """How much later than the pictures the sound starts in the file; 0 where one of them is absent."""
        if self.video_start_s is None or self.audio_start_s is None:
            return 0.0
        return self.audio_start_s - self.video_start_s


def probe(path: Path | str, needs_video: bool = True) -> Probe:
    """Look into one file.

    Args:
        needs_video: whether a file of sound alone is refused.

    Raises:
        MediaError: not a plain file, empty, not one of the container formats, no pictures (nor sound), or none that decode.
    """
    path = plain_file(path, "probe")
    opened = source(path, t=PROBE_SECONDS)
    # One picture and one sound, cut by filters: `-frames` on two streams ends both with the first. `?` lets a stream be absent, `V`
    # leaves cover art out. framecrc writes a text line a frame; the log is no place for times, its threads write into each other's lines.
    look: dict[str, Any] = {"vf": "trim=end_frame=1", "af": "atrim=end_sample=1", "fps_mode": "passthrough", "f": "framecrc"}
    look["enc_time_base:v"] = "1/1000000"
    packets: dict[str, Any] = {"c": "copy", "frames:a": 1, "frames:v": FIRST_PACKETS, "f": "framecrc"}

    def arguments(pipes: Sequence[int]) -> list[str]:
        streams = opened["V:0?"], opened["a:0?"]
        outputs = [ffmpeg.output(*streams, f"pipe:{pipe}", **how) for pipe, how in zip(pipes, (look, packets), strict=True)]
        return ffmpeg.merge_outputs(*outputs).compile(cmd=program("level+info"))

    ended = run_ffmpeg(arguments, PROBE_LIMITS, drains=[PROBE_BYTES, PROBE_BYTES])
    said = ended.stderr
    firsts, uncut = (_first_frames(output.decode(errors="replace")) for output in ended.outputs)
    container = CONTAINER.search(said)
    codecs = {"video" if coder == "rawvideo" else "audio": (int(index), codec) for index, codec, coder in STREAM.findall(said)}
    if ended.stopped or container is None:
        raise MediaError("probe", path, ended.stopped or "it opens as none of the containers that we read", essence(said))
    if "video" not in codecs and (needs_video or "audio" not in codecs):
        raise MediaError("probe", path, "it has no pictures" if needs_video else "it has neither pictures nor sound", essence(said))
    for kind, what in (("video", "pictures do"), ("audio", "sound does")):
        if kind in codecs and kind not in firsts and (kind == "video" or "video" not in codecs):
            raise MediaError("probe", path, f"its {what} not decode", essence(said))
    (video_start_s, (width, height)) = firsts.get("video", (None, (0, 0)))
    audio_start_s = firsts["audio"][0] if "audio" in firsts else None
    return Probe(
        duration_s=_duration(said),
        video_start_s=video_start_s,
        audio_start_s=audio_start_s,
        width=width,
        height=height,
        fps=_frame_rate(said, codecs["video"][0]) if "video" in codecs else 0.0,
        rotation=float(turned[1]) if (turned := ROTATION.search(said)) else 0.0,
        video_codec=codecs["video"][1] if "video" in codecs else None,
        audio_codec=codecs["audio"][1] if "audio" in codecs else None,
        container=container[1].rstrip(","),
        priming_s=max(0.0, audio_start_s - uncut["audio"][0]) if audio_start_s is not None and "audio" in uncut else None,
    )


def plain_file(path: Path | str, stage: str) -> Path:
    """The file itself, behind links.

    Raises:
        MediaError: it is absent, empty, or no regular file.
    """
    try:
        resolved = Path(path).resolve(strict=True)
        found = resolved.stat()
    except (OSError, RuntimeError, ValueError) as error:  # absent, a loop of links, a name with a NUL
        raise MediaError(stage, path, f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(stage, path, "not a regular file: folders, pipes and devices are not read")
    if found.st_size == 0:
        raise MediaError(stage, path, "the file is empty")
    return resolved


def program(loudness: str) -> list[str]:
    """How ffmpeg is called, before its input."""
    return [ffmpeg_path(), "-nostdin", "-hide_banner", "-v", loudness, "-copyts", "-filter_complex_threads", "1"]


def source(path: Path, **how: Any) -> Any:
    """The file as an input of ffmpeg, under the rules for all inputs; how: further options of it."""
    rules: dict[str, Any] = {"threads": 1, "protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": MAX_PIXELS}
    return ffmpeg.input(f"file:{path}", fflags="+discardcorrupt", **rules, **how)


def _first_frames(crc: str) -> dict[str, tuple[float, tuple[int, int]]]:
    """{"video" and "audio": (seconds, (width, height))} of the first frame of each stream in framecrc's text."""
    header = {(key, stream): value for key, stream, value in re.findall(r"^#(\w+) (\d+): (\S+)$", crc, re.MULTILINE)}
    firsts: dict[str, tuple[float, tuple[int, int]]] = {}
    for stream, ticks in re.findall(r"^(\d+), *-?\d+, *(-?\d+),", crc, re.MULTILINE):
        width, height = header.get(("dimensions", stream), "0x0").split("x")
        seconds = float(int(ticks) * Fraction(header["tb", stream]))
        firsts.setdefault(header["media_type", stream], (seconds, (int(width), int(height))))
    return firsts


def _duration(said: str) -> float | None:
    stated = DURATION.search(said)
    return int(stated[1]) * 3600 + int(stated[2]) * 60 + float(stated[3]) if stated else None


def _frame_rate(said: str, index: int) -> float:
    line = re.search(rf"^\[info\]   Stream #0:{index}\b[^\n]*: Video: [^\n]*", said, re.MULTILINE)
    rate = FRAME_RATE.search(line[0]) if line else None
    return float(rate[1]) * (1000 if rate[2] else 1) if rate else 0.0
