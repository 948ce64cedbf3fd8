"""From one media file to pictures and sound on one clock, whose zero is the first picture shown.

    path -> probe: one ffmpeg child decodes the first picture and the first sound, and tells exactly when each is due
         -> decode: one ffmpeg child, two pipes: pictures at a constant rate, sound resampled onto the same clock
    frames -> write_media (media_write.py): the way back

Both children run under the same input rules (`_source`): a plain local file, a short list of container formats (a text playlist
that calls itself .mp4 would open *other* files), a bound on the picture size and on the seconds read.

What is used and what is refused: a file that ends early is used up to shortly before its end, with a note, so that every picture is
whole and in its place. Pictures or sound that the decoders report as damaged are refused beyond `DecodeConfig.max_damage`. A file
without sound is used, with `audio=None`; one without pictures is refused.
"""

import math
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from .ffmpeg_child import Ended, Limits, MediaError, essence, ffmpeg_path, run_ffmpeg
from .media_write import write_media

__all__ = ["DecodeConfig", "Decoded", "MediaError", "Probe", "decode", "ffmpeg_path", "probe", "write_media"]

FORMATS = "mov,matroska,avi,mpeg,mpegts,flv,ogg"
MAX_PIXELS = 4096 * 2176
PROBE_SECONDS = 60.0
PROBE_LIMITS = Limits(wall_s=30.0)
PROBE_BYTES = 1 << 20
SPARE_SECONDS = 1.0  # an output may be this much longer than `max_seconds` before we call it a bomb
WORTH_A_NOTE_S = 0.15
LOST_PICTURES = 8  # pictures are stored out of order: so many before the end of a cut file may be missing between others

STREAM = re.compile(r"Stream #0:(\d+) -> #0:\d+ \((\w+) [^\n]*-> (rawvideo|pcm_\w+) ")
CONTAINER = re.compile(r"Input #0, (\S+), from ")
DURATION = re.compile(r"^\[info\]   Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?),", re.MULTILINE)
FRAME_RATE = re.compile(r", ([\d.]+)(k?) (?:fps|tbr)\b")
ROTATION = re.compile(r"(?i)display ?matrix: rotation of (-?[\d.]+) degrees")
DAMAGE = re.compile(r"corrupt decoded frame|Error submitting packet to decoder|Error while decoding stream")
CUT_SHORT = re.compile(r"partial file|Packet corrupt|File ended prematurely|Truncated|truncated")


@dataclass(frozen=True)
class Probe:
    """What a file holds, by decoding its beginning. Times are seconds on the container's own clock.

    `video_start_s`, `audio_start_s`: when the first picture and the first sound are due (None: no sound that decodes).
    `duration_s`: what the container states, None where it states nothing. `width`, `height`: pixels after `rotation` (degrees,
    counter-clockwise, as the container states it), before the sample aspect. `fps`: the mean rate, 0 where none is stated.
    """

    duration_s: float | None
    video_start_s: float
    audio_start_s: float | None
    width: int
    height: int
    fps: float
    rotation: float
    video_codec: str
    audio_codec: str | None
    container: str

    @property
    def has_audio(self) -> bool:
        return self.audio_start_s is not None


@dataclass(frozen=True)
class DecodeConfig:
    """What `decode` makes, and what one file may cost.

    `fps`, `width`, `height`, `sample_rate`: of the output, which covers width x height and is cropped at the centre.
    `max_seconds`: what lies behind is not read. `timeout_s`: wall-clock limit. `memory_bytes`: address space of the child.
    `max_damage`: the share of frames that may be damaged; a file with more is refused.
    """

    fps: int = 24
    width: int = 64
    height: int = 64
    sample_rate: int = 16000
    max_seconds: float = 60.0
    timeout_s: float = 60.0
    memory_bytes: int = 2 << 30
    max_damage: float = 0.02


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


