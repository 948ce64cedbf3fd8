"""What the key/value cache and the few-step mode save, in wall-clock time, against what the arithmetic allows.

    cached     sampler.generate: every chunk is computed once, its keys and values are kept          one clip, FEW, 4 moves
    recompute  transformer.forward over the whole history at every evaluation, nothing is kept       the same clip, the same noise
    multi      sampler.generate in MULTI mode: 16 guided Euler steps, two evaluations each            the same clip

`cached` and `recompute` give the same clip, which is checked. `forward` carries a noisy copy of every chunk, as training needs it:
a recomputation written for inference alone would cost about half. Needs PyTorch alone; the weights are random, time does not see them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ..model.noise import PositionalNoise
from ..model.path import few_grid, move, per_latent, shifted
from ..model.sampler import SamplerConfig, generate
from ..model.text import Word, make_controls
from ..model.timeline import Layout, Timeline
from ..model.transformer import AVTransformer, TransformerConfig
from ..model.types import AV, Controls

FEW = SamplerConfig(mode="few", moves=4)
MULTI = SamplerConfig(mode="multi", moves=16, guidance=2.0)
TIME_FEATURES = 128
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Size:
    """What is measured: `chunks` chunks of a clip with a `grid` x `grid` latent picture, in `runs` interleaved pairs a ratio."""

    chunks: int = 16
    runs: int = 7
    grid: int = 8
    model: TransformerConfig = TransformerConfig()
    timeline: Timeline = Timeline()


QUICK = Size(chunks=8, runs=3)


# --- multiply-adds, counted from the configuration ------------------------------------------------------------------------


def layers_macs(config: TransformerConfig, tokens: dict[str, int], keys: int, rows: int) -> int:
    """Multiply-adds of one pass through the network for one clip: linear layers and attention, nothing else.

    tokens: query tokens of each modality; keys: tokens that each of them is compared with (masked ones are computed too);
    rows: distinct times, each of which is embedded once. Text keys and values are `text_macs`.
    """
    inner, words = config.heads * config.head_dim, 1 + config.text.max_caption_words + config.text.max_words
    total = config.depth * sum(tokens.values()) * keys * 2 * inner  # scores and weighted sum
    for name, n in tokens.items():
        width, features = _branch(config, name)
        total += n * 2 * features * width  # into and out of the network
        total += rows * (2 * (TIME_FEATURES * width + width * width) + (6 + 2) * width * width)  # times and modulation
        total += config.depth * n * (3 + 1) * inner * width  # self-attention
        total += config.depth * n * (2 * inner * width + words * 3 * inner)  # text: its keys are twice as wide as its values
        total += config.depth * n * 2 * config.ffn_ratio * width * width
    return total


def commit_macs(config: TransformerConfig, tokens: dict[str, int], keys: int) -> int:
    """Multiply-adds of the pass that fills the cache: it ends with the keys and values of the last layer."""
    inner, words = config.heads * config.head_dim, 1 + config.text.max_caption_words + config.text.max_words
    total = layers_macs(config, tokens, keys, rows=1) - sum(tokens.values()) * keys * 2 * inner
    for name, n in tokens.items():
        width, features = _branch(config, name)
        total -= n * features * width + 2 * width * width  # out of the network, with its modulation
        total -= n * (inner * width + 2 * inner * width + words * 3 * inner + 2 * config.ffn_ratio * width * width)  # the rest of a layer
    return total


def text_macs(config: TransformerConfig, modalities: tuple[str, ...] = ("video", "audio")) -> int:
    """Multiply-adds of encoding the controls of one clip, with their keys and values for every layer."""
    caption, words = config.text.max_caption_words, config.text.max_words
    total = 0
    for name in modalities:
        width, _ = _branch(config, name)
        total += (caption + words) * 2 * width * width + words * width
        total += config.depth * (1 + caption + words) * width * 2 * config.heads * config.head_dim
    return total


def parallel_macs(size: Size, chunks: int) -> int:
    """One `forward` over `chunks` chunks: the first frame, the context copy of all but the last chunk, the noisy copy of all."""
    config, clock, cells = size.model, size.timeline, _cells(size)
    tokens = {
        "video": cells * (1 + (2 * chunks - 1) * clock.chunk_video),
        "audio": clock.audio_latents(chunks - 1) + clock.audio_latents(chunks),
    }
    copies_of_sink = max(0, chunks - 1 - config.window)
    embeddings = {name: width * features for name in tokens for width, features in [_branch(config, name)]}
    dropped = sum(n * embeddings[name] for name, n in _chunk_tokens(size, chunks - 1).items())  # the last context copy, once embedded
    return dropped + layers_macs(config, tokens, sum(tokens.values()) + copies_of_sink * cells, rows=1 + chunks) + text_macs(config)


def cached_macs(size: Size, evaluations: int) -> int:
    """`generate`: `evaluations` a chunk against the cache, and one pass that commits every chunk but the last."""
    config, cells = size.model, _cells(size)
    total = text_macs(config) + commit_macs(config, {"video": cells}, keys=cells)
    for chunk in range(size.chunks):
        tokens = _chunk_tokens(size, chunk)
        seen = range(max(0, chunk - config.window), chunk + 1)
        keys = cells + sum(sum(_chunk_tokens(size, k).values()) for k in seen)
        total += evaluations * layers_macs(config, tokens, keys, rows=2)
        total += commit_macs(config, tokens, keys) if chunk + 1 < size.chunks else 0
    return total


def recompute_macs(size: Size, evaluations: int) -> int:
    """The same chunks, each evaluation a `forward` over everything up to its chunk."""
    return sum(evaluations * parallel_macs(size, chunk + 1) for chunk in range(size.chunks))


def guided_macs(size: Size, config: SamplerConfig) -> int:
    """`generate` with guidance: a stream with the text and one without it, both with their own cache."""
    return 2 * cached_macs(size, config.moves)


def _branch(config: TransformerConfig, name: str) -> tuple[int, int]:
    """Width of a branch, and features of one of its tokens at the input and the output."""
    if name == "video":
        return config.video_width, config.video_channels * config.patch**2
    return config.audio_width, config.audio_channels


def _cells(size: Size) -> int:
    return (size.grid // size.model.patch) ** 2


def _chunk_tokens(size: Size, chunk: int) -> dict[str, int]:
    span = size.timeline.audio_slice(chunk)
    return {"video": _cells(size) * size.timeline.chunk_video, "audio": span.stop - span.start}


# --- what is timed --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A network, a clip's controls and its first frame on one device."""

    size: Size
    net: AVTransformer
    controls: Controls
    first_frame_BFCHW: Tensor
    noise: PositionalNoise

    @property
    def device(self) -> torch.device:
        return self.first_frame_BFCHW.device

    def cached(self, config: SamplerConfig) -> list[AV]:
        """Stream the clip."""
        audio_like = (1, self.size.model.audio_channels)
        return list(generate(self.net, self.controls, self.first_frame_BFCHW, audio_like, self.size.chunks, config, self.noise))

    @torch.no_grad()
    def recompute(self, config: SamplerConfig) -> list[AV]:
        """The same clip with the parallel forward over all of it at every evaluation; FEW mode, sampler `ode`."""
        grid = few_grid(config.moves)
        past = AV(video=self.first_frame_BFCHW, audio=self.first_frame_BFCHW.new_empty(1, 0, self.size.model.audio_channels))
        made: list[AV] = []
        for chunk in range(self.size.chunks):
            x = self.noise.normal_like(self._chunk_like(chunk), "chunk", chunk)
            for start, end in pairwise(grid.tolist()):
                x = self._recomputed_move(past, x, start, end, chunk, config)
            past = past.map(_joined, x)
            made.append(x)
        return made

    def _recomputed_move(self, past: AV, x: AV, start: float, end: float, chunk: int, config: SamplerConfig) -> AV:
        clock, layout = self.size.timeline, Layout(self.size.timeline, chunk + 1)
        context = past.map(_joined, x)
        noisy = AV(video=context.get("video")[:, 1:], audio=context.audio)
        t, r = (shifted(torch.full((1, chunk + 1), raw, device=self.device), config.path, x) for raw in (start, end))
        u = self.net(noisy, context, t, r, self.controls, layout)
        last = AV(video=u.get("video")[:, -clock.chunk_video :], audio=u.get("audio")[:, clock.audio_slice(chunk)])
        here = Layout(clock, 1, first=chunk)
        at, to = (per_latent(times.map(lambda y: y[:, -1:]), x, here) for times in (t, r))
        return move(x, last, at, to)

    def _chunk_like(self, chunk: int) -> AV:
        span = self.size.timeline.audio_slice(chunk)
        video = self.first_frame_BFCHW.expand(-1, self.size.timeline.chunk_video, -1, -1, -1)
        return AV(video=video, audio=torch.empty(1, span.stop - span.start, self.size.model.audio_channels))


