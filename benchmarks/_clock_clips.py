"""Clips with a time code: every picture shows its number in black and white blocks, and clicks sound at known samples.

    numbers, clicks -> ffmpeg (container, codecs, offset, rate, gap) -> a file -> its packets' own timestamps -> when each is due

What is due when is read from the packets alone, without decoding: a picture at its packet's time; a click at the time of the packet
that holds it, plus where in the packet it lies, which follows from the codec's frame and the delay of its encoder.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..datasets.ffmpeg.ffmpeg_child import Limits, MediaError, essence, ffmpeg_path, run_ffmpeg

FPS, RATE = 25, 48000
HEIGHT, WIDTH, BLOCK = 64, 128, 16
BITS = WIDTH // BLOCK  # of a number, in the first row of blocks; the second row has them inverted
CLICK_S, CLICK_HZ = 0.002, 3000.0
FIRST_CLICK_S, CLICK_EVERY_S = 0.31, 0.237
PIECE = 240  # samples that are left out together where there is a gap
NEAR_A_GAP_S = 0.08  # clicks that lie so near to a gap are cut by it, or by the codec's frames
NEAR_A_PAGE_S = 0.3  # Ogg times whole pages: what stands before the gap on its page comes after it
LIMITS = Limits(wall_s=120.0, memory_bytes=4 << 30, file_bytes=1 << 30)
PACKETS = 64 << 20


@dataclass(frozen=True)
class Format:
    """A container with codecs. frame, delay: samples of a packet of sound (0: they vary), and of those that the encoder puts in front of
    the first; silent: packets before the first that yields samples. constant: whether the container, or the codec, knows one rate of
    pictures alone; counted: whether it does not time each picture, so that they follow the first at that rate; even: whether it times
    only the first sound. unit_ms: of its timestamps of sound, if it is coarse.
    """

    name: str
    suffix: str
    video: tuple[str, ...]
    audio: tuple[str, ...]
    frame: int
    delay: int
    constant: bool = False
    counted: bool = False
    even: bool = False
    silent: int = 0
    unit_ms: float = 0.0

    def cannot_hold(self, variant: Variant) -> str:
        """Why the container has no such variant, or "" if it has."""
        if variant.varies and self.constant:
            return "it knows one rate of pictures alone"
        if self.even and (variant.gap_s is not None or variant.stretch != 1):
            return "it times only the first sound"
        return ""


@dataclass(frozen=True)
class Variant:
    """How the sound lies against the pictures, where the file's clock begins, whether the rate varies, which sound is missing (seconds; its
    edges lie between two pieces)."""

    name: str
    sound_late_s: float = 0.0
    start_s: float = 0.0
    varies: bool = False
    gap_s: tuple[float, float] | None = None
    stretch: float = 1.0  # of the sound's timestamps against its samples


H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "fastdecode", "-bf", "2")
HEVC10 = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=none")
VPX = ("-deadline", "realtime", "-cpu-used", "8")
MPEG = ("-q:v", "4", "-bf", "2")
AAC = ("-c:a", "aac", "-b:a", "160k")
OPUS = ("-c:a", "libopus", "-b:a", "128k")
FORMATS = (
    Format("mp4 h264+aac", "mp4", H264, AAC, 1024, 1024),
    Format("mov h264+pcm", "mov", H264, ("-c:a", "pcm_s16le"), 0, 0, even=True),
    Format("mkv h264+opus", "mkv", H264, OPUS, 960, 312, unit_ms=1),
    Format("mkv hevc10+flac", "mkv", HEVC10, ("-c:a", "flac", "-frame_size", "4096"), 4096, 0, unit_ms=1),
    Format("mkv h264+mp3", "mkv", H264, ("-c:a", "libmp3lame", "-b:a", "160k"), 1152, 1105, unit_ms=1),
    Format("webm vp9+opus", "webm", ("-c:v", "libvpx-vp9", *VPX), OPUS, 960, 312, unit_ms=1),
    Format("webm vp8+vorbis", "webm", ("-c:v", "libvpx", *VPX), ("-c:a", "libvorbis"), 0, 0, silent=1, unit_ms=1),
    Format("avi mpeg4+mp3", "avi", ("-c:v", "mpeg4", "-q:v", "4"), ("-c:a", "libmp3lame", "-b:a", "160k"), 1152, 1105, constant=True),
    Format("mpg mpeg1+mp2", "mpg", ("-c:v", "mpeg1video", *MPEG), ("-c:a", "mp2"), 1152, 481, constant=True, counted=True),
    Format("ts h264+aac", "ts", H264, AAC, 1024, 1024),
    Format("ts mpeg2+mp2", "ts", ("-c:v", "mpeg2video", *MPEG), ("-c:a", "mp2"), 1152, 481, constant=True),
    Format("flv h264+aac", "flv", H264, AAC, 1024, 1024, unit_ms=1),
    Format("ogg theora+vorbis", "ogv", ("-c:v", "libtheora", "-q:v", "8"), ("-c:a", "libvorbis"), 0, 0, constant=True, silent=1),
)  # fmt: skip
VARIANTS = (
    Variant("plain"),
    Variant("sound +120 ms", sound_late_s=0.12),
    Variant("sound -80 ms", sound_late_s=-0.08),
    Variant("starts at 5 s", start_s=5.0),
    Variant("rate varies", varies=True),
    Variant("gap in the sound", gap_s=(1.1025, 1.6025)),
    Variant("gap, +120 ms, 5 s", sound_late_s=0.12, start_s=5.0, gap_s=(1.1025, 1.6025)),
    Variant("sound drifts 0.05 %", stretch=1.0005),
)


@dataclass(frozen=True)
class Due:
    """When pictures and clicks are due on the container's clock, in seconds."""

    pictures: list[float]
    clicks: list[float]


