"""A toy world of talking characters, as latents alone: short enough to train on in minutes, rich enough to show drift.

A clip is a person (identity and timbre, constant), a caption that sets how lively it moves, and words with times. Each process is
written in continuous time and read off on the two latent clocks, so audio and video never line up by an integer ratio:

    head      two damped oscillators driven by noise: continues across chunks, cannot be guessed from the controls
    gaze      a switch between left and right with exponential waiting times, smoothed: two modes
    effort    a slow random gain that mouth and loudness share: sync has to be generated, it is not in the words
    mouth     openness = effort x the words' envelope; shape = a mean of the words' shapes
    voice     loudness = effort x the envelope; timbre of the person; the words' formants; slow noise

The processes are mixed by fixed rotations into the latent channels, as an autoencoder would; `Truth` is the way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..model.rope import RopeConfig
from ..model.text import TextConfig, Word, make_controls
from ..model.timeline import Layout, Timeline
from ..model.trunk import TransformerConfig
from ..model.types import AV, AVBatch

VIDEO, AUDIO = 8, 8
CLOCK = Timeline(fps=16, video_stride=4, sample_rate=16000, audio_hop=3200, chunk_frames=8)
NETWORK = TransformerConfig(
    video_channels=VIDEO,
    audio_channels=AUDIO,
    video_width=72,
    audio_width=72,
    depth=4,
    heads=3,
    head_dim=24,
    patch=1,
    window=6,
    text=TextConfig(max_caption_words=2, max_words=16, max_bytes=6),
    rope=RopeConfig(time_share=1.0, time_wavelengths=(0.25, 20.0)),
)
CHUNKS = 10
RATE = 64  # steps a second of the underlying processes
OBSERVATION_NOISE = 0.05

WORDS = ("ba", "me", "to", "fu", "ki", "lo", "sha", "re")
MANNERS = {"calm": 0.6, "lively": 1.4}


def _rotation(size: int, seed: int) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return q * np.sign(np.diag(r))


VIDEO_MIX, AUDIO_MIX = _rotation(VIDEO, 1), _rotation(AUDIO, 2)
_SHAPES = np.random.default_rng(3).normal(size=(len(WORDS), 2))
_FORMANTS = np.random.default_rng(4).normal(size=(len(WORDS), 3))


@dataclass(frozen=True)
class Clip:
    """One clip before batching: latents on their clocks, and its controls."""

    video: np.ndarray
    audio: np.ndarray
    caption: str
    words: tuple[Word, ...]


def _oscillator(rng: np.random.Generator, steps: int, period: float, damping: float) -> np.ndarray:
    """A damped oscillator driven by white noise, unit variance, started in its stationary state."""
    w, dt = 2 * np.pi / period, 1 / RATE
    x, v = rng.normal(), w * rng.normal()
    kick = rng.normal(size=steps) * w * np.sqrt(4 * damping * w * dt)  # fluctuation-dissipation: variance 1 for x, w^2 for v
    out = np.empty(steps)
    for i in range(steps):
        v += -(w * w * x + 2 * damping * w * v) * dt + kick[i]
        x += v * dt
        out[i] = x
    return out


def _slow(rng: np.random.Generator, steps: int, seconds: float) -> np.ndarray:
    """A first-order process of unit variance with a correlation time in seconds."""
    a = np.exp(-1 / (RATE * seconds))
    e = rng.normal(size=steps + 1)
    out = np.empty(steps)
    x = e[0]
    for i in range(steps):
        x = a * x + np.sqrt(1 - a * a) * e[i + 1]
        out[i] = x
    return out


def _switch(rng: np.random.Generator, steps: int, mean_wait: float) -> np.ndarray:
    """A switch between -1 and 1, smoothed over a fifth of a second."""
    flips = rng.random(steps + RATE) < 1 / (RATE * mean_wait)
    sign = (1 if rng.random() < 0.5 else -1) * np.cumprod(np.where(flips, -1, 1))
    kernel = np.ones(RATE // 5) / (RATE // 5)
    return np.convolve(sign, kernel, mode="same")[RATE // 2 : RATE // 2 + steps]


def _speech(rng: np.random.Generator, seconds: float) -> list[tuple[int, float, float]]:
    """(word, start, end) with pauses."""
    words, at = [], float(rng.uniform(0, 0.4))
    while at < seconds:
        length = float(rng.uniform(0.25, 0.55))
        words.append((int(rng.integers(len(WORDS))), at, at + length))
        at += length + float(rng.choice([0.08, 0.5], p=[0.75, 0.25]) * rng.uniform(0.6, 1.4))
    return words


def make_clip(seed: int, chunks: int) -> Clip:
    """The clip of that seed; deterministic."""
    rng = np.random.default_rng((20_260, seed))
    seconds = float(chunks * CLOCK.chunk) + 1.0
    steps = int(seconds * RATE)
    t = np.arange(steps) / RATE
    manner = str(rng.choice(list(MANNERS)))
    identity, timbre = rng.normal(size=2), rng.normal(size=2)
    timbre = 0.7 * timbre + 0.7 * identity  # a voice fits its face, in part
    spoken = _speech(rng, seconds)
    envelope, shape, formants = np.zeros(steps), np.zeros((steps, 2)), np.zeros((steps, 3))
    for word, start, end in spoken:
        bump = np.clip(1 - np.square((t - (start + end) / 2) / ((end - start) * 0.62)), 0, None)
        envelope += bump
        shape += bump[:, None] * _SHAPES[word]
        formants += bump[:, None] * _FORMANTS[word]
    effort = 1 + 0.45 * _slow(rng, steps, 1.0)
    head = MANNERS[manner] * np.stack([_oscillator(rng, steps, 2.2, 0.25), _oscillator(rng, steps, 3.1, 0.25)], axis=1)
    gaze = _switch(rng, steps, 2.5)
    ones = np.ones((steps, 1))
    video = np.concatenate(
        [ones * identity, head, gaze[:, None], (2 * effort * envelope - 0.9)[:, None], shape * effort[:, None] * 1.2], axis=1
    )
    loud = (2 * effort * envelope - 0.9)[:, None]
    audio = np.concatenate(
        [loud, ones * timbre, formants * effort[:, None] * 1.2, _slow(rng, steps, 0.6)[:, None], gaze[:, None] * head[:, :1]], axis=1
    )
    layout = Layout(CLOCK, chunks)
    return Clip(
        _observed(rng, video, layout.video(with_first_frame=True)[1]) @ VIDEO_MIX,
        _observed(rng, audio, layout.audio()[1]) @ AUDIO_MIX,
        manner,
        tuple(Word(WORDS[w], s, e) for w, s, e in spoken if s < chunks * CLOCK.chunk),
    )


def _observed(rng: np.random.Generator, process: np.ndarray, times: Tensor) -> np.ndarray:
    """The process at the latents' middles, with observation noise."""
    at = np.clip((times.numpy() * RATE).round().astype(int), 0, len(process) - 1)
    x = process[at]
    return x + OBSERVATION_NOISE * rng.normal(size=x.shape)