def probe(path: Path | str) -> Probe:
    """Look into one file.

    Raises:
        MediaError: not a plain file, empty, not one of the container formats, no pictures, or none that decode.
    """
    path = _plain_file(path, "probe")
    source = _source(path, PROBE_SECONDS)
    # One picture and one sound, cut by filters: `-frames` on two streams ends both with the first. `?` lets a stream be absent, `V`
    # leaves cover art out. framecrc writes a text line a frame; the log is no place for times, its threads write into each other's lines.
    look: dict[str, Any] = {"vf": "trim=end_frame=1", "af": "atrim=end_sample=1", "fps_mode": "passthrough", "f": "framecrc"}
    look["enc_time_base:v"] = "1/1000000"
    ended = run_ffmpeg(
        lambda pipes: ffmpeg.output(source["V:0?"], source["a:0?"], f"pipe:{pipes[0]}", **look).compile(cmd=_program("level+info")),
        PROBE_LIMITS,
        drains=[PROBE_BYTES],
    )
    said, firsts = ended.stderr, _first_frames(ended.outputs[0].decode(errors="replace"))
    container = CONTAINER.search(said)
    codecs = {"video" if coder == "rawvideo" else "audio": (int(index), codec) for index, codec, coder in STREAM.findall(said)}
    if ended.stopped or container is None:
        raise MediaError("probe", path, ended.stopped or "it opens as none of the containers that we read", essence(said))
    if "video" not in codecs:
        raise MediaError("probe", path, "it has no pictures", essence(said))
    if "video" not in firsts:
        raise MediaError("probe", path, "its pictures do not decode", essence(said))
    index, video_codec = codecs["video"]
    video_start_s, (width, height) = firsts["video"]
    return Probe(
        duration_s=_duration(said),
        video_start_s=video_start_s,
        audio_start_s=firsts["audio"][0] if "audio" in firsts else None,
        width=width,
        height=height,
        fps=_frame_rate(said, index),
        rotation=float(turned[1]) if (turned := ROTATION.search(said)) else 0.0,
        video_codec=video_codec,
        audio_codec=codecs["audio"][1] if "audio" in codecs else None,
        container=container[1].rstrip(","),
    )


