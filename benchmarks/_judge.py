"""How generated clips are judged, window by window, against real ones: one flat record of figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..model.evaluation import Principal, chunk_features, frechet, joined, principal, seams
from ..model.timeline import Layout, Timeline
from ..model.types import AV
from ._world import Chunks, World

VIEWS = ("video", "audio", "joint")


def window_of(latents: AV, chunks: Chunks, clock: Timeline) -> tuple[AV, Layout]:
    """The chunks [first, last) of a clip, without the first frame."""
    first, last = chunks
    video = latents.get("video")[:, clock.video_slice(first).start : clock.video_slice(last - 1).stop]
    audio = latents.get("audio")[:, clock.audio_slice(first).start : clock.audio_slice(last - 1).stop]
    return AV(video, audio), Layout(clock, last - first, first=first)


def features(latents: AV, chunks: Chunks, per_clip: int, clock: Timeline) -> AV:
    """Chunk features of a window, [N, D] a modality: `per_clip` chunks of each clip, spread evenly."""
    whole = chunk_features(latents, Layout(clock, chunks[1]))
    picked = torch.linspace(chunks[0], chunks[1] - 1, per_clip).round().long()
    return whole.map(lambda x: x[:, picked].flatten(0, 1))


@dataclass(frozen=True)
class _Against:
    """What a window's clips are held against. distances: a view's principal components, the reference in them, and its distance to real."""

    distances: dict[str, tuple[Principal, Tensor, float]]
    window: AV
    reading: Any


@dataclass(frozen=True)
class Judge:
    """real: the clips whose first frames and controls the generated ones have; reference: other people's real clips, as many.

    Distances are those of generated clips to `reference` minus those of `real` to it. Both sides of the difference hold the same people and
    words, so what a few hundred people happen to be cancels, and a generator gains nothing from having been given them.
    """

    world: World
    real: AV
    reference: AV
    per_clip: int
    windows: dict[str, Chunks]

    def figures(self, made: AV) -> dict[str, dict[str, float]]:
        """Window -> figures of `made`, which holds as many clips as `real`."""
        return {name: self._window(made, chunks, self._against[name]) for name, chunks in self.windows.items()}

    @cached_property
    def _against(self) -> dict[str, _Against]:
        """By window; one judge judges several ways of sampling."""
        found = {}
        for name, chunks in self.windows.items():
            other, real = (self._features(x, chunks) for x in (self.reference, self.real))
            distances = {}
            for view in VIEWS:
                o, r = _view(other, view), _view(real, view)
                p = principal(o, self.world.components)
                distances[view] = (p, p(o), frechet(p(r), p(o)))
            found[name] = _Against(distances, window_of(self.real, chunks, self.world.clock)[0], self.world.read(self.real, chunks))
        return found

    def _features(self, latents: AV, chunks: Chunks) -> AV:
        if self.world.moving:
            video = latents.get("video")
            latents = AV(video - video[:, :1], latents.audio)
        return features(latents, chunks, self.per_clip, self.world.clock)

    def _window(self, made: AV, chunks: Chunks, against: _Against) -> dict[str, float]:
        mine = self._features(made, chunks)
        figures = {}
        for view, (p, o, base) in against.distances.items():
            figures[f"frechet_{view}"] = frechet(p(_view(mine, view)), o) - base
            figures[f"floor_{view}"] = base
        window, layout = window_of(made, chunks, self.world.clock)
        for name, (index, _) in (("video", layout.video(with_first_frame=False)), ("audio", layout.audio())):
            s, r = (seams(x.get(name).flatten(2), index) for x in (window, against.window))
            figures |= {f"seam_correlation_{name}": s.correlation / r.correlation, f"seam_jump_{name}": s.jump / r.jump}
        return figures | self.world.figures(self.world.read(made, chunks), against.reading)


def _view(features: AV, view: str) -> Tensor:
    return joined(features) if view == "joint" else features.get(view)
