"""The two-branch causal network u_theta(x_t, t, r | K, c) (method 1-3).

Each modality has its own branch (embeddings, projections, norms, feed-forward, text cross-attention); self-attention is joint:
the tokens of both modalities form one sequence. The same layers run in two ways, which agree to floating-point tolerance:

    forward(noisy, context, ...)         all chunks in parallel under the chunk mask (training)
    start / commit / velocity(...)       chunk by chunk with a key/value cache (generation)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Block, Modulation, Offset, TimeEmbedder, modulated
from .cache import KVCache
from .mask import Tokens, attention_mask, word_mask
from .path import per_latent, preconditioned
from .rope import RopeConfig, angles, rotate
from .text import TextConfig, WordEmbedder
from .timeline import FIRST_FRAME_CHUNK, Layout, Timeline
from .types import AV, MODALITIES, Controls


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the network. The branches may differ in width; depth, heads and head_dim are shared (joint attention).

    patch: video latents are cut into patch x patch tokens. window: chunks of history a chunk sees, besides the sink.
    """

    video_channels: int = 32
    audio_channels: int = 128
    video_width: int = 128
    audio_width: int = 128
    depth: int = 4
    heads: int = 4
    head_dim: int = 32
    ffn_ratio: int = 4
    patch: int = 2
    window: int = 8
    word_lookahead_s: float = 0.5
    text: TextConfig = field(default_factory=TextConfig)
    rope: RopeConfig = field(default_factory=RopeConfig)

    def __post_init__(self) -> None:
        for name in ("video_channels", "audio_channels", "video_width", "audio_width", "depth", "heads", "patch", "window", "ffn_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be a positive integer")
        if self.head_dim < 8 or self.head_dim % 8:
            raise ValueError(f"model.head_dim={self.head_dim}: must be a positive multiple of 8 (rotary pairs over three axes)")
        if not 0 <= self.word_lookahead_s < inf:
            raise ValueError(f"model.word_lookahead_s={self.word_lookahead_s}: must be 0 or more seconds")


