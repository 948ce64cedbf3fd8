"""A network of a preset at a resolution, played: clips streamed chunk by chunk, and a chunk without a cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..model.arithmetic import Arithmetic
from ..model.execution import ExecutionConfig
from ..model.noise import PositionalNoise
from ..model.path import few_grid, move, per_latent, shifted
from ..model.presets import Preset
from ..model.sampler import SamplerConfig, chunk_latents, generate
from ..model.text import TextConfig, Word, make_controls
from ..model.timeline import Layout
from ..model.transformer import AVTransformer
from ..model.types import AV, Controls

if TYPE_CHECKING:
    from ._decoding import Codecs

SECONDS = 600  # of the transcript: ten minutes
CAPTION = "a calm voice in a quiet room"
FEATURES = 512  # rows of caption features, as Wan pads them


@dataclass(frozen=True)
class Case:
    """What is played. height, width: pixels; clips: at once, all alike; codecs: that decode it, if it is to be decoded too."""

    preset: Preset
    height: int
    width: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    execution: ExecutionConfig = ExecutionConfig()
    seconds: int = SECONDS
    clips: int = 1
    codecs: Codecs | None = None

    @property
    def rows(self) -> int:
        return self.height // self.preset.spatial_stride

    @property
    def columns(self) -> int:
        return self.width // self.preset.spatial_stride

    def words(self) -> list[Word]:
        """Two and a half words a second."""
        return [Word("word", 0.4 * i, 0.4 * i + 0.3) for i in range(int(self.seconds / 0.4))]

    def words_near(self, layout: Layout) -> list[Word]:
        """Those that a layout's chunks can hear."""
        net, chunk = self.preset.network, float(self.preset.clock.chunk)
        low, high = (layout.first - net.window) * chunk, (layout.first + layout.chunks) * chunk + net.word_lookahead_s
        return [w for w in self.words() if w.end > low and w.start < high]

    def arithmetic(self) -> Arithmetic:
        times = torch.tensor([[w.start, w.end] for w in self.words()])
        features = self.preset.network.video.caption_features
        caption = FEATURES if features else self.preset.network.text.max_caption_words
        return Arithmetic(self.preset, self.rows, self.columns, times, caption)


class Stage:
    """The network of a case with random weights, all of them: those too that start at zero."""

    def __init__(self, case: Case) -> None:
        self.case, device, config = case, case.device, case.preset.network
        torch.manual_seed(0)

        def place(module: torch.nn.Module) -> torch.nn.Module:
            return module.to(device, case.dtype)  # block by block: a network in fp32 need not fit beside itself

        with device:
            self.net = AVTransformer(config, case.preset.clock, case.execution, place).eval().requires_grad_(False)
        for p in self.net.parameters():
            p.data.add_(0.02 * torch.randn_like(p))
        self.first = torch.randn(case.clips, 1, config.video_channels, case.rows, case.columns, device=device)
        self.noise = PositionalNoise([(0, "bench", clip) for clip in range(case.clips)], device)
        self.controls = self._controls(case.words())

    def _controls(self, words: list[Word]) -> Controls:
        config, clips = self.case.preset.network, self.case.clips
        limits = TextConfig(config.text.max_caption_words, len(words), config.text.max_bytes)
        text = make_controls([CAPTION] * clips, [words] * clips, limits)
        width = config.video.caption_features
        features = torch.randn(clips, FEATURES, width) if width else None
        return replace(text, caption_features_BLE=features).to(self.case.device)

    def text_near(self, layout: Layout) -> Controls:
        """The controls with the words that a layout's chunks can hear."""
        return self._controls(self.case.words_near(layout))

    def play(self, sampler: SamplerConfig, past: int = 0) -> Iterator[AV]:
        """Stream clips that never end, after so many chunks of noise."""
        clock, shape = self.case.preset.clock, (self.case.clips, self.case.preset.network.audio_channels)
        clip = self.clip(0, past) if past else None
        before = [] if clip is None else [chunk_latents(clip, Layout(clock, past), k) for k in range(past)]
        return generate(self.net, self.controls, self.first, shape, 10**9, sampler, self.noise, before)

    def decoded(self, sampler: SamplerConfig, past: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The same as frames and samples."""
        from ._decoding import decoded

        assert self.case.codecs is not None
        return decoded(self.case.codecs, self.first, self.play(sampler, past))

    @property
    def last(self) -> Layout:
        """The chunks that the last of them can see, once a window is full, and itself."""
        return Layout(self.case.preset.clock, self.case.preset.network.window + 1, first=1)

    def recomputing(self, sampler: SamplerConfig) -> Callable[[], AV]:
        """Each call makes the last chunk of `last` without a cache."""
        layout = self.last
        clip, controls = self.clip(layout.first, layout.chunks), self.text_near(layout)
        x = self.noise.normal_like(
            chunk_latents(self.clip(0, layout.chunks + 1), Layout(layout.timeline, layout.chunks + 1), layout.chunks)
        )
        return lambda: self.recompute(sampler, clip, x, layout, controls)

    def clip(self, first: int, chunks: int) -> AV:
        """Random clean latents of these chunks, the first frame before them."""
        clock, case = self.case.preset.clock, self.case
        audio = clock.audio_slice(first + chunks - 1).stop - clock.audio_slice(first).start
        video = torch.randn(case.clips, chunks * clock.chunk_video, *self.first.shape[2:], device=case.device)
        sound = torch.randn(case.clips, audio, case.preset.network.audio_channels, device=case.device)
        return AV(torch.cat([self.first, video], dim=1), sound)

    @torch.no_grad()
    def recompute(self, sampler: SamplerConfig, context: AV, x: AV, layout: Layout, controls: Controls) -> AV:
        """The last chunk of a layout in FEW mode without a cache: every evaluation is a `forward` over the layout.

        That is training's forward, which carries a noisy copy of every chunk; one written for this alone would compute about half, and its
        arithmetic is counted as what it is. context: the clean clip, whose last chunk nobody reads; x: the noise of the last chunk.
        """
        here = Layout(layout.timeline, 1, first=layout.chunk_range[-1])
        n, m = x.get("video").shape[1], x.get("audio").shape[1]
        for start, end in pairwise(few_grid(sampler.moves).tolist()):
            noisy = AV(
                torch.cat([context.get("video")[:, 1:-n], x.get("video")], dim=1),
                torch.cat([context.get("audio")[:, :-m], x.get("audio")], dim=1),
            )
            t, r = (
                shifted(torch.full((self.case.clips, layout.chunks), raw, device=self.case.device), sampler.path, x) for raw in (start, end)
            )
            u = self.net(noisy, context, t, r, controls, layout)
            last = AV(u.get("video")[:, -n:], u.get("audio")[:, -m:])
            at, to = (per_latent(times.map(lambda y: y[:, -1:]), x, here) for times in (t, r))
            x = move(x, last, at, to)
        return x
