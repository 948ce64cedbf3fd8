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
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import attention
from .blocks import Block, BranchConfig
from .branch import Branch, Placement, Text, stay
from .cache import KVCache, Window
from .execution import PLAIN, ExecutionConfig, compiled
from .mask import Tokens, word_mask
from .patches import grid, patched, unpatched
from .path import per_latent, preconditioned
from .plan import Planner, Spot, before_last, joint
from .rope import RopeConfig, Rotation, rotate
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

    def build(self, modality: str, place: Placement = stay) -> Branch:
        """A new branch, its weights drawn at random."""
        features = {"video": self.video_channels * self.patch**2, "audio": self.audio_channels}[modality]
        width, options = {"video": self.video_width, "audio": self.audio_width}[modality], self.branch(modality)
        ffn_width = options.ffn_width or self.ffn_ratio * width
        branch = Branch(features, width, self.depth, self.heads, self.head_dim, ffn_width, self.text.max_bytes, options, place)
        place(branch)
        return branch


@dataclass(frozen=True)
class _Seat:
    """A spot of certain clips: `text_BNW` is 0 where a token may read a token of their text, and -inf elsewhere."""

    spot: Spot
    text_BNW: Tensor


Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries, keys, values) of all tokens of a pass, [B, N, M, D] unrotated -> what the queries read."""


@dataclass(frozen=True)
class _Moving:
    """What every pass over the chunk in progress shares."""

    chunk: int
    shapes: tuple[torch.Size, ...]
    tokens: Tokens
    seats: dict[str, _Seat]
    text: dict[str, Text]
    turn: Rotation
    window: Window


@dataclass
class Stream:
    """State of chunk-by-chunk generation for B clips: the text, when its words are spoken, the cache, and the chunk in progress."""

    text: dict[str, Text]
    words_time_BW2: Tensor
    cache: KVCache
    moving: _Moving | None = None


class AVTransformer(nn.Module):
    """See the module docstring; `timeline` gives the clock, so a network belongs to one pair of latent rates."""

    def __init__(self, config: TransformerConfig, timeline: Timeline, execution: ExecutionConfig = PLAIN, place: Placement = stay) -> None:
        super().__init__()
        self.config, self.timeline, self.execution = config, timeline, execution
        self.branches = nn.ModuleDict({name: config.build(name, place) for name in MODALITIES})
        # One function for all blocks: a compiled method of each would be compiled as often as there are blocks.
        halves: list[Callable[..., Any]] = [Block.before, Block.after]
        self._before, self._after = (compiled(half) if execution.compile else half for half in halves)
        self._planner = Planner(timeline, config.patch, config.window, config.head_dim, config.rope, execution.attention)

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
        self._check(context, layout, with_first_frame=True)
        self._check(noisy, layout, with_first_frame=False)
        before = before_last(context, layout)
        plan = self._planner.both(before, noisy, layout, self._like)
        text = {name: self._text(name, controls) for name, _ in noisy.items()}
        x = {name: torch.cat([self._embedded(before.get(name), name), self._embedded(n, name)], dim=1) for name, n in noisy.items()}

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return plan.attention(rotate(q, plan.turn), rotate(plan.copied(k), plan.key_turn), plan.copied(v))

        return self._velocities(noisy, t, r, layout, self._layers(x, self._times(t, r), self._seats(plan.spots, text), text, attend))

    @torch.no_grad()
    def read(self, context: AV, controls: Controls, layout: Layout) -> Reading:
        """Read a past once: (noisy, t, r) -> what `forward` gives without gradient, for the cost of the noisy tokens alone.

        The keys and values of the past depend on the weights of this moment, so a reading is of no use after an optimizer step.
        """
        self._check(context, layout, with_first_frame=True)
        before = before_last(context, layout)
        past = self._planner.past(before, layout, self._like)
        text = {name: self._text(name, controls) for name, _ in context.items()}
        x = {name: self._embedded(y, name) for name, y in before.items()}
        held: list[tuple[Tensor, Tensor]] = []

        def remember(layer: int, k: Tensor, v: Tensor) -> None:
            held.append((rotate(past.copied(k), past.key_turn), past.copied(v)))

        def attend_past(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return past.attention(rotate(q, past.turn), *held[layer])

        none = before.map(lambda c: torch.zeros(c.shape[0], 0, device=c.device))
        self._layers(x, self._times(none, none), self._seats(past.spots, text), text, attend_past, remember)

        @torch.no_grad()
        def velocity(noisy: AV, t: AV, r: AV) -> AV:
            now = self._planner.present(before, noisy, layout, self._like)

            def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                past_k, past_v = held[layer]
                return now.attention(rotate(q, now.turn), torch.cat([past_k, rotate(k, now.turn)], dim=1), torch.cat([past_v, v], dim=1))

            x = {name: self._embedded(n, name) for name, n in noisy.items()}
            return self._velocities(noisy, t, r, layout, self._layers(x, self._times(t, r), self._seats(now.spots, text), text, attend))

        return velocity

    # --- chunk by chunk ---------------------------------------------------------------------------------------------------

    def start(self, controls: Controls, modalities: tuple[str, ...] = MODALITIES) -> Stream:
        """A stream of new clips under `controls`."""
        cache = KVCache(self.config.depth, self.config.window, float(self.timeline.chunk))
        return Stream({name: self._text(name, controls) for name in modalities}, controls.words_time_BW2.cpu(), cache)

    @torch.no_grad()
    def commit(self, clean: AV, chunk: int, stream: Stream) -> None:
        """Append the clean latents of a chunk (chunk -1: the first frame alone) to the stream's history.

        Raises:
            ValueError: the chunk does not follow the last one, a modality is missing, or the latents are of another rate or codec.
        """
        zero = clean.map(lambda x: torch.zeros(x.shape[0], 1, device=x.device))
        now, turned = self._at(clean, chunk, stream, once=True), list[Tensor]()  # what its evaluations shared serves once more

        def remember(layer: int, k: Tensor, v: Tensor) -> None:
            turned.append(rotate(k, now.turn))
            stream.cache.write(layer, k if chunk == FIRST_FRAME_CHUNK else turned[layer], v)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(rotate(q, now.turn), *now.window.read(layer, turned[layer], v))

        patches = {name: self._embedded(x, name) for name, x in clean.items()}
        self._layers(patches, _pairs(zero, zero), now.seats, now.text, attend, remember)
        stream.cache.commit(chunk, now.tokens)
        stream.moving = None

    @torch.no_grad()
    def velocity(self, noisy: AV, t: AV, r: AV, chunk: int, stream: Stream) -> AV:
        """Velocity of the chunk in progress, given the committed history; t, r: [B, 1] a modality. Raises as `commit` does."""
        now = stream.moving = self._at(noisy, chunk, stream, once=False)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(rotate(q, now.turn), *now.window.read(layer, rotate(k, now.turn), v))

        patches = {name: self._embedded(x, name) for name, x in noisy.items()}
        out = self._layers(patches, _pairs(t, r), now.seats, now.text, attend)
        return self._velocities(noisy, t, r, Layout(self.timeline, 1, first=chunk), out)

    def _at(self, x: AV, chunk: int, stream: Stream, once: bool) -> _Moving:
        """What all passes over a chunk share: that of the chunk in progress, if it is this one. once: no pass will follow.

        Raises:
            ValueError: the chunk does not follow the last one, a modality is missing, or there are more or fewer latents than it has.
        """
        shapes = tuple(y.shape for _, y in x.items())
        if stream.moving is not None and (stream.moving.chunk, stream.moving.shapes) == (chunk, shapes):
            return stream.moving
        stream.moving = None  # first: it holds as much as the cache
        if stream.cache.chunks and chunk != (following := stream.cache.chunks[-1] + 1):
            raise ValueError(f"chunk {chunk}: the stream's last is {following - 1}; give chunk {following}, or start another stream")
        given, wanted = [name for name, _ in x.items()], ["video"] if chunk == FIRST_FRAME_CHUNK else list(stream.text)
        if given != wanted:
            raise ValueError(f"chunk {chunk}: has latents of {', '.join(given)}, this stream of {', '.join(wanted)}; give these")
        spots = self._planner.spots_of_chunk(x, chunk, self._like)
        for name, x_m in x.items():
            rows, columns = grid(x_m, self.config.patch)
            _expect(name, x_m, len(spots[name].tokens) // (rows * columns), f"chunk {chunk}")
        tokens, sink, text = joint(spots), stream.cache.sink(chunk), self._spoken_near(chunk, stream)
        window = Window(stream.cache, None if sink is None else self._planner.rotation(sink, self._like), once)
        return _Moving(chunk, shapes, tokens, self._seats(spots, text), text, self._planner.rotation(tokens, self._like), window)

    def _spoken_near(self, chunk: int, stream: Stream) -> dict[str, Text]:
        """The text with the words that a chunk can see in any clip: the cost of a chunk must not grow with the transcript."""
        visible_BNW = word_mask(torch.tensor([chunk]), stream.words_time_BW2, *self._hearing)
        seen_W = visible_BNW.any(dim=0)[0]
        if 2 * int(seen_W.sum()) > len(seen_W):
            return stream.text
        index = torch.nonzero(seen_W)[:, 0].to(self._like.device, non_blocking=True)
        return {name: text.of_words(index) for name, text in stream.text.items()}

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
        x = dict(x)
        features = {name: self._branch(name).time(*times[name]) for name in seats}
        shared = {name: self._branch(name).modulation(f) for name, f in features.items()}
        every = self.execution.checkpoint_every if torch.is_grad_enabled() else 0
        for layer in range(self.config.depth):
            if remember is not None and layer + 1 == self.config.depth:
                _, k, v = self._projected(layer, x, shared, seats)[0]
                remember(layer, k, v)
                return {}
            step = partial(self._layer, layer, seats=seats, text=text, attend=attend, remember=remember)
            if every and (layer + 1) % every == 0:
                x = checkpoint(step, x, shared, use_reentrant=False, preserve_rng_state=False)  # nothing in a layer is random
            else:
                x = step(x, shared)
        return {name: self._branch(name).output(x[name], features[name], seat.spot.row) for name, seat in seats.items()}

    def _layer(
        self,
        layer: int,
        x: dict[str, Tensor],
        shared: dict[str, Tensor],
        seats: dict[str, _Seat],
        text: dict[str, Text],
        attend: Attend,
        remember: Callable[[int, Tensor, Tensor], None] | None,
    ) -> dict[str, Tensor]:
        """One layer of all branches around their joint self-attention."""
        (q, k, v), mods = self._projected(layer, x, shared, seats)
        if remember is not None:
            remember(layer, k, v)
        attended = attend(layer, q, k, v).split([len(seat.spot.tokens) for seat in seats.values()], dim=1)
        made = {}
        for (name, seat), a in zip(seats.items(), attended, strict=True):
            read = (*text[name].keys_values[layer], seat.text_BNW, seat.spot.rotation)
            made[name] = self._after(self._block(name, layer), x[name], a, mods[name], read)
        return made

    def _projected(
        self, layer: int, x: dict[str, Tensor], shared: dict[str, Tensor], seats: dict[str, _Seat]
    ) -> tuple[tuple[Tensor, Tensor, Tensor], dict[str, tuple[Tensor, ...]]]:
        """Queries, keys and values of all tokens, and the modulation of each branch."""
        blocks = {name: self._block(name, layer) for name in seats}
        mods = {name: b.offset(shared[name])[:, seats[name].spot.row].unbind(dim=2) for name, b in blocks.items()}
        qkv = [self._before(b, x[name], mods[name]) for name, b in blocks.items()]
        q, k, v = (torch.cat(parts, dim=1) for parts in zip(*qkv, strict=True))
        return (q, k, v), mods

    def _velocities(self, noisy: AV, t: AV, r: AV, layout: Layout, out: dict[str, Tensor]) -> AV:
        """The outputs of the noisy tokens, which stand last, as velocities."""
        at, made = per_latent(t, noisy, layout), {}
        for name, x in noisy.items():
            rows, columns = grid(x, self.config.patch)
            raw = unpatched(out[name][:, -x.shape[1] * rows * columns :], x, self.config.patch)
            direct = self.config.branch(name).prediction == "velocity"
            made[name] = raw.to(x.dtype) if direct else preconditioned(raw, x, at.get(name))
        return AV(**made)

    def _text(self, name: str, controls: Controls) -> Text:
        return self._branch(name).text(controls, self._planner.text_rotation(controls.words_time_BW2.sum(dim=-1) / 2, self._like))

    def _seats(self, spots: dict[str, Spot], text: dict[str, Text]) -> dict[str, _Seat]:
        return {name: _Seat(spot, self._visible(spot, text[name])) for name, spot in spots.items()}

    def _visible(self, spot: Spot, text: Text) -> Tensor:
        """[B, N, W], 0 or -inf: the timeless tokens that exist, and the words within the window; as every layer's kernel adds it."""
        chunk_N, words = spot.tokens.chunk_N.to(self._like.device, non_blocking=True), text.words_time_BW2.shape[1]
        timed = word_mask(chunk_N, text.words_time_BW2, *self._hearing)
        timeless = torch.ones(*timed.shape[:2], text.exists_BW.shape[1] - words, dtype=torch.bool, device=timed.device)
        visible = torch.cat([timeless, timed], dim=-1) & text.exists_BW[:, None]
        return torch.zeros(visible.shape, dtype=self._like.dtype, device=visible.device).masked_fill(~visible, -inf)

    def _times(self, t: AV, r: AV) -> dict[str, tuple[Tensor, Tensor]]:
        """(t, r) of each row of a parallel pass: 0 for clean tokens, then the chunks'."""

        def with_clean(x_BK: Tensor) -> Tensor:
            return torch.cat([x_BK.new_zeros(x_BK.shape[0], 1), x_BK], dim=1)

        return _pairs(t.map(with_clean), r.map(with_clean))

    @property
    def _hearing(self) -> tuple[float, int, float]:
        """How far words are heard: seconds a chunk, chunks back, seconds ahead."""
        return float(self.timeline.chunk), self.config.window, self.config.word_lookahead_s

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

    def _check(self, latents: AV, layout: Layout, with_first_frame: bool) -> None:
        """Refuse latents of another codec or another rate by name: a wrong shape would surface far from its cause."""
        for name, x in latents.items():
            index, _ = layout.video(with_first_frame) if name == "video" else layout.audio()
            _expect(name, x, len(index), f"{layout.chunks * float(self.timeline.chunk):g} s")

    def _embedded(self, x: Tensor, name: str) -> Tensor:
        channels = self.config.video_channels if name == "video" else self.config.audio_channels
        if x.shape[2] != channels:
            raise ValueError(f"{name} latents: {x.shape[2]} channels, where model.{name}_channels={channels}; they are of another codec")
        embed = self._branch(name).embed
        return embed(patched(x, self.config.patch).to(embed.weight.dtype))  # states stay in fp32 when the weights are in bf16


def _pairs(t: AV, r: AV) -> dict[str, tuple[Tensor, Tensor]]:
    """(t, r) a modality."""
    return {name: (x, r.get(name)) for name, x in t.items()}


def _expect(name: str, latents: Tensor, count: int, span: str) -> None:
    if latents.shape[1] != count:
        raise ValueError(f"{name} latents: there are {latents.shape[1]}, timeline gives {count} for {span}; they are of another rate")
