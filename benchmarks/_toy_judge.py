"""How generated toy clips are judged, window by window, against real ones: one flat record of figures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.evaluation import Principal, chunk_features, frechet, joined, principal, seams
from ..model.timeline import Layout
from ..model.types import AV
from ._toy import CLOCK, truth

SYNC_RATE = 20
SYNC_LAGS = 8  # of 1 / SYNC_RATE seconds, both ways
WINDOWS = {"0-5": (0, 10), "5-15": (10, 30), "15-25": (30, 50)}
COMPONENTS = 32


def window_of(latents: AV, chunks: tuple[int, int]) -> tuple[AV, Layout]:
    """The chunks [first, last) of a clip, without the first frame."""
    first, last = chunks
    video = latents.get("video")[:, CLOCK.video_slice(first).start : CLOCK.video_slice(last - 1).stop]
    audio = latents.get("audio")[:, CLOCK.audio_slice(first).start : CLOCK.audio_slice(last - 1).stop]
    return AV(video, audio), Layout(CLOCK, last - first, first=first)


def features(latents: AV, chunks: tuple[int, int], per_clip: int) -> AV:
    """Chunk features of a window, [N, D] a modality: `per_clip` chunks of each clip, spread evenly."""
    whole = chunk_features(latents, Layout(CLOCK, chunks[1]))
    picked = torch.linspace(chunks[0], chunks[1] - 1, per_clip).round().long()
    return whole.map(lambda x: x[:, picked].flatten(0, 1))


@dataclass(frozen=True)
class Judge:
    """real: the clips whose first frames and controls the generated ones have; reference: other people's real clips, as many.

    Distances are those of generated clips to `reference` minus those of `real` to it. Both sides of the difference hold the same people and
    words, so what a few hundred people happen to be cancels, and a generator gains nothing from having been given them.
    """

    real: AV
    reference: AV
    per_clip: int
    windows: dict[str, tuple[int, int]]

    def figures(self, made: AV) -> dict[str, dict[str, float]]:
        """Window -> figures of `made`, which holds as many clips as `real`."""
        return {name: self._window(made, chunks) for name, chunks in self.windows.items()}

    def _window(self, made: AV, chunks: tuple[int, int]) -> dict[str, float]:
        other, real, mine = (features(x, chunks, self.per_clip) for x in (self.reference, self.real, made))
        figures = {}
        for name in ("video", "audio", "joint"):
            o, r, m = ((joined(x) if name == "joint" else x.get(name)) for x in (other, real, mine))
            p: Principal = principal(o, COMPONENTS)
            base = frechet(p(r), p(o))
            figures[f"frechet_{name}"] = frechet(p(m), p(o)) - base
            figures[f"floor_{name}"] = base
        (a, layout), (b, _) = window_of(made, chunks), window_of(self.real, chunks)
        for name, (index, _) in (("video", layout.video(with_first_frame=False)), ("audio", layout.audio())):
            s, r = (seams(x.get(name).flatten(2), index) for x in (a, b))
            figures |= {f"seam_correlation_{name}": s.correlation / r.correlation, f"seam_jump_{name}": s.jump / r.jump}
        return figures | _processes(a, b, made, chunks)


def _processes(made: AV, real: AV, whole: AV, chunks: tuple[int, int]) -> dict[str, float]:
    mine, theirs, first = truth(made), truth(real), truth(whole)
    height, lag = sync(mine.mouth, mine.loudness, chunks[0])
    real_height, _ = sync(theirs.mouth, theirs.loudness, chunks[0])
    drift = (mine.identity - first.identity[:, :1]).square().sum(-1).sqrt().mean()
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