def _joined(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, b], dim=1)


def make_bench(size: Size, device: str) -> Bench:
    """A network whose weights are all random, those too that start at zero: the check of equal clips must see every part."""
    generator = torch.Generator().manual_seed(0)
    net = AVTransformer(size.model, size.timeline)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.02 * torch.randn(p.shape, generator=generator)
    words = [Word("word", 0.4 * i, 0.4 * i + 0.3) for i in range(int(size.chunks * size.timeline.chunk / 0.4))]
    controls = make_controls(["a calm voice in a quiet room"], [words], size.model.text)
    first = torch.randn(1, 1, size.model.video_channels, size.grid, size.grid, generator=generator)
    noise = PositionalNoise([(0, "bench")], device)
    return Bench(size, net.to(device).eval(), controls.to(device), first.to(device), noise)


def largest_difference(bench: Bench) -> float:
    """Between the latents of the cached and the recomputed clip, relative to their largest value."""
    pairs = [
        (a, b)
        for x, y in zip(bench.cached(FEW), bench.recompute(FEW), strict=True)
        for (_, a), (_, b) in zip(x.items(), y.items(), strict=True)
    ]
    return max(float((a - b).abs().max()) for a, b in pairs) / max(float(a.abs().max()) for a, _ in pairs)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of `work`, until the device has done it."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def paired_ratios(slow: Callable[[], object], fast: Callable[[], object], runs: int, device: torch.device) -> list[float]:
    """slow / fast of `runs` pairs, each pair back to back, its order alternating, so that a drift of the machine cancels."""
    ratios: list[float] = []
    for run in range(runs):
        order = (slow, fast) if run % 2 == 0 else (fast, slow)
        taken = {work: seconds(work, device) for work in order}
        ratios.append(taken[slow] / taken[fast])
    return ratios


