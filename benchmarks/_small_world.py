"""Talking characters as a world: what decoded pixels and sound did in a window, and how made clips compare with real ones there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor

from ..datasets.drawn.sync import lagged_correlation, mouth_signal, voice_envelope
from ..model.codecs.dct import DctVideoCodec, to_uint8
from ..model.codecs.mdct import MdctAudioCodec
from ..model.trunk import TransformerConfig
from ..model.types import AV
from ._judge import window_of
from ._small import CLOCK, Characters, clips, codecs, prepare
from ._world import Chunks, World

CELL = 16  # pixels a side of the cells whose mean colours say what a person looks like
AT_ONCE = 8  # clips decoded together


@dataclass(frozen=True)
class Reading:
    """What B clips show and sound like in a window of N frames. Colours are 0..1.

    mouth_BN, voice_BN: mouth opening and loudness at the frames; drift_B: root mean square distance of a chunk's mean colours, by cells of
    the picture, to those of the first frame; motion_B: mean square step of a pixel from frame to frame; power_B: mean square sample.
    """

    mouth_BN: np.ndarray
    voice_BN: np.ndarray
    drift_B: np.ndarray
    motion_B: np.ndarray
    power_B: np.ndarray


def read(characters: Characters, latents: AV, chunks: Chunks) -> Reading:
    """See `World.read`."""
    parts = [latents.map(lambda x, first=first: x[first : first + AT_ONCE]) for first in range(0, latents.batch, AT_ONCE)]
    rows = [row for part in parts for row in _rows(characters, part, chunks)]
    return Reading(*(np.array(column) for column in zip(*rows, strict=True)))


def _rows(characters: Characters, latents: AV, chunks: Chunks) -> list[tuple[np.ndarray, np.ndarray, float, float, float]]:
    """The fields of a reading, clip by clip."""
    video, audio = codecs(characters)
    first_BHWC, frames_BNHWC = video.decode(latents.get("video")[:, :1])[:, 0], _frames(video, latents, chunks)
    sound_BS = _sound(audio, latents.get("audio"), chunks, frames_BNHWC.shape[1])
    rows = []
    for first_HWC, frames_NHWC, sound_S in zip(first_BHWC, frames_BNHWC, sound_BS, strict=True):
        colours_K = _cells(frames_NHWC).unflatten(0, (-1, CLOCK.chunk_frames)).mean(1)
        drift = (colours_K - _cells(first_HWC[None])).square().flatten(1).mean(1).sqrt().mean()
        moved = (frames_NHWC[1:].float() - frames_NHWC[:-1].float()).div(255).square().mean()
        pixels, samples = frames_NHWC.numpy(), sound_S.numpy()
        voice = voice_envelope(samples, CLOCK.sample_rate, CLOCK.fps, len(pixels))
        rows.append((mouth_signal(pixels), voice, float(drift), float(moved), float(np.mean(np.square(samples, dtype=np.float64)))))
    return rows


def _frames(codec: DctVideoCodec, latents: AV, chunks: Chunks) -> Tensor:
    """Frames of a window, uint8 [B, N, H, W, 3]: a latent is decoded by itself."""
    window, _ = window_of(latents, chunks, CLOCK)
    return to_uint8(codec.decode_float(window.get("video"), first=False))


def _sound(codec: MdctAudioCodec, latents_BTC: Tensor, chunks: Chunks, frames: int) -> Tensor:
    """Samples [B, S] from the time of a window's first frame to that of the frame after its last, as far as there are latents.

    Latents more on either side: the sound of one needs its neighbours, and the last frame begins after the last chunk.
    """
    low = max(0, CLOCK.audio_slice(chunks[0]).start - 1)
    high = CLOCK.audio_slice(chunks[1] - 1).stop + 2
    first_frame = CLOCK.frames(chunks[0])
    start, stop = (round(n * CLOCK.sample_rate / CLOCK.fps) - low * codec.hop for n in (first_frame, first_frame + frames))
    return codec.decode(latents_BTC[:, low:high])[:, start:stop]


def _cells(frames_NHWC: Tensor) -> Tensor:
    """Mean colours of the picture's cells, [N, SIZE / CELL, SIZE / CELL, 3]."""
    return frames_NHWC.float().div(255).unflatten(2, (-1, CELL)).unflatten(1, (-1, CELL)).mean((2, 4))


def figures(made: Reading, real: Reading) -> dict[str, float]:
    """See `World.figures`. sync_shuffled: the height of mouths with the next clip's voice, which a search over lags finds."""
    height, lag = _sync(made.mouth_BN, made.voice_BN)
    real_height, _ = _sync(real.mouth_BN, real.voice_BN)
    return {
        "sync": height,
        "sync_lag_s": lag,
        "sync_minus_real": height - real_height,
        "sync_shuffled": _sync(made.mouth_BN, np.roll(made.voice_BN, 1, axis=0))[0],
        "identity_drift": float(made.drift_B.mean()),
        "identity_drift_real": float(real.drift_B.mean()),
        "motion": float(np.sqrt(made.motion_B.mean() / real.motion_B.mean())),
        "mouth": float(made.mouth_BN.std(1).mean() / real.mouth_BN.std(1).mean()),
        "loudness": float(np.sqrt(made.power_B.mean() / real.power_B.mean())),
    }


def _sync(mouth_BN: np.ndarray, voice_BN: np.ndarray) -> tuple[float, float]:
    """Mean height and median lag (seconds, mouth behind voice is positive) of the clips' own peaks."""
    peaks = np.array([lagged_correlation(m, v, CLOCK.fps) for m, v in zip(mouth_BN, voice_BN, strict=True)])
    return float(peaks[:, 0].mean()), -float(np.median(peaks[:, 1]))


def world(characters: Characters, network: TransformerConfig) -> World:
    """The characters for a network."""
    return World(
        name="small",
        clock=CLOCK,
        network=network,
        chunks=characters.chunks,
        clips=partial(clips, characters),
        read=partial(read, characters),
        figures=figures,
        moving=True,  # most of the variance of pictures is who somebody is, and that was given
        precision="high",  # TF32: a GPU's fp32 is several times slower
        prepare=partial(prepare, characters),
        marks={"world": "small", "characters": characters.settings(), "features": "from the first frame"},
    )