class Branch(nn.Module):
    """All weights of one modality."""

    def __init__(self, features: int, width: int, config: TransformerConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.time = TimeEmbedder(width)
        self.modulation = Modulation(width, parts=6)
        self.words = WordEmbedder(width, config.text.max_bytes)
        self.word_duration = nn.Linear(1, width)
        self.null = Offset(1, 1, width, std=1.0)
        self.blocks = nn.ModuleList(Block(width, config.heads, config.head_dim, config.ffn_ratio) for _ in range(config.depth))
        self.out_modulation = Modulation(width, parts=2)
        self.out = nn.Linear(width, features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)


@dataclass(frozen=True)
class Text:
    """The text of B clips as one branch sees it: per layer keys and values, and who exists ([B, W] words, timeless ones first)."""

    keys_values: list[tuple[Tensor, Tensor]]
    exists_BW: Tensor
    words_time_BW2: Tensor


@dataclass
class Stream:
    """State of chunk-by-chunk generation for B clips: the text, the cache, and the next chunk."""

    text: dict[str, Text]
    cache: KVCache


@dataclass(frozen=True)
class _Side:
    """One modality on its way through the layers: tokens, their places, and the modulation row of each token."""

    x_BND: Tensor
    tokens: Tokens
    times: tuple[Tensor, Tensor]
    row_N: Tensor


Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class AVTransformer(nn.Module):
    """See the module docstring; `timeline` gives the clock, so a network belongs to one pair of latent rates."""

    def __init__(self, config: TransformerConfig, timeline: Timeline) -> None:
        super().__init__()
        self.config, self.timeline = config, timeline
        self.branches = nn.ModuleDict(
            {
                "video": Branch(config.video_channels * config.patch**2, config.video_width, config),
                "audio": Branch(config.audio_channels, config.audio_width, config),
            }
        )

    def branch_parameters(self, modalities: tuple[str, ...]) -> list[nn.Parameter]:
        """Parameters of the named branches (a unimodal stage trains one)."""
        return [p for name, p in self.named_parameters() if name.split(".")[1] in modalities]

    def parameter_groups(self, modalities: tuple[str, ...], interval_ratio: float) -> list[tuple[float, list[nn.Parameter]]]:
        """Those parameters in two groups with the ratios of their learning rates: 1 for the shared weights, `interval_ratio` for what
        tells the few-step mode from the multi-step mode.
        """
        interval = {id(p) for name in modalities for p in self._branch(name).time.end.parameters()}
        every = self.branch_parameters(modalities)
        return [(1.0, [p for p in every if id(p) not in interval]), (interval_ratio, [p for p in every if id(p) in interval])]

    # --- all chunks in parallel -------------------------------------------------------------------------------------------

    def forward(self, noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        """Velocity of every noisy chunk given the clean context before it.

        noisy: predicted latents (no first frame); context: history with the first frame as video latent 0, same clips;
        t, r: [B, K] times a modality, 0 <= r <= t <= 1. Returns velocities in the shapes of `noisy`.
        """
        sides: dict[str, _Side] = {}
        for name, noisy_m in noisy.items():
            clean = self._patches(context.get(name), name)
            tokens = self._tokens(context.get(name), layout, clean=True)
            keep = tokens.chunk_N < layout.first + layout.chunks - 1  # nothing attends to the last chunk's context copy
            clean, tokens = clean[:, keep], tokens.select(keep)
            noise_tokens = self._tokens(noisy_m, layout, clean=False)
            sides[name] = _Side(
                torch.cat([clean, self._patches(noisy_m, name)], dim=1),
                tokens.cat(noise_tokens),
                self._with_clean(t.get(name), r.get(name)),
                torch.cat([torch.zeros_like(tokens.chunk_N), noise_tokens.chunk_N - layout.first + 1]),
            )
        attend = self._parallel_attention(sides, layout)
        text = {name: self._text(name, controls) for name in sides}
        out = self._layers(sides, text, attend)
        last = {name: out[name][:, -self._length(x) :] for name, x in noisy.items()}
        raw = AV(**{name: self._unpatch(last[name], x, name) for name, x in noisy.items()})
        return raw.map(preconditioned, noisy, per_latent(t, noisy, layout))

    def _parallel_attention(self, sides: dict[str, _Side], layout: Layout) -> Attend:
        tokens = [side.tokens for side in sides.values()]
        queries = tokens[0].cat(*tokens[1:])
        sink = torch.nonzero(queries.chunk_N == FIRST_FRAME_CHUNK)[:, 0]
        shifts = range(1, max(0, layout.first + layout.chunks - 1 - self.config.window) + 1) if len(sink) else range(0)
        copies = [queries.select(sink).replaced_sink(s, float(self.timeline.chunk)) for s in shifts]
        keys = queries.cat(*copies)
        which = torch.cat([torch.arange(len(queries)), *(sink for _ in copies)])
        device = next(iter(sides.values())).x_BND.device
        mask = attention_mask(queries, keys, self.config.window).to(device)
        q_angles, k_angles, which = self._angles(queries).to(device), self._angles(keys).to(device), which.to(device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if copies:
                k, v = k[:, which], v[:, which]
            return _attention(rotate(q, q_angles), rotate(k, k_angles), v, mask)

        return attend

    # --- chunk by chunk ---------------------------------------------------------------------------------------------------

    def start(self, controls: Controls, modalities: tuple[str, ...] = MODALITIES) -> Stream:
        """A stream of new clips under `controls`."""
        cache = KVCache(self.config.depth, self.config.window, float(self.timeline.chunk))
        return Stream({name: self._text(name, controls) for name in modalities}, cache)

    def commit(self, clean: AV, chunk: int, stream: Stream) -> None:
        """Append the clean latents of a chunk (chunk -1: the first frame alone) to the stream's history."""
        zero = torch.zeros(clean.batch, 0, device=clean.items()[0][1].device)
        sides = {name: self._chunk_side(name, x, chunk, (zero, zero), clean=True) for name, x in clean.items()}
        self._layers(sides, stream.text, self._cached_attention(sides, chunk, stream.cache, remember=True))
        tokens = [side.tokens for side in sides.values()]
        stream.cache.commit(tokens[0].cat(*tokens[1:]))

    def velocity(self, noisy: AV, t: AV, r: AV, chunk: int, stream: Stream) -> AV:
        """Velocity of the chunk in progress, given the committed history; t, r: [B, 1] a modality."""
        sides = {name: self._chunk_side(name, x, chunk, (t.get(name), r.get(name)), clean=False) for name, x in noisy.items()}
        out = self._layers(sides, stream.text, self._cached_attention(sides, chunk, stream.cache, remember=False))
        raw = AV(**{name: self._unpatch(out[name], x, name) for name, x in noisy.items()})
        return raw.map(preconditioned, noisy, per_latent(t, noisy, Layout(self.timeline, 1, first=chunk)))

    def _chunk_side(self, name: str, x: Tensor, chunk: int, times: tuple[Tensor, Tensor], clean: bool) -> _Side:
        if chunk == FIRST_FRAME_CHUNK:
            tokens = self._tokens(x, Layout(self.timeline, 1), clean)
            tokens = tokens.select(tokens.chunk_N == FIRST_FRAME_CHUNK)
        else:
            tokens = self._tokens(x, Layout(self.timeline, 1, first=chunk), clean, with_first_frame=False)
        rows = torch.zeros_like(tokens.chunk_N) if clean else torch.ones_like(tokens.chunk_N)
        return _Side(self._patches(x, name), tokens, self._with_clean(*times), rows)

    def _cached_attention(self, sides: dict[str, _Side], chunk: int, cache: KVCache, remember: bool) -> Attend:
        tokens = [side.tokens for side in sides.values()]
        queries = tokens[0].cat(*tokens[1:])
        past = cache.past(chunk)
        device = next(iter(sides.values())).x_BND.device
        q_angles = self._angles(queries).to(device)
        past_angles = None if past is None else self._angles(past).to(device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if remember:
                cache.write(layer, k, v)
            q, k = rotate(q, q_angles), rotate(k, q_angles)
            if past_angles is not None:
                past_k, past_v = cache.read(layer)
                k, v = torch.cat([rotate(past_k, past_angles), k], dim=1), torch.cat([past_v, v], dim=1)
            return _attention(q, k, v, None)

        return attend

    # --- shared by both ---------------------------------------------------------------------------------------------------

    def _layers(self, sides: dict[str, _Side], text: dict[str, Text], attend: Attend) -> dict[str, Tensor]:
        lengths = [len(side.tokens) for side in sides.values()]
        x = {name: side.x_BND for name, side in sides.items()}
        features = {name: self._branch(name).time(*side.times) for name, side in sides.items()}
        shared = {name: self._branch(name).modulation(f) for name, f in features.items()}
        cross = {name: self._cross(text[name], side) for name, side in sides.items()}
        rows = {name: side.row_N.to(side.x_BND.device) for name, side in sides.items()}
        for layer in range(self.config.depth):
            blocks = {name: self._block(name, layer) for name in sides}
            mods = {name: b.offset(shared[name])[:, rows[name]].unbind(dim=2) for name, b in blocks.items()}
            qkv = [blocks[name].before(x[name], mods[name]) for name in sides]
            attended = attend(layer, *(torch.cat(parts, dim=1) for parts in zip(*qkv, strict=True))).split(lengths, dim=1)
            for (name, block), a in zip(blocks.items(), attended, strict=True):
                x[name] = block.after(x[name], a, mods[name], (*text[name].keys_values[layer], *cross[name]))
        for name in sides:
            shift, scale = self._branch(name).out_modulation(features[name])[:, rows[name]].unbind(dim=2)
            x[name] = self._branch(name).out(modulated(x[name], shift, scale))
        return x

    def _text(self, name: str, controls: Controls) -> Text:
        branch = self._branch(name)
        caption, words = branch.words(controls.caption_BWL), branch.words(controls.words_BWL)
        start, end = controls.words_time_BW2.unbind(dim=-1)
        words = words + branch.word_duration((end - start)[..., None].to(words.dtype))
        null = branch.null(caption.new_zeros(caption.shape[0], 1, caption.shape[2]))  # there even when no caption fits
        timeless = torch.cat([null, caption], dim=1)
        middle = (start + end) / 2
        word_angles = angles(middle, torch.zeros_like(middle), torch.zeros_like(middle), self.config.head_dim, self.config.rope)
        blocks = [self._block(name, layer) for layer in range(self.config.depth)]
        always = controls.caption_mask_BW.new_ones(caption.shape[0], 1)
        return Text(
            [block.cross.keys_values(timeless, words, word_angles) for block in blocks],
            torch.cat([always, controls.caption_mask_BW, controls.words_mask_BW], dim=1),
            controls.words_time_BW2,
        )

    def _cross(self, text: Text, side: _Side) -> tuple[Tensor, Tensor]:
        """Mask [B, N, W] and query angles of the text cross-attention."""
        device, tokens = side.x_BND.device, side.tokens
        words = text.words_time_BW2.shape[1]
        visible = word_mask(
            tokens.chunk_N.to(device), text.words_time_BW2, float(self.timeline.chunk), self.config.window, self.config.word_lookahead_s
        )
        timeless = torch.ones(*visible.shape[:2], text.exists_BW.shape[1] - words, dtype=torch.bool, device=device)
        zero = torch.zeros_like(tokens.row_N)
        time_angles = angles(tokens.time_N, zero, zero, self.config.head_dim, self.config.rope).to(device)
        return torch.cat([timeless, visible], dim=-1) & text.exists_BW[:, None], time_angles

    def _with_clean(self, t_BK: Tensor, r_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Prefix time 0, the modulation row of clean tokens."""
        zero = torch.zeros_like(t_BK[:, :1]) if t_BK.shape[1] else t_BK.new_zeros(t_BK.shape[0], 1)
        return torch.cat([zero, t_BK], dim=1), torch.cat([zero, r_BK], dim=1)

    def _branch(self, name: str) -> Branch:
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        return branch

    def _block(self, name: str, layer: int) -> Block:
        block = self._branch(name).blocks[layer]
        assert isinstance(block, Block)
        return block

    def _angles(self, tokens: Tokens) -> Tensor:
        return angles(tokens.time_N, tokens.row_N, tokens.column_N, self.config.head_dim, self.config.rope)

    def _length(self, x: Tensor) -> int:
        return x.shape[1] if x.dim() == 3 else x.shape[1] * (x.shape[3] // self.config.patch) * (x.shape[4] // self.config.patch)

    def _tokens(self, x: Tensor, layout: Layout, clean: bool, with_first_frame: bool | None = None) -> Tokens:
        if x.dim() == 3:
            chunk, time = layout.audio()
            rows = columns = 1
        else:
            chunk, time = layout.video(clean if with_first_frame is None else with_first_frame)
            rows, columns = x.shape[3] // self.config.patch, x.shape[4] // self.config.patch
        cells, n = rows * columns, len(chunk)
        row = torch.arange(rows).repeat_interleave(columns).repeat(n).float() if x.dim() == 5 else torch.zeros(n)
        column = torch.arange(columns).repeat(rows * n).float() if x.dim() == 5 else torch.zeros(n)
        chunk, time = chunk.repeat_interleave(cells), time.repeat_interleave(cells)
        return Tokens(chunk, torch.full_like(chunk, clean, dtype=torch.bool), time, row, column, torch.zeros_like(chunk))

    def _patches(self, x: Tensor, name: str) -> Tensor:
        if x.dim() == 5:
            p = self.config.patch
            b, f, c, h, w = x.shape
            x = x.reshape(b, f, c, h // p, p, w // p, p).permute(0, 1, 3, 5, 2, 4, 6).reshape(b, f * (h // p) * (w // p), c * p * p)
        embed = self._branch(name).embed
        return embed(x.to(embed.weight.dtype))  # states stay in fp32 when the weights are in bf16

    def _unpatch(self, x_BNC: Tensor, like: Tensor, name: str) -> Tensor:
        if name == "audio":
            return x_BNC
        p = self.config.patch
        b, f, c, h, w = like.shape
        return x_BNC.reshape(b, f, h // p, w // p, c, p, p).permute(0, 1, 4, 2, 5, 3, 6).reshape(b, f, c, h, w)


def _attention(q_BNMD: Tensor, k_BNMD: Tensor, v_BNMD: Tensor, mask: Tensor | None) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q_BNMD, k_BNMD, v_BNMD))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
