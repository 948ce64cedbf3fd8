"""Drawn clips, gliding tones and codecs fitted to them, shared by the tests of the codecs."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from mutual_forcing.model.codecs import AudioMoments, DctVideoCodec, DctVideoConfig, MdctAudioCodec, MdctAudioConfig, VideoMoments


def moving_discs(clips: int, frames: int, size: int, seed: int = 0) -> Tensor:
    """Soft discs that drift and pulse over a gradient, uint8 `[clips,frames,size,size,3]`."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    out = np.empty((clips, frames, size, size, 3))
    for clip in range(clips):
        ground, colour = random.uniform(0, 200, 3), random.uniform(0, 255, (3, 3))
        centre, speed, radius = random.uniform(0.2, 0.8, (3, 2)), random.normal(0, 0.01, (3, 2)), random.uniform(0.1, 0.25, 3)
        for frame in range(frames):
            picture = ground * (0.6 + 0.4 * y[..., None])
            for k in range(3):
                cy, cx = centre[k] + frame * speed[k]
                edge = radius[k] * (1 + 0.2 * math.sin(frame / 3 + k)) - np.hypot(y - cy, x - cx)
                cover = 1 / (1 + np.exp(-np.clip(edge * size / 0.7, -50, 50)))[..., None]
                picture = (1 - cover) * picture + cover * colour[k]
            out[clip, frame] = picture
    return torch.from_numpy(np.clip(out, 0, 255).round().astype(np.uint8))


def gliding_tones(clips: int, samples: int, seed: int = 0, rate: int = 16000) -> Tensor:
    """Gliding harmonic tones with a syllable-like envelope, float32 `[clips,samples]`."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    out = np.zeros((clips, samples))
    for clip in range(clips):
        pitch = random.uniform(90, 260) * (1 + 0.1 * np.sin(2 * np.pi * 1.3 * time + random.uniform(0, 6)))
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        for harmonic in range(1, 20):
            out[clip] += np.sin(harmonic * phase + random.uniform(0, 6)) / harmonic**1.3
        out[clip] *= 0.12 * (1 + np.sin(2 * np.pi * 3 * time))
    return torch.from_numpy(out).float()


@functools.cache
def video_codec(channels: int = 32, whitening: float = 0.5, spatial: int = 8) -> DctVideoCodec:
    moments = VideoMoments(spatial=spatial)
    moments.update(moving_discs(4, 17, 32))
    return DctVideoCodec.fit(DctVideoConfig(spatial=spatial, channels=channels, whitening=whitening), moments)


@functools.cache
def audio_codec(channels: int = 128, whitening: float = 0.5, hop: int = 512) -> MdctAudioCodec:
    moments = AudioMoments(hop)
    moments.update(gliding_tones(4, 32 * hop))
    return MdctAudioCodec.fit(MdctAudioConfig(hop, channels, whitening), moments)
