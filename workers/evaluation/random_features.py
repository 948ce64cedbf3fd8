"""Features from networks that were never trained: fixed random convolutions of pictures, of sound, and of both along time.

    0.5 s of frames  -> 8 x 48 x 48: colour, detail, motion -> 3-d convolutions -> of each step [8, 128] -+-> pooled over time -> video [32]
    0.5 s of samples -> log-mel [64, 32]      -> 2-d convolutions -> of each step [8, 128] -+-> pooled over time -> audio [32]
                                                                                            +-> joined, convolved -> joint [32]

Random features keep distances well enough to tell distributions apart (Rahimi & Recht 2007; random convolutions as features: Saxe et al.
2011), need no weights, and are the same on every machine: the weights come from NumPy's PCG64 with fixed seeds. They know nothing of
meaning: who a face is, what a word says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...datasets.signals.thumbnails import thumbnails
from .clip import About, EvalClip, Need, NotApplicable
from .distances import between, both

View = Literal["video", "audio", "joint"]
VIEWS: tuple[View, ...] = get_args(View)
SEGMENT_S = 0.5
SIDE, STEPS, MELS, DIMENSIONS = 48, 8, 64, 32
CHANNELS = (16, 32, 64)
GAIN = 8.0  # of detail and motion over colour, without which colour alone would count
FLOOR = 1e-5  # of power: a level of -50 dB, below which sound is silence
PROTOCOL = "mutual-forcing random features 1 (PCG64 seeds 1-7, 32 numbers of 0.5 s)"


@dataclass(frozen=True)
class RandomFeatures:
    """Distances of generated to real clips in one view. One vector for every half second."""

    view: View

    @property
    def about(self) -> tuple[About, About]:
        """Both distances."""
        seen: tuple[Need, ...] = () if self.view == "audio" else ("picture",)
        heard: tuple[Need, ...] = () if self.view == "video" else ("sound",)
        return both((f"frechet_random_{self.view}", f"kernel_random_{self.view}"), PROTOCOL, (*seen, *heard, "reference"))

    def features(self, clip: EvalClip) -> np.ndarray:
        """Vectors float32 [half seconds, 32].

        Raises:
            NotApplicable: below half a second, or without pictures or sound.
        """
        frames, samples = (round(SEGMENT_S * rate) for rate in (clip.fps, clip.sample_rate))
        counts = {"video": len(clip.frames) // frames if frames else 0, "audio": len(clip.samples) // samples}
        count = min(counts.values()) if self.view == "joint" else counts[self.view]
        if not count:
            raise NotApplicable(f"less than {SEGMENT_S:g} s of it")
        with torch.inference_mode():
            traces = []
            if self.view != "audio":
                traces.append(torch.stack([_seen(clip.frames[i * frames : (i + 1) * frames]) for i in range(count)]))
            if self.view != "video":
                cut = clip.samples[: count * samples].reshape(count, samples)
                traces.append(_heard(torch.from_numpy(np.ascontiguousarray(cut)), clip.sample_rate))
            return _pooled(traces).numpy()

    def between(self, real_ND: np.ndarray, generated_ND: np.ndarray) -> dict[str, float]:
        """See `about`. Raises: NotApplicable."""
        return between(self.about, real_ND, generated_ND)


def _seen(frames: np.ndarray) -> Tensor:
    """What half a second shows: [8, 128]. Detail is what differs from the mean of 3 x 3 cells, motion from the picture before."""
    picked = frames[np.linspace(0, len(frames) - 1, STEPS).round().astype(int)]
    x = torch.from_numpy(thumbnails(picked, 2 * SIDE)).permute(0, 3, 1, 2).float() / 127.5 - 1
    x = F.adaptive_avg_pool2d(x, SIDE)
    fine = torch.tanh(GAIN * (x - F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)))
    moved = torch.tanh(GAIN * torch.cat([x[:1] - x[:1], x.diff(dim=0)]))
    x = torch.cat([x / GAIN, fine, moved], dim=1).transpose(0, 1)[None]
    for i, kernel in enumerate(((3, 5, 5), (3, 3, 3), (3, 3, 3))):
        weight = _weights(1 + i, (CHANNELS[i], x.shape[1], *kernel))
        x = F.relu(F.conv3d(x, weight, stride=(1, 2, 2), padding=tuple(k // 2 for k in kernel)))
    return torch.cat([x.mean((3, 4)), x.std((3, 4))], dim=1)[0].T


def _heard(samples_NS: Tensor, sample_rate: int) -> Tensor:
    """What stretches of sound are like: [N, 8, 128]."""
    window = round(0.025 * sample_rate)
    size = 1 << (window - 1).bit_length()
    spectrum = torch.stft(samples_NS, size, round(0.01 * sample_rate), window, torch.hann_window(window), return_complex=True)
    power = spectrum.abs().square() / window
    mel = (_mel_bank(size, sample_rate) @ power + FLOOR).log() / 4 + 1
    x = F.adaptive_avg_pool2d(mel[:, None], (MELS, 4 * STEPS))
    for i, stride in enumerate(((2, 2), (2, 2), (2, 1))):
        x = F.relu(F.conv2d(x, _weights(4 + i, (CHANNELS[i], x.shape[1], 3, 3)), stride=stride, padding=1))
    return torch.cat([x.mean(2), x.std(2)], dim=1).transpose(1, 2)


def _pooled(traces: list[Tensor]) -> Tensor:
    """Traces [N, 8, 128] of one or both modalities -> [N, 32]."""
    x = torch.cat(traces, dim=-1).transpose(1, 2)
    if len(traces) > 1:
        x = F.relu(F.conv1d(x, _weights(7, (128, x.shape[1], 3)), padding=1))
    return torch.cat([x.mean(2), x.std(2)], dim=1) @ projection(2 * x.shape[1])


@lru_cache
def _weights(seed: int, shape: tuple[int, ...]) -> Tensor:
    """He initialisation."""
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape, np.float32)
    return torch.from_numpy(drawn * np.float32(np.sqrt(2 / np.prod(shape[1:]))))


@lru_cache(maxsize=8)
def projection(dimensions: int, seed: int = 0) -> Tensor:
    """A fixed random projection [dimensions, 32] that keeps distances (Johnson & Lindenstrauss 1984)."""
    drawn = np.random.Generator(np.random.PCG64([seed, dimensions])).standard_normal((dimensions, DIMENSIONS), np.float32)
    return torch.from_numpy(drawn / np.float32(np.sqrt(DIMENSIONS)))


@lru_cache
def _mel_bank(size: int, sample_rate: int) -> Tensor:
    """Triangles [64, size / 2 + 1] that lie evenly on the mel scale, 2595 log10(1 + f / 700), up to 8 kHz."""
    top = min(8000.0, sample_rate / 2)
    mels = np.linspace(0, 2595 * np.log10(1 + top / 700), MELS + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    f = np.arange(size // 2 + 1) * sample_rate / size
    rise = (f - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - f) / (edges[2:] - edges[1:-1])[:, None]
    return torch.from_numpy(np.clip(np.minimum(rise, fall), 0, None).astype(np.float32))
