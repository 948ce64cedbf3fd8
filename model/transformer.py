"""The two-branch causal network u_theta(x_t, t, r | K, c) (method 1-3).

Each modality has its own branch (embeddings, projections, norms, feed-forward, text cross-attention); self-attention is joint:
the tokens of both modalities form one sequence. The same layers run in three ways, which agree to floating-point tolerance:

    forward(noisy, context, ...)         all chunks in parallel under the chunk mask (training)
    read(context, ...)(noisy, ...)       the same without gradient, the context once for several velocities (targets)
    start / commit / velocity(...)       chunk by chunk with a key/value cache (generation)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Block, BranchConfig
from .branch import Branch, Text
from .cache import KVCache, Window
from .mask import Tokens, attention_mask, word_mask
from .path import per_latent, preconditioned
from .rope import RopeConfig, Rotation, rotate, rotation
from .text import TextConfig
from .timeline import FIRST_FRAME_CHUNK, Layout, Timeline
from .types import AV, MODALITIES, Controls, Reading


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the network. The branches may differ in width; depth, heads and head_dim are shared (joint attention).

    patch: video latents are cut into patch x patch tokens. window: chunks of history a chunk sees, besides the sink. video, audio: what
    that branch does as a pretrained network does it.
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
    video: BranchConfig = BranchConfig()
    audio: BranchConfig = BranchConfig()

    def __post_init__(self) -> None:
        for name in ("video_channels", "audio_channels", "video_width", "audio_width", "depth", "heads", "patch", "window", "ffn_ratio"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)}: must be a positive integer")
        if self.head_dim < 8 or self.head_dim % 8:
            raise ValueError(f"model.head_dim={self.head_dim}: must be a positive multiple of 8 (rotary pairs over three axes)")
        if not 0 <= self.word_lookahead_s < inf:
            raise ValueError(f"model.word_lookahead_s={self.word_lookahead_s}: must be 0 or more seconds")
        for name in MODALITIES:
            self.branch(name).check(f"model.{name}")

    def branch(self, modality: str) -> BranchConfig:
        """The choices of one branch."""
        return {"video": self.video, "audio": self.audio}[modality]

    def build(self, modality: str) -> Branch:
        """A new branch, its weights drawn at random."""
        features = {"video": self.video_channels * self.patch**2, "audio": self.audio_channels}[modality]
        width, options = {"video": self.video_width, "audio": self.audio_width}[modality], self.branch(modality)
        ffn_width = options.ffn_width or self.ffn_ratio * width
        return Branch(features, width, self.depth, self.heads, self.head_dim, ffn_width, self.text.max_bytes, options)


@dataclass(frozen=True)
class _Seat:
    """Where the tokens of one modality stand: their places, modulation rows, and mask [B, N, W] and rotation for the text."""

    tokens: Tokens
    row_N: Tensor
    words_BNW: Tensor
    rotation: Rotation


Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries, keys, values) of all tokens of a pass, [B, N, M, D] unrotated -> what the queries read."""


@dataclass(frozen=True)
class _Moving:
    """What every evaluation of the chunk in progress shares."""

    chunk: int
    seats: dict[str, _Seat]
    attend: Attend


@dataclass
class Stream:
    """State of chunk-by-chunk generation for B clips: the text, the cache, and the chunk in progress."""

    text: dict[str, Text]
    cache: KVCache
    moving: _Moving | None = None