def measure(size: Size, device: str) -> dict[str, Any]:
    """All figures of one device.

    Raises:
        RuntimeError: the cached and the recomputed clip differ, so their times would not be comparable.
    """
    bench = make_bench(size, device)
    difference = largest_difference(bench)  # the warm-up of both as well
    if not difference < TOLERANCE:
        raise RuntimeError(f"the cached and the recomputed clip differ by {difference:.2g} of their range on {device}")
    few, multi = (lambda: bench.cached(FEW)), (lambda: bench.cached(MULTI))
    cached = paired_ratios(lambda: bench.recompute(FEW), few, size.runs, bench.device)
    modes = paired_ratios(multi, few, size.runs, bench.device)
    flops = recompute_macs(size, FEW.moves) / cached_macs(size, FEW.moves)
    return {
        "cached_vs_recompute": round(median(cached), 2),
        "cached_vs_flop_ratio": round(median(cached) / flops, 3),
        "few4_vs_multi": round(median(modes), 2),
        "runs": size.runs,
        "spread": {name: [round(min(r), 2), round(max(r), 2)] for name, r in (("cached_vs_recompute", cached), ("few4_vs_multi", modes))},
        "device": torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "limit": {
            "cached_vs_recompute": round(flops, 2),
            "few4_vs_multi": MULTI.evaluations / FEW.evaluations,
            "few4_vs_multi_flops": round(guided_macs(size, MULTI) / cached_macs(size, FEW.moves), 2),
        },
        "chunks": size.chunks,
        "difference": difference,
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread, so that a ratio does not hang on how many cores happen to be free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def summary(figures: dict[str, Any]) -> str:
    """The figures of one device in two sentences."""
    limit, spread = figures["limit"], figures["spread"]
    return (
        f"{figures['device']}, {figures['chunks']} chunks, median of {figures['runs']} pairs (lowest to highest):\n"
        f"  the cache makes generation {figures['cached_vs_recompute']} times faster ({spread['cached_vs_recompute'][0]} to "
        f"{spread['cached_vs_recompute'][1]}); the arithmetic is {limit['cached_vs_recompute']} times less\n"
        f"  FEW with 4 moves is {figures['few4_vs_multi']} times faster than MULTI with 16 guided steps ({spread['few4_vs_multi'][0]} to "
        f"{spread['few4_vs_multi'][1]}); it has {limit['few4_vs_multi']:g} times fewer evaluations, "
        f"{limit['few4_vs_multi_flops']} times less arithmetic with the passes that fill the cache"
    )


def main(arguments: list[str], size: Size | None = None) -> int:
    """Measure and print; returns the exit code. `size` takes the place of what --quick chooses."""
    parser = argparse.ArgumentParser(prog="bench model", description="Time the key/value cache and the few-step mode against arithmetic.")
    parser.add_argument("--quick", action="store_true", help="a shorter clip and fewer pairs, done within a minute on one core")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of sentences")
    options = parser.parse_args(arguments)
    size = size or (QUICK if options.quick else Size())
    try:
        with one_thread():
            figures = {"name": "model", **measure(size, "cpu")}
            if torch.cuda.is_available():
                figures["cuda"] = measure(size, "cuda")
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures) if options.json else "\n".join(summary(f) for f in (figures, figures.get("cuda")) if f))
    return 0
