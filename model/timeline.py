"""One clock in seconds: video frames, latents of both modalities, chunks (method 6).

A chunk `k` is the span [k*T, (k+1)*T) of equal duration T; a latent belongs to the chunk in which its span starts. The first video
latent spans one frame alone (causal video codecs: 1 + 4k frames -> 1 + k latents): it is the first frame, a control, and
stands in chunk -1. Everything is counted in exact fractions, so boundaries never drift (a fixed 11-audio-per-3-video rule
drifts 22 ms per second).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor

FIRST_FRAME_CHUNK = -1


@dataclass(frozen=True)
class Timeline:
    """Rates of a run. fps: frames/s. sample_rate: samples/s. video_stride: frames a latent. audio_hop: samples a latent. chunk_frames: of
    the span that is generated at a time.
    """

    fps: int = 24
    video_stride: int = 4
    sample_rate: int = 16000
    audio_hop: int = 512
    chunk_frames: int = 12

    def __post_init__(self) -> None:
        for name in ("fps", "video_stride", "sample_rate", "audio_hop", "chunk_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"timeline.{name}={getattr(self, name)}: must be a positive integer")
        if self.chunk_frames % self.video_stride:
            raise ValueError(f"timeline.chunk_frames={self.chunk_frames}: must be a multiple of video_stride={self.video_stride}")

    @property
    def chunk(self) -> Fraction:
        """Chunk duration T in seconds."""
        return Fraction(self.chunk_frames, self.fps)

    @property
    def audio_rate(self) -> Fraction:
        """Audio latents per second."""
        return Fraction(self.sample_rate, self.audio_hop)

    @property
    def chunk_video(self) -> int:
        """Video latents of every chunk."""
        return self.chunk_frames // self.video_stride

    def frames(self, chunks: int) -> int:
        """Video frames of a clip: the first frame and all chunks."""
        return 1 + chunks * self.chunk_frames

    def video_latents(self, chunks: int) -> int:
        return 1 + chunks * self.chunk_video

    def audio_latents(self, chunks: int) -> int:
        """Audio latents whose span starts before the end of the last chunk (the cumulative chunk table)."""
        return ceil(chunks * self.chunk * self.audio_rate)

    def samples(self, chunks: int) -> int:
        """Audio samples of a clip: whole latents."""
        return self.audio_latents(chunks) * self.audio_hop

    def seconds(self, chunks: int) -> float:
        """Duration of the picture."""
        return self.frames(chunks) / self.fps

    def chunks_in(self, frames: int, samples: int) -> int:
        """How many whole chunks fit into `frames` video frames and `samples` audio samples."""
        chunks = max(0, (frames - 1) // self.chunk_frames)
        while chunks > 0 and self.samples(chunks) > samples:
            chunks -= 1
        return chunks

    def video_slice(self, chunk: int) -> slice:
        """Video latents of a chunk, counted from the first frame (index 0, chunk -1)."""
        if chunk == FIRST_FRAME_CHUNK:
            return slice(0, 1)
        return slice(1 + chunk * self.chunk_video, 1 + (chunk + 1) * self.chunk_video)

    def audio_slice(self, chunk: int) -> slice:
        """Audio latents of a chunk; chunk -1 has none."""
        return slice(self.audio_latents(max(chunk, 0)), self.audio_latents(chunk + 1))

    def video_times(self, latents: slice) -> list[float]:
        """Middles of video latents in seconds; the first spans one frame, the others `video_stride`."""
        half = Fraction(self.video_stride, 2)
        return [
            float(Fraction(1, 2 * self.fps) if i == 0 else (1 + (i - 1) * self.video_stride + half) / self.fps)
            for i in range(latents.start, latents.stop)
        ]

    def audio_times(self, latents: slice) -> list[float]:
        """Middles of audio latents in seconds."""
        return [float((i + Fraction(1, 2)) / self.audio_rate) for i in range(latents.start, latents.stop)]


@dataclass(frozen=True)
class Layout:
    """Where the latents of consecutive chunks stand on the clock: `chunks` chunks beginning with `first`.

    A layout with first = 0 includes the first frame (chunk -1) as video latent 0.
    """

    timeline: Timeline
    chunks: int
    first: int = 0

    def __post_init__(self) -> None:
        if self.chunks < 1:
            raise ValueError(f"layout.chunks={self.chunks}: a clip needs at least one chunk of {float(self.timeline.chunk):g} s")

    @property
    def chunk_range(self) -> range:
        return range(self.first, self.first + self.chunks)

    def video(self, with_first_frame: bool) -> tuple[Tensor, Tensor]:
        """(chunk index [F] int64, middle in seconds [F] float64) of the video latents."""
        return _table(self, "video", with_first_frame)

    def audio(self) -> tuple[Tensor, Tensor]:
        """(chunk index [T] int64, middle in seconds [T] float64) of the audio latents."""
        return _table(self, "audio", False)


@lru_cache(maxsize=256)
def _table(layout: Layout, modality: str, with_first_frame: bool) -> tuple[Tensor, Tensor]:
    """Asked for several times in every forward; the tensors are shared, so nobody may write to them."""
    clock = layout.timeline
    slice_of, times_of = (clock.video_slice, clock.video_times) if modality == "video" else (clock.audio_slice, clock.audio_times)
    index: list[int] = []
    times: list[float] = []
    for chunk in ([FIRST_FRAME_CHUNK] if with_first_frame else []) + list(layout.chunk_range):
        middles = times_of(slice_of(chunk))
        index += [chunk] * len(middles)
        times += middles
    return torch.tensor(index, dtype=torch.int64), torch.tensor(times, dtype=torch.float64)