class AVTransformer(nn.Module):
    """See the module docstring; `timeline` gives the clock, so a network belongs to one pair of latent rates."""

    def __init__(self, config: TransformerConfig, timeline: Timeline) -> None:
        super().__init__()
        self.config, self.timeline = config, timeline
        self.branches = nn.ModuleDict({name: config.build(name) for name in MODALITIES})

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
        text = {name: self._text(name, controls) for name, _ in noisy.items()}
        x: dict[str, Tensor] = {}
        seats: dict[str, _Seat] = {}
        for name, noisy_m in noisy.items():
            clean, places = self._context(context.get(name), name, layout)
            x[name] = torch.cat([clean, self._patches(noisy_m, name)], dim=1)
            seats[name] = self._seat(places.cat(self._tokens(noisy_m, layout, clean=False)), layout, text[name])
        queries = _joint(seats)
        keys, which = self._with_sink_copies(queries, layout)
        turn, key_turn = self._rotation(queries), self._rotation(keys)
        mask, which = attention_mask(queries, keys, self.config.window).to(noisy.device), which.to(noisy.device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if len(keys) > len(queries):
                k, v = k[:, which], v[:, which]
            return _attention(rotate(q, turn), rotate(k, key_turn), v, mask)

        return self._velocities(noisy, t, r, layout, self._layers(x, self._times(t, r), seats, text, attend))

    @torch.no_grad()
    def read(self, context: AV, controls: Controls, layout: Layout) -> Reading:
        """Read a past once: (noisy, t, r) -> what `forward` gives without gradient, for the cost of the noisy tokens alone.

        The keys and values of the past depend on the weights of this moment, so a reading is of no use after an optimizer step.
        """
        text = {name: self._text(name, controls) for name, _ in context.items()}
        x: dict[str, Tensor] = {}
        seats: dict[str, _Seat] = {}
        for name, clean_m in context.items():
            x[name], places = self._context(clean_m, name, layout)
            seats[name] = self._seat(places, layout, text[name])
        past = _joint(seats)
        keys, which = self._with_sink_copies(past, layout)
        turn, key_turn = self._rotation(past), self._rotation(keys)
        mask, which = attention_mask(past, keys, self.config.window).to(context.device), which.to(context.device)
        held: list[tuple[Tensor, Tensor]] = []

        def remember(layer: int, k: Tensor, v: Tensor) -> None:
            held.append((rotate(k[:, which], key_turn), v[:, which]))

        def attend_past(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return _attention(rotate(q, turn), *held[layer], mask)

        none = context.map(lambda c: torch.zeros(c.shape[0], 0, device=c.device))
        self._layers(x, self._times(none, none), seats, text, attend_past, remember)

        @torch.no_grad()
        def velocity(noisy: AV, t: AV, r: AV) -> AV:
            seats = {name: self._seat(self._tokens(n, layout, clean=False), layout, text[name]) for name, n in noisy.items()}
            queries = _joint(seats)
            turn = self._rotation(queries)
            mask = attention_mask(queries, keys.cat(queries), self.config.window).to(noisy.device)

            def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                past_k, past_v = held[layer]
                return _attention(rotate(q, turn), torch.cat([past_k, rotate(k, turn)], dim=1), torch.cat([past_v, v], dim=1), mask)

            patches = {name: self._patches(n, name) for name, n in noisy.items()}
            return self._velocities(noisy, t, r, layout, self._layers(patches, self._times(t, r), seats, text, attend))

        return velocity

    def _context(self, x: Tensor, name: str, layout: Layout) -> tuple[Tensor, Tokens]:
        """Tokens of the context copy, without its last chunk, which nothing attends to."""
        places = self._tokens(x, layout, clean=True)
        keep = places.chunk_N < layout.first + layout.chunks - 1
        return self._patches(x, name)[:, keep], places.select(keep)

    def _with_sink_copies(self, tokens: Tokens, layout: Layout) -> tuple[Tokens, Tensor]:
        """The tokens, then the sink once for every place that it takes while the window rolls; and which token each of them is."""
        sink = torch.nonzero(tokens.chunk_N == FIRST_FRAME_CHUNK)[:, 0]
        shifts = range(1, max(0, layout.first + layout.chunks - 1 - self.config.window) + 1) if len(sink) else range(0)
        copies = [tokens.select(sink).replaced_sink(s, float(self.timeline.chunk)) for s in shifts]
        return tokens.cat(*copies), torch.cat([torch.arange(len(tokens)), *(sink for _ in copies)])

    # --- chunk by chunk ---------------------------------------------------------------------------------------------------

    def start(self, controls: Controls, modalities: tuple[str, ...] = MODALITIES) -> Stream:
        """A stream of new clips under `controls`."""
        cache = KVCache(self.config.depth, self.config.window, float(self.timeline.chunk))
        return Stream({name: self._text(name, controls) for name in modalities}, cache)

    @torch.no_grad()
    def commit(self, clean: AV, chunk: int, stream: Stream) -> None:
        """Append the clean latents of a chunk (chunk -1: the first frame alone) to the stream's history."""
        none = clean.map(lambda x: torch.zeros(x.shape[0], 0, device=x.device))
        plan = self._moving(clean, chunk, stream, clean=True)
        patches = {name: self._patches(x, name) for name, x in clean.items()}
        self._layers(patches, self._times(none, none), plan.seats, stream.text, plan.attend, stream.cache.write)
        stream.cache.commit(_joint(plan.seats))
        stream.moving = None

    @torch.no_grad()
    def velocity(self, noisy: AV, t: AV, r: AV, chunk: int, stream: Stream) -> AV:
        """Velocity of the chunk in progress, given the committed history; t, r: [B, 1] a modality."""
        if stream.moving is None or stream.moving.chunk != chunk:
            stream.moving = self._moving(noisy, chunk, stream, clean=False)
        patches = {name: self._patches(x, name) for name, x in noisy.items()}
        out = self._layers(patches, self._times(t, r), stream.moving.seats, stream.text, stream.moving.attend)
        return self._velocities(noisy, t, r, Layout(self.timeline, 1, first=chunk), out)

    def _moving(self, x: AV, chunk: int, stream: Stream, clean: bool) -> _Moving:
        layout = Layout(self.timeline, 1, first=max(chunk, 0))
        seats = {}
        for name, x_m in x.items():
            places = self._tokens(x_m, layout, clean, with_first_frame=chunk == FIRST_FRAME_CHUNK)
            seats[name] = self._seat(places.select(places.chunk_N == chunk), layout, stream.text[name])
        tokens, past = _joint(seats), stream.cache.past(chunk)
        turn = self._rotation(tokens)
        window = Window(stream.cache, None if past is None else self._rotation(past))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return _attention(rotate(q, turn), *window.read(layer, rotate(k, turn), v), None)

        return _Moving(chunk, seats, attend)

    # --- shared by all ----------------------------------------------------------------------------------------------------

    def _layers(
        self,
        x: dict[str, Tensor],
        times: dict[str, tuple[Tensor, Tensor]],
        seats: dict[str, _Seat],
        text: dict[str, Text],
        attend: Attend,
        remember: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> dict[str, Tensor]:
        """Tokens [B, N, D] of each modality -> outputs; with `remember`, only as far as the last layer's keys and values."""
        lengths = [len(seat.tokens) for seat in seats.values()]
        x = dict(x)
        features = {name: self._branch(name).time(*times[name]) for name in seats}
        shared = {name: self._branch(name).modulation(f) for name, f in features.items()}
        for layer in range(self.config.depth):
            blocks = {name: self._block(name, layer) for name in seats}
            mods = {name: b.offset(shared[name])[:, seats[name].row_N].unbind(dim=2) for name, b in blocks.items()}
            qkv = [blocks[name].before(x[name], mods[name]) for name in seats]
            q, k, v = (torch.cat(parts, dim=1) for parts in zip(*qkv, strict=True))
            if remember is not None:
                remember(layer, k, v)
                if layer + 1 == self.config.depth:
                    return {}
            attended = attend(layer, q, k, v).split(lengths, dim=1)
            for (name, block), a in zip(blocks.items(), attended, strict=True):
                seat = seats[name]
                x[name] = block.after(x[name], a, mods[name], (*text[name].keys_values[layer], seat.words_BNW, seat.rotation))
        return {name: self._branch(name).output(x[name], features[name], seat.row_N) for name, seat in seats.items()}

    def _velocities(self, noisy: AV, t: AV, r: AV, layout: Layout, out: dict[str, Tensor]) -> AV:
        """The outputs of the noisy tokens, which stand last, as velocities."""
        at, made = per_latent(t, noisy, layout), {}
        for name, x in noisy.items():
            raw = self._unpatch(out[name][:, -self._length(x) :], x, name)
            direct = self.config.branch(name).prediction == "velocity"
            made[name] = raw.to(x.dtype) if direct else preconditioned(raw, x, at.get(name))
        return AV(**made)

    def _text(self, name: str, controls: Controls) -> Text:
        middle = controls.words_time_BW2.sum(dim=-1) / 2
        zero = torch.zeros_like(middle)
        return self._branch(name).text(controls, rotation(middle, zero, zero, self.config.head_dim, self.config.rope, self._like))

    def _seat(self, tokens: Tokens, layout: Layout, text: Text) -> _Seat:
        device, words = self._like.device, text.words_time_BW2.shape[1]
        visible = word_mask(
            tokens.chunk_N.to(device), text.words_time_BW2, float(self.timeline.chunk), self.config.window, self.config.word_lookahead_s
        )
        timeless = torch.ones(*visible.shape[:2], text.exists_BW.shape[1] - words, dtype=torch.bool, device=device)
        mask = torch.cat([timeless, visible], dim=-1) & text.exists_BW[:, None]
        row_N = torch.where(tokens.clean_N, 0, tokens.chunk_N - layout.first + 1).to(device)
        zero = torch.zeros_like(tokens.time_N)
        turn = rotation(tokens.time_N, zero, zero, self.config.head_dim, self.config.rope, self._like)
        return _Seat(tokens, row_N, mask, turn)

    def _times(self, t: AV, r: AV) -> dict[str, tuple[Tensor, Tensor]]:
        """(t, r) of each modulation row: 0 for clean tokens, then the chunks'."""

        def with_clean(x_BK: Tensor) -> Tensor:
            return torch.cat([x_BK.new_zeros(x_BK.shape[0], 1), x_BK], dim=1)

        return {name: (with_clean(t_BK), with_clean(r.get(name))) for name, t_BK in t.items()}

    @property
    def _like(self) -> Tensor:
        """A parameter, for device and dtype."""
        return next(self.parameters())

    def _branch(self, name: str) -> Branch:
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        return branch

    def _block(self, name: str, layer: int) -> Block:
        return self._branch(name).block(layer)

    def _rotation(self, tokens: Tokens) -> Rotation:
        return rotation(tokens.time_N, tokens.row_N, tokens.column_N, self.config.head_dim, self.config.rope, self._like)

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


def _joint(seats: dict[str, _Seat]) -> Tokens:
    """The tokens of all modalities as the joint attention sees them."""
    first, *rest = (seat.tokens for seat in seats.values())
    return first.cat(*rest)
