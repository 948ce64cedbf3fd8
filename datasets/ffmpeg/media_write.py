"""Write a clip as a file that browsers play: h264 + aac (.mp4), vp9 + opus (.webm), h264 + opus (.mkv)."""

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ffmpeg

from .ffmpeg_child import Limits, MediaError, essence, ffmpeg_path, run_ffmpeg

WRITE_LIMITS = Limits(wall_s=600.0, memory_bytes=8 << 30, file_bytes=8 << 30)

# Quality is set for small faces: at 64x64 a coarser step shows, and the files stay small anyway.
H264 = {"c:v": "libx264", "preset": "veryfast", "crf": 14}
VP9 = {"c:v": "libvpx-vp9", "deadline": "realtime", "cpu-used": 6, "crf": 14, "b:v": 0}
AAC = {"c:a": "aac", "b:a": "128k"}
OPUS = {"c:a": "libopus", "b:a": "96k"}
CONTAINERS: dict[str, dict[str, dict[str, Any]]] = {
    ".mp4": {"video": H264, "audio": AAC, "file": {"movflags": "+faststart"}},
    ".webm": {"video": VP9, "audio": OPUS, "file": {}},
    ".mkv": {"video": H264, "audio": OPUS, "file": {}},
}


def write_media(
    path: Path, frames: np.ndarray, fps: float, audio: np.ndarray | None, sample_rate: int, tags: Mapping[str, str] | None = None
) -> None:
    """Write one clip, in the container that the suffix of `path` names (.mp4, .webm or .mkv); the file appears whole or not at all.

    Args:
        path: where; its folder must exist. A file that is there is replaced.
        frames: uint8 `[N, H, W, 3]` RGB, at a constant rate. An odd side grows by one repeated row or column (4:2:0 needs even ones).
        fps: frames a second.
        audio: float `[S]` mono in [-1, 1] (clipped), sample 0 at the time of frame 0, or None for a silent film without an audio stream.
        sample_rate: of `audio`, hertz.
        tags: of the container, such as `comment`.

    Raises:
        MediaError: an array of another shape, an unknown suffix, or ffmpeg failed (no space, no permission).
    """
    path = Path(path).absolute()
    kind = container_of(path)
    _check(path, frames, fps, audio, sample_rate)
    frames = even_sides(frames)
    feeds = [as_bytes(frames)]
    if audio is not None:
        feeds.append(as_bytes(np.clip(audio, -1.0, 1.0).astype("<f4")))
    part = path.with_name(f".{secrets.token_hex(8)}.part{path.suffix.lower()}")
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    try:
        ended = run_ffmpeg(lambda pipes: _arguments(pipes, size, fps, sample_rate, kind, part, tags or {}), WRITE_LIMITS, feeds)
        if ended.returncode != 0 or not part.exists():
            raise MediaError("write", path, ended.stopped or "ffmpeg could not write this file", essence(ended.stderr))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def container_of(path: Path) -> dict[str, dict[str, Any]]:
    """The options for a file of this name in a folder that exists.

    Raises:
        MediaError: an unknown suffix, or it cannot be written there.
    """
    kind = CONTAINERS.get(path.suffix.lower())
    if kind is None:
        raise MediaError("write", path, f"unknown container {path.suffix!r}: use one of {', '.join(CONTAINERS)}")
    if path.is_dir():
        raise MediaError("write", path, "a folder has this name: choose another")
    if not path.parent.is_dir():
        raise MediaError("write", path, f"its folder {path.parent} does not exist: make it first")
    return kind


def even_sides(frames: np.ndarray) -> np.ndarray:
    """An odd side grows by one repeated row or column: 4:2:0 needs even ones."""
    odd_h, odd_w = frames.shape[1] % 2, frames.shape[2] % 2
    return np.pad(frames, ((0, 0), (0, odd_h), (0, odd_w), (0, 0)), mode="edge") if odd_h or odd_w else frames


def picture(source: Any) -> Any:
    """RGB of an input of ffmpeg-python -> what encoders take. The matrix is written into the file: players guess it from the picture size
    otherwise, and guess differently.
    """
    source = source.filter("scale", out_color_matrix="bt709", out_range="tv", flags="accurate_rnd+full_chroma_int")
    source = source.filter("format", "yuv420p")
    return source.filter("setparams", colorspace="bt709", color_primaries="bt709", color_trc="bt709", range="tv")


def tagged(arguments: list[str], tags: Mapping[str, str]) -> list[str]:
    """ffmpeg's arguments, the last of which is the output, with tags for its container."""
    told = [word for name, value in tags.items() for word in ("-metadata", f"{name}={value}")]
    return [*arguments[:-1], *told, arguments[-1]]


def _arguments(
    pipes: Sequence[int],
    size: str,
    fps: float,
    sample_rate: int,
    kind: dict[str, dict[str, Any]],
    part: Path,
    tags: Mapping[str, str],
) -> list[str]:
    source = ffmpeg.input(f"pipe:{pipes[0]}", f="rawvideo", pix_fmt="rgb24", s=size, framerate=f"{fps:g}")
    # bitexact: Matroska would otherwise carry random ids, and the same clip would be another file, with another hash, each time.
    streams, options = [picture(source)], kind["video"] | kind["file"] | {"threads": 1, "fflags": "+bitexact"}
    if len(pipes) > 1:
        streams.append(ffmpeg.input(f"pipe:{pipes[1]}", f="f32le", ar=sample_rate, ac=1))
        options |= kind["audio"]
    output = ffmpeg.output(*streams, f"file:{part}", **options)
    return tagged(output.compile(cmd=[ffmpeg_path(), "-nostdin", "-v", "level+error", "-y", "-filter_complex_threads", "1"]), tags)


def _check(path: Path, frames: np.ndarray, fps: float, audio: np.ndarray | None, sample_rate: int) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise MediaError("write", path, f"frames must be uint8 [N, H, W, 3] with N >= 1, got {frames.dtype} {list(frames.shape)}")
    if not (np.isfinite(fps) and fps > 0):
        raise MediaError("write", path, f"fps must be positive, got {fps}")
    if audio is not None and (audio.ndim != 1 or not len(audio) or audio.dtype.kind != "f" or not np.isfinite(audio).all()):
        raise MediaError("write", path, f"audio must be finite float [S] with S >= 1, got {audio.dtype} {list(audio.shape)}")
    if audio is not None and sample_rate <= 0:
        raise MediaError("write", path, f"sample_rate must be positive, got {sample_rate}")


def as_bytes(array: np.ndarray) -> memoryview:
    """The bytes of an array, in its order."""
    return np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")  # an empty view cannot be cast
