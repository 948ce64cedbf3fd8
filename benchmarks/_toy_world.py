"""The toy as a world: what its processes did in a window of a clip, and how made clips compare with real ones there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.types import AV
from ._judge import window_of
from ._toy import CHUNKS, CLOCK, NETWORK, Truth, clips, truth
from ._world import Chunks, World

SYNC_RATE = 20
SYNC_LAGS = 8  # of 1 / SYNC_RATE seconds, both ways


@dataclass(frozen=True)
class Reading:
    """The processes in a window, and the identity that the first frame shows, [B, 2]."""

    processes: Truth
    identity: Tensor
    first_chunk: int


def read(latents: AV, chunks: Chunks) -> Reading:
    """See `World.read`."""
    window, _ = window_of(latents, chunks, CLOCK)
    return Reading(truth(window), truth(latents).identity[:, 0], chunks[0])


def figures(made: Reading, real: Reading) -> dict[str, float]:
    """See `World.figures`."""
    mine, theirs = made.processes, real.processes
    height, lag = sync(mine.mouth, mine.loudness, made.first_chunk)
    real_height, _ = sync(theirs.mouth, theirs.loudness, real.first_chunk)
    drift = (mine.identity - made.identity[:, None]).square().sum(-1).sqrt().mean()
    return {
        "sync": height,
        "sync_lag_s": lag,
        "sync_minus_real": height - real_height,
        "identity_drift": float(drift),
        "motion": float(_step(mine.head) / _step(theirs.head)),
        "gaze_modes": float(mine.gaze.abs().clamp(max=1.5).mean() / theirs.gaze.abs().clamp(max=1.5).mean()),
        "loudness": float(mine.loudness.std() / theirs.loudness.std()),
    }


def _step(x_BFD: Tensor) -> Tensor:
    """Root mean square step between neighbours."""
    return (x_BFD[:, 1:] - x_BFD[:, :-1]).square().mean().sqrt()


def sync(mouth_BF: Tensor, loudness_BT: Tensor, first_chunk: int) -> tuple[float, float]:
    """Height and lag (seconds, mouth behind voice is positive) of the peak of the mean correlation of mouth and loudness over lags.

    Both are read on one clock of 20 steps a second by linear interpolation between the middles of their latents.
    """
    frames, samples = mouth_BF.shape[1], loudness_BT.shape[1]
    video_from, audio_from = CLOCK.video_slice(first_chunk).start, CLOCK.audio_slice(first_chunk).start
    video = torch.tensor(CLOCK.video_times(slice(video_from, video_from + frames)), dtype=torch.float64)
    audio = torch.tensor(CLOCK.audio_times(slice(audio_from, audio_from + samples)), dtype=torch.float64)
    low, high = max(float(video[0]), float(audio[0])), min(float(video[-1]), float(audio[-1]))
    at = torch.arange(low, high, 1 / SYNC_RATE, dtype=torch.float64)
    assert len(at) > 4 * SYNC_LAGS, "a window is too short to search lags in"
    m, a = _interpolated(mouth_BF, video, at), _interpolated(loudness_BT, audio, at)
    curve = [float(_correlation(*_lagged(m, a, lag)).mean()) for lag in range(-SYNC_LAGS, SYNC_LAGS + 1)]
    best = max(range(len(curve)), key=curve.__getitem__)
    return curve[best], (best - SYNC_LAGS) / SYNC_RATE


def _interpolated(x_BN: Tensor, times_N: Tensor, at: Tensor) -> Tensor:
    right = torch.searchsorted(times_N, at).clamp(1, len(times_N) - 1)
    share = ((at - times_N[right - 1]) / (times_N[right] - times_N[right - 1])).to(x_BN.dtype)
    return x_BN[:, right - 1] * (1 - share) + x_BN[:, right] * share


def _lagged(m: Tensor, a: Tensor, lag: int) -> tuple[Tensor, Tensor]:
    """Mouth at time s against loudness at time s - lag."""
    if lag == 0:
        return m, a
    return (m[:, lag:], a[:, :-lag]) if lag > 0 else (m[:, :lag], a[:, -lag:])


def _correlation(a_BN: Tensor, b_BN: Tensor) -> Tensor:
    a, b = a_BN - a_BN.mean(1, keepdim=True), b_BN - b_BN.mean(1, keepdim=True)
    return F.cosine_similarity(a, b, dim=1)


# It leaves no marks: the toy's records began before there was another world.
WORLD = World("toy", CLOCK, NETWORK, CHUNKS, clips, read, figures)