def decode(path: Path | str, probe: Probe, config: DecodeConfig) -> Decoded:
    """Decode one file, with one ffmpeg child, onto one clock whose zero is the first picture. Safe in threads and Ray workers.

    Args:
        path: the file that `probe` describes.

    Raises:
        MediaError: nothing decodes, more than `config.max_damage` of the frames are damaged, or it costs more than the limits allow.
    """
    path = _plain_file(path, "decode")
    limits = Limits(wall_s=config.timeout_s, memory_bytes=config.memory_bytes)
    longest = config.max_seconds + SPARE_SECONDS
    frame_bytes = config.width * config.height * 3
    drains = [int(longest * config.fps) * frame_bytes]
    if probe.has_audio:
        drains.append(int(longest * config.sample_rate) * 4)
    ended = run_ffmpeg(lambda pipes: _graph(path, probe, config, pipes), limits, drains=drains)
    count = len(ended.outputs[0]) // frame_bytes
    if CUT_SHORT.search(ended.stderr):
        count = max(0, count - math.ceil(LOST_PICTURES * config.fps / (probe.fps or config.fps)))
    _refuse_broken(path, ended, count, config)
    frames = np.frombuffer(ended.outputs[0], np.uint8, count * frame_bytes).reshape(count, config.height, config.width, 3)
    audio, heard_s = None, None
    if probe.has_audio:
        heard = np.frombuffer(ended.outputs[1], "<f4", len(ended.outputs[1]) // 4)
        heard_s = len(heard) / config.sample_rate
        audio = _fit(heard, round(count * config.sample_rate / config.fps))
    offset = probe.audio_start_s - probe.video_start_s if probe.audio_start_s is not None else 0.0
    return Decoded(frames, audio, offset, tuple(_notes(probe, config, ended, count / config.fps, heard_s)))


def _plain_file(path: Path | str, stage: str) -> Path:
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


def _program(loudness: str) -> list[str]:
    return [ffmpeg_path(), "-nostdin", "-hide_banner", "-v", loudness, "-copyts", "-filter_complex_threads", "1"]


def _source(path: Path, seconds: float) -> Any:
    rules: dict[str, Any] = {"threads": 1, "protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": MAX_PIXELS}
    # Seconds are limited here because the same limit on the output would not stop a gap of hours between two timestamps.
    return ffmpeg.input(f"file:{path}", t=seconds, fflags="+discardcorrupt", **rules)


def _graph(path: Path, probe: Probe, config: DecodeConfig, pipes: Sequence[int]) -> list[str]:
    source = _source(path, config.max_seconds)
    width, height, rate = config.width, config.height, config.sample_rate
    zero = f"round(PTS-({probe.video_start_s!r})/TB)"
    video = source["V:0"].filter("setpts", zero).filter("fps", config.fps, start_time=0, round="near")
    # The gap before a picture far behind the limit is filled by `fps` all the same, unless its output ends there.
    video = video.filter("trim", end=config.max_seconds)
    # Cropped before it is scaled: the cost stays bounded whatever shape the file claims.
    video = video.filter("crop", f"min(iw,ih*{width}/{height}/sar)", f"min(ih,iw*sar*{height}/{width})")
    video = video.filter("scale", width, height, flags="bicubic+accurate_rnd+full_chroma_int")
    outputs = [video.output(f"pipe:{pipes[0]}", f="rawvideo", pix_fmt="rgb24", fps_mode="passthrough")]
    if len(pipes) > 1:
        # min_hard_comp: at its default, gaps below 100 ms are swallowed. rematrix_maxval: (L + R) / 2; else (L + R) / sqrt(2), which clips.
        resample: dict[str, Any] = {"async": 1, "first_pts": 0, "min_hard_comp": 0.01, "rematrix_maxval": 1}
        audio = source["a:0"].filter("asetpts", zero).filter("aresample", rate, **resample)
        audio = audio.filter("aformat", sample_fmts="flt", channel_layouts="mono", sample_rates=rate)
        outputs.append(audio.output(f"pipe:{pipes[1]}", f="f32le"))
    return ffmpeg.merge_outputs(*outputs).compile(cmd=_program("level+warning"))


def _refuse_broken(path: Path, ended: Ended, count: int, config: DecodeConfig) -> None:
    said, damaged = essence(ended.stderr), len(DAMAGE.findall(ended.stderr))
    if ended.stopped:
        raise MediaError("decode", path, ended.stopped, said)
    if count == 0:
        raise MediaError("decode", path, "no picture decodes", said)
    if damaged > config.max_damage * count:
        raise MediaError("decode", path, f"damaged in {damaged} places over {count} frames", said)
    if ended.returncode != 0:
        raise MediaError("decode", path, f"ffmpeg ended with status {ended.returncode}", said)


def _fit(audio: np.ndarray, samples: int) -> np.ndarray:
    """Cut or zero-pad `[S]` to `samples`; what is no number or beyond full scale, as float codecs may hold, is brought into [-1, 1]."""
    fitted = np.zeros(samples, np.float32)
    kept = min(samples, len(audio))
    fitted[:kept] = np.clip(np.nan_to_num(audio[:kept]), -1.0, 1.0)
    return fitted


def _notes(probe: Probe, config: DecodeConfig, ended: Ended, shown_s: float, heard_s: float | None) -> list[str]:
    notes = []
    if damaged := len(DAMAGE.findall(ended.stderr)):
        notes.append(f"damaged in {damaged} places")
    if CUT_SHORT.search(ended.stderr):
        notes.append(f"the file ends early: used up to {shown_s:.2f} s")
    if probe.duration_s is not None and probe.duration_s > config.max_seconds:
        notes.append(f"only the first {config.max_seconds:g} s of {probe.duration_s:.1f} s are used")
    elif probe.duration_s is not None and probe.duration_s - shown_s > WORTH_A_NOTE_S:
        notes.append(f"its pictures end at {shown_s:.2f} s of {probe.duration_s:.2f} s")
    if heard_s is not None and shown_s - heard_s > WORTH_A_NOTE_S:
        notes.append(f"its sound ends {shown_s - heard_s:.2f} s before the pictures: silence follows")
    if heard_s is None:
        notes.append("its sound does not decode" if probe.audio_codec else "no sound")
    return notes


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