def collate(clips: list[Clip], chunks: int, positions: range) -> AVBatch:
    """Clips of equal length -> a batch; video is [B, F, 8, 1, 1], audio [B, T, 8]."""
    longest = max(len(c.words) for c in clips)
    text = TextConfig(NETWORK.text.max_caption_words, longest, NETWORK.text.max_bytes)
    return AVBatch(
        AV(
            video=torch.from_numpy(np.stack([c.video for c in clips])).float()[..., None, None],
            audio=torch.from_numpy(np.stack([c.audio for c in clips])).float(),
        ),
        make_controls([c.caption for c in clips], [list(c.words) for c in clips], text),
        Layout(CLOCK, chunks),
        tuple(positions),
        tuple(f"toy-{p}" for p in positions),
    )


@lru_cache(maxsize=4)
def clips(first: int, count: int, chunks: int) -> AVBatch:
    """See `World.clips`: each clip is made afresh, so there is no end of data and nothing is learnt by heart."""
    return collate([make_clip(first + i, chunks) for i in range(count)], chunks, range(first, first + count))


@dataclass(frozen=True)
class Truth:
    """The processes of a clip, read back from its latents: [B, F, ...] on the video clock, [B, T, ...] on the audio clock."""

    identity: Tensor
    head: Tensor
    gaze: Tensor
    mouth: Tensor
    loudness: Tensor
    timbre: Tensor


def truth(latents: AV) -> Truth:
    """Unmix latents."""
    v = latents.get("video").flatten(2) @ torch.from_numpy(VIDEO_MIX.T).float()
    a = latents.get("audio") @ torch.from_numpy(AUDIO_MIX.T).float()
    return Truth(v[..., :2], v[..., 2:4], v[..., 4], v[..., 5], a[..., 0], a[..., 1:3])
