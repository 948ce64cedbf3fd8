"""Multiply-adds and bytes of passes through the network, counted from its configuration: what a measurement is held against.

Linear layers and attention are counted, nothing else, for one clip; B clips are B times the multiply-adds, but read the weights once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from .blocks import BranchConfig
from .mask import word_mask, words_kept
from .objective import ObjectiveConfig
from .presets import Preset
from .timeline import Timeline
from .trunk import TransformerConfig
from .types import MODALITIES, AVBatch

Tokens = dict[str, int]
"""Query tokens of each modality in a pass."""

PEAKS = {
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
}
"""Dense bf16 FLOP/s of the data sheets, by a device's whole name: a GPU differs by its board. Utilisation is a share of these."""

ONCE_A_CLIP = (
    ".words.",
    ".word_duration.",
    ".caption.",
    ".null.",
    ".cross.kv.",
    ".cross.k_norm.",
    ".cross.words_kv.",
    ".cross.words_norm.",
)


def peak_of(device: str) -> float | None:
    """Dense bf16 FLOP/s of a device by its name; None of one that is not in the table."""
    return PEAKS.get(device)


@dataclass(frozen=True)
class Arithmetic:
    """rows, columns: of a latent picture; words_time_W2: the transcript; caption: its tokens, or rows of features; modalities: a clip's."""

    preset: Preset
    rows: int
    columns: int
    words_time_W2: Tensor
    caption: int
    modalities: tuple[str, ...] = MODALITIES

    @property
    def config(self) -> TransformerConfig:
        return self.preset.network

    @property
    def clock(self) -> Timeline:
        return self.preset.clock

    @property
    def cells(self) -> int:
        """Tokens of one latent picture, as the first frame is."""
        patch = self.config.patch
        return -(-self.rows // patch) * -(-self.columns // patch) if "video" in self.modalities else 0

    @property
    def inner(self) -> int:
        return self.config.heads * self.config.head_dim

    def tokens(self, chunk: int) -> Tokens:
        span = self.clock.audio_slice(chunk)
        every = {"video": self.cells * self.clock.chunk_video, "audio": span.stop - span.start}
        return {m: every[m] for m in self.modalities}

    def keys(self, chunk: int) -> int:
        """What a token of a chunk attends to in a stream: the sink, the window, its own chunk."""
        return self.cells + sum(_all(self.tokens(k)) for k in range(max(0, chunk - self.config.window), chunk + 1))

    # --- passes of a stream -----------------------------------------------------------------------------------------------

    def start(self) -> int:
        """The text of a clip, and the pass that commits its first frame."""
        text = sum(self._text(m, len(self.words_time_W2)) for m in self.modalities)
        return text + self._commit({"video": self.cells}, self.cells, self._heard(-1))

    def evaluation(self, chunk: int) -> int:
        """One velocity of a chunk against the cache."""
        tokens = self.tokens(chunk)
        return self._pass(tokens, _all(tokens) * self.keys(chunk), self._heard(chunk), rows=1)

    def commit(self, chunk: int) -> int:
        """The pass that writes a chunk's keys and values to the cache: it ends with those of the last layer."""
        return self._commit(self.tokens(chunk), self.keys(chunk), self._heard(chunk))

    def evaluation_bytes(self, chunk: int, clips: int, item: int) -> int:
        """What one velocity of `clips` clips must read: every weight once, and the cache of each clip; `item` bytes a number."""
        return item * (self.weights + clips * self.keys(chunk) * 2 * self.inner * self.config.depth)

    @cached_property
    def weights(self) -> int:
        """Weights that an evaluation reads; those of the text are read once a clip."""
        return sum(p.numel() for name, p in self.preset.meta().named_parameters() if not any(part in f".{name}" for part in ONCE_A_CLIP))

    # --- passes over all chunks in parallel -------------------------------------------------------------------------------

    def parallel(self, first: int, chunks: int, words: int) -> int:
        """One `forward` over these chunks with a dense mask and so many words: the context copy without its last chunk, the noisy copy."""
        now, both = self.copies(first, chunks)
        keys = _all(both) + self.sink_copies(first, chunks)
        return self._forward(now, both, _all(both) * keys, _all(now) * keys, words, chunks)

    def training(self, chunks: int, words: int) -> int:
        """A step of flow matching on one clip: a forward, and a backward of twice its work. Pairs that the mask forbids do not count."""
        at = [_all(self.tokens(k)) for k in range(chunks)]
        noisy = [at[k] * (self.cells + sum(at[max(0, k - self.config.window) : k + 1])) for k in range(chunks)]
        context = self.cells * self.cells + sum(noisy[:-1])  # a clean token reads as much as a noisy one of its chunk
        return 3 * self._forward(*self.copies(0, chunks), context + sum(noisy), sum(noisy), words, chunks)

    def _forward(self, now: Tokens, both: Tokens, pairs: int, last_pairs: int, words: int, chunks: int) -> int:
        """now: tokens of the noisy copy, which alone go through the last layer; pairs: in every other layer."""
        of_all: Tokens = dict.fromkeys(self.modalities, words)
        total = self._pass(both, pairs, of_all, rows=1 + chunks) - (pairs - last_pairs) * 2 * self.inner
        skipped = self._after_values({m: both[m] - now[m] for m in self.modalities}, of_all)
        return total - skipped + sum(self._text(m, words) for m in self.modalities)

    def copies(self, first: int, chunks: int) -> tuple[Tokens, Tokens]:
        """Tokens of the noisy copy, and of both copies with the first frame."""
        span = range(first, first + chunks)
        now = {m: sum(self.tokens(k)[m] for k in span) for m in self.modalities}
        both = {m: now[m] + sum(self.tokens(k)[m] for k in span[:-1]) for m in self.modalities}
        return now, both | ({"video": both["video"] + self.cells} if "video" in both else {})

    def sink_copies(self, first: int, chunks: int) -> int:
        """Keys that the sink adds to a pass over these chunks: it stands there again for every place that it takes."""
        low, high = (max(0, k - self.config.window) for k in (first, first + chunks - 1))
        return self.cells * max(0, high - max(1, low) + 1)

    # --- parts ------------------------------------------------------------------------------------------------------------

    def _pass(self, tokens: Tokens, pairs: int, words: Tokens, rows: int) -> int:
        """rows: distinct times, each of which is embedded once."""
        total = self.config.depth * pairs * 2 * self.inner
        for m, n in tokens.items():
            width, features, ffn, options = self.branch(m)
            total += n * 2 * features * width
            total += rows * self._times(m) + rows * (2 * width * width if options.head == "projection" else 0)
            layer = n * 4 * self.inner * width + n * 2 * self.inner * width + n * self._reading(m, words[m]) + n * 2 * ffn * width
            total += self.config.depth * layer
        return total

    def _commit(self, tokens: Tokens, keys: int, words: Tokens) -> int:
        total = self._pass(tokens, _all(tokens) * keys, words, rows=1) - _all(tokens) * keys * 2 * self.inner
        for m in tokens:
            width, _, _, options = self.branch(m)
            total -= 2 * width * width if options.head == "projection" else 0
        return total - self._after_values(tokens, words)

    def _after_values(self, tokens: Tokens, words: Tokens) -> int:
        """What tokens cost from the last layer's keys and values on, without the joint attention."""
        total = 0
        for m, n in tokens.items():
            width, features, ffn, _ = self.branch(m)
            total += n * (features * width + 3 * self.inner * width + self._reading(m, words[m]) + 2 * ffn * width)
        return total

    def _times(self, m: str) -> int:
        width, _, _, options = self.branch(m)
        return 2 * (options.time_features * width + width * width) + 6 * width * width

    def _reading(self, m: str, words: int) -> int:
        """Text attention of one token in one layer."""
        if self.branch(m)[3].caption_features:
            return (self.caption + words + 1) * 2 * self.inner
        return (1 + self.caption + words) * 4 * self.inner  # keys and values are twice as wide

    def _text(self, m: str, words: int) -> int:
        """The text of a clip with its keys and values for every layer."""
        width, _, _, options = self.branch(m)
        total = words * 2 * width * width + words * width
        if options.caption_features:
            total += self.caption * (options.caption_features * width + width * width)
            return total + self.config.depth * (self.caption + words) * width * 2 * self.inner
        return total + self.caption * 2 * width * width + self.config.depth * (1 + self.caption + words) * width * 2 * self.inner

    def _heard(self, chunk: int) -> Tokens:
        """Words among the keys of a chunk in a stream: those near it, in portions."""
        c, every = self.config, len(self.words_time_W2)
        seen = word_mask(torch.tensor([chunk]), self.words_time_W2[None], float(self.clock.chunk), c.window, c.word_lookahead_s)
        return dict.fromkeys(self.modalities, words_kept(int(seen.sum()), every))

    def branch(self, m: str) -> tuple[int, int, int, BranchConfig]:
        """Width, features of a token, width of the feed-forward, options."""
        c, options = self.config, self.config.branch(m)
        width, features = (c.video_width, c.video_channels * c.patch**2) if m == "video" else (c.audio_width, c.audio_channels)
        return width, features, options.ffn_width or c.ffn_ratio * width, options


def new_tokens(config: TransformerConfig, batch: AVBatch) -> int:
    """What a batch has the network predict: video tokens (patches) and audio latents of its real chunks. The first frame, the clean history
    and the padding of shorter clips do not count.
    """
    clock, chunks = batch.layout.timeline, batch.chunks_B or (batch.layout.chunks,) * batch.latents.batch
    each = {"video": lambda n: _cells(config, batch) * clock.chunk_video * n, "audio": clock.audio_latents}
    return sum(each[name](n) for name, _ in batch.latents.items() for n in chunks)


def step_flops(config: TransformerConfig, batch: AVBatch, objective: ObjectiveConfig, mutual: bool) -> float:
    """FLOPs that the method asks of the trainer for a batch of both modalities: forwards and backwards of its losses. Recomputed
    activations, health signals and the optimizer do not count, and neither do rollouts.
    """
    features, caption_BWL = batch.controls.caption_features_BLE, batch.controls.caption_BWL
    caption = (caption_BWL if features is None else features).shape[1]
    rows, columns = batch.latents.get("video").shape[-2:]
    preset, words = Preset(config, batch.layout.timeline), batch.controls.words_BWL.shape[1]
    chunks = batch.chunks_B or (batch.layout.chunks,) * batch.latents.batch
    forwards = sum(objective.forward_equivalents().values()) if mutual else 3.0
    return 2 * sum(_training(preset, rows, columns, caption, n, words) for n in chunks) * forwards / 3


@lru_cache(maxsize=64)
def _training(preset: Preset, rows: int, columns: int, caption: int, chunks: int, words: int) -> int:
    return Arithmetic(preset, rows, columns, torch.empty(0, 2), caption).training(chunks, words)


def _cells(config: TransformerConfig, batch: AVBatch) -> int:
    rows, columns = batch.latents.get("video").shape[-2:]
    return -(-rows // config.patch) * -(-columns // config.patch)


def _all(tokens: Tokens) -> int:
    return sum(tokens.values())