def pictures_of(count: int) -> np.ndarray:
    """uint8 [N, H, W, 3]: picture n shows n + 1, modulo 2 ** BITS, over a grey that changes slowly."""
    numbers = (np.arange(count)[:, None] + 1 >> np.arange(BITS)) & 1
    frames = np.full((count, HEIGHT, WIDTH, 3), 128, np.uint8) + (np.arange(count) % 40)[:, None, None, None].astype(np.uint8)
    for row, bits in enumerate((numbers, 1 - numbers)):
        frames[:, row * BLOCK : (row + 1) * BLOCK] = (255 * bits).repeat(BLOCK, 1)[:, None, :, None]
    return frames


def read_numbers(frames: np.ndarray) -> np.ndarray:
    """The index modulo 2 ** BITS of the picture that each frame shows, -1 where it cannot be read. frames: [N, h, w, 3] of any size."""
    count, height, width = frames.shape[:3]
    block = width // BITS
    assert height >= 2 * block
    rows = frames[:, : 2 * block].mean(-1).reshape(count, 2, block, BITS, block)[:, :, block // 4 : -(block // 4)].mean((2, 4)) > 127
    numbers = (rows[:, 0] * 2 ** np.arange(BITS)).sum(1)
    return np.where((rows[:, 0] != rows[:, 1]).all(1), (numbers - 1) % 2**BITS, -1)


def click_starts(seconds: float) -> np.ndarray:
    """Samples at which clicks begin."""
    return (np.arange(FIRST_CLICK_S, seconds - 0.1, CLICK_EVERY_S) * RATE).astype(int)


def click(rate: int) -> np.ndarray:
    """One click at this rate, float32."""
    t = np.arange(round(CLICK_S * rate)) / rate
    return (0.8 * np.sin(2 * np.pi * CLICK_HZ * t) * np.sin(np.pi * t / CLICK_S) ** 2).astype(np.float32)


def sound_of(seconds: float) -> np.ndarray:
    """float32 [S]: clicks over a faint hum."""
    sound = (0.01 * np.sin(2 * np.pi * 110 * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)
    one = click(RATE)
    for start in click_starts(seconds):
        sound[start : start + len(one)] += one
    return sound


def make_clip(path: Path, form: Format, variant: Variant, seconds: float) -> None:
    """Write a clip.

    Raises:
        MediaError: this ffmpeg cannot make it.
    """
    late = variant.sound_late_s
    shake = "+0.4*mod(N\\,3)/25" if variant.varies else ""  # no two intervals in a row are alike
    video = f"[0:v]setpts=PTS+({max(0.0, -late)}{shake})/TB[v]"
    kept = "" if variant.gap_s is None else f"aselect=not(between(t\\,{variant.gap_s[0]}\\,{variant.gap_s[1]})),"
    audio = f"[1:a]asetnsamples={PIECE},{kept}asetpts=PTS*{variant.stretch}+{max(0.0, late)}/TB[a]"

    def arguments(pipes: list[int]) -> list[str]:
        command = [ffmpeg_path(), "-nostdin", "-v", "level+error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}"]
        command += ["-framerate", str(FPS), "-i", f"pipe:{pipes[0]}", "-f", "f32le", "-ar", str(RATE), "-ac", "1", "-i", f"pipe:{pipes[1]}"]
        command += ["-filter_complex", f"{video};{audio}", "-map", "[v]", "-map", "[a]", "-pix_fmt", "yuv420p", "-g", "12", *form.video]
        command += [
            *form.audio,
            "-fps_mode",
            "vfr" if variant.varies else "passthrough",
            "-enc_time_base:v",
            "1/1000" if variant.varies else "1/25",
        ]
        return [*command, "-output_ts_offset", str(variant.start_s), f"file:{path}"]

    feeds = [pictures_of(round(seconds * FPS)).data.cast("B"), sound_of(seconds).data.cast("B")]
    ended = run_ffmpeg(lambda pipes: arguments(list(pipes)), LIMITS, feeds)
    if ended.returncode != 0:
        raise MediaError("write", path, ended.stopped or f"this ffmpeg cannot make {form.name}, {variant.name}", essence(ended.stderr))


def due_in(path: Path, form: Format, variant: Variant, seconds: float) -> Due:
    """When everything is due by the timestamps of the file's packets."""
    pictures, packets = sorted(packets_of(path, "V:0")), packets_of(path, "a:0")[form.silent :]
    if form.counted:
        pictures = [pictures[0] + n / FPS for n in range(len(pictures))]
    starts = click_starts(seconds)
    places = starts.copy()  # of clicks among the samples that were encoded
    if variant.gap_s is not None:
        begin, end = (math.ceil(edge * RATE / PIECE) * PIECE for edge in variant.gap_s)
        near = round((NEAR_A_GAP_S if form.frame else NEAR_A_PAGE_S) * RATE)
        far = (starts < begin - near) | (starts > end + near)
        starts = starts[far]
        places = np.where(starts > begin, starts - (end - begin), starts)
    clicks = []
    for start, place in zip(starts.tolist(), places.tolist(), strict=True):
        at = place + form.delay
        if not form.frame:  # packets of many lengths: when it was to sound, from the first on
            clicks.append(packets[0] + variant.stretch * start / RATE)
        elif at // form.frame < len(packets):
            clicks.append(packets[at // form.frame] + at % form.frame / RATE)
    return Due(pictures, clicks)


def packets_of(path: Path, stream: str) -> list[float]:
    """The timestamps of a stream's packets, in seconds."""
    command = [ffmpeg_path(), "-nostdin", "-v", "level+error", "-copyts", "-i", f"file:{path}", "-map", f"0:{stream}", "-c", "copy"]
    ended = run_ffmpeg(lambda pipes: [*command, "-f", "framecrc", f"pipe:{pipes[0]}"], LIMITS, drains=[PACKETS])
    table = ended.outputs[0].decode()
    unit = re.search(r"^#tb 0: (\d+)/(\d+)$", table, re.MULTILINE)
    assert unit, ended.stderr
    tick = Fraction(int(unit[1]), int(unit[2]))
    rows = re.findall(r"^0, *(-?\d+), *(-?\d+),", table, re.MULTILINE)
    return [float(int(stored if int(shown) == -(2**63) else shown) * tick) for stored, shown in rows]
