"""The layers of the two-branch network u_theta(x_t, t, r | K, c) (method 1-3), and what every way of running them shares.

Each modality has its own branch (embeddings, projections, norms, feed-forward, text cross-attention); self-attention is joint:
the tokens of both modalities form one sequence. Who attends to whom is the caller's: `transformer` runs the layers over all chunks in
parallel, `stream` chunk by chunk.
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

from .blocks import Block, BranchConfig, taken
from .branch import Branch, Placement, Text, stay
from .execution import PLAIN, ExecutionConfig, compiled
from .mask import word_mask
from .patches import grid, patched, unpatched
from .path import per_latent, preconditioned
from .plan import Planner, Spot
from .rope import RopeConfig, rotate
from .text import TextConfig
from .timeline import Layout, Timeline
from .types import AV, MODALITIES, Controls, sent


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the network. The branches may differ in width; depth, heads and head_dim are shared (joint attention).

    video_channels, audio_channels: of the latents, equal to the codec's. video_width, audio_width: features of a token in that branch.
    depth: layers. heads: of attention. head_dim: features of a head, a multiple of 8. ffn_ratio: width of a feed-forward layer over the
    branch's. patch: video latents are cut into patch x patch tokens. window: chunks of history a chunk sees, besides the sink.
    word_lookahead_s: seconds after its end from which a chunk still sees words.
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
class Seat:
    """A spot of certain clips: `text_BNW` is 0 where a token may read a token of their text, and -inf elsewhere."""

    spot: Spot
    text_BNW: Tensor


Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries, keys, values) of all tokens of a pass, [B, N, M, D] unrotated -> what the queries read."""


class Trunk(nn.Module):
    """See the module docstring; `timeline` gives the clock, so a network belongs to one pair of latent rates."""

    def __init__(self, config: TransformerConfig, timeline: Timeline, execution: ExecutionConfig = PLAIN, place: Placement = stay) -> None:
        super().__init__()
        self.config, self.timeline, self.execution = config, timeline, execution
        self.branches = nn.ModuleDict({name: config.build(name, place) for name in MODALITIES})
        # One function for all blocks: a compiled method of each would be compiled as often as there are blocks.
        way: Callable[[Callable[..., Any]], Callable[..., Any]] = compiled if execution.compile else lambda function: function
        self._before, self._after, self.rotated = way(Block.before), way(Block.after), way(rotate)
        self.planner = Planner(timeline, config.patch, config.window, config.head_dim, config.rope, execution.attention)

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

    def layers(
        self,
        x: dict[str, Tensor],
        times: dict[str, tuple[Tensor, Tensor]],
        seats: dict[str, Seat],
        text: dict[str, Text],
        attend: Attend,
        remember: Callable[[int, Tensor, Tensor], None] | None = None,
        last: dict[str, Seat] | None = None,
    ) -> dict[str, Tensor]:
        """Tokens [B, N, D] of each modality -> outputs; with `remember`, only as far as the last layer's keys and values.

        last: the last tokens of each modality, if only those are read in the end: the others give the last layer keys and values alone.
        """
        x = dict(x)
        features = {name: self._branch(name).time(*times[name]) for name in seats}
        shared = {name: self._branch(name).modulation(f) for name, f in features.items()}
        every = self.execution.checkpoint_every if torch.is_grad_enabled() else 0
        for layer in range(self.config.depth):
            if remember is not None and layer + 1 == self.config.depth:
                _, k, v = (torch.cat(parts, dim=1) for parts in self._projected(layer, x, self._mods(layer, shared, seats)))
                remember(layer, k, v)
                return {}
            left = last if last is not None and layer + 1 == self.config.depth else seats
            step = partial(self._layer, layer, seats=seats, left=left, text=text, attend=attend, remember=remember)
            if every and (layer + 1) % every == 0:
                x = checkpoint(step, x, shared, use_reentrant=False, preserve_rng_state=False)  # nothing in a layer is random
            else:
                x = step(x, shared)
        return {name: self._branch(name).output(x[name], features[name], seat.spot.row) for name, seat in (last or seats).items()}

    def _layer(
        self,
        layer: int,
        x: dict[str, Tensor],
        shared: dict[str, Tensor],
        seats: dict[str, Seat],
        left: dict[str, Seat],
        text: dict[str, Text],
        attend: Attend,
        remember: Callable[[int, Tensor, Tensor], None] | None,
    ) -> dict[str, Tensor]:
        """One layer of all branches around their joint self-attention; left: the tokens that go on, all or the last of each modality."""
        mods = self._mods(layer, shared, seats)
        queries, keys, values = self._projected(layer, x, mods)
        counts = [len(seat.spot.tokens) for seat in left.values()]
        if left is not seats:
            queries = [q[:, q.shape[1] - n :] for q, n in zip(queries, counts, strict=True)]
            x = {name: x[name][:, x[name].shape[1] - n :] for name, n in zip(left, counts, strict=True)}
            mods = self._mods(layer, shared, left)
        k, v = torch.cat(keys, dim=1), torch.cat(values, dim=1)
        if remember is not None:
            remember(layer, k, v)
        attended = attend(layer, torch.cat(queries, dim=1), k, v).split(counts, dim=1)
        made = {}
        for (name, seat), a in zip(left.items(), attended, strict=True):
            read = (*text[name].keys_values[layer], seat.text_BNW, seat.spot.rotation)
            made[name] = self._after(self._block(name, layer), x[name], a, mods[name], read)
        return made

    def _mods(self, layer: int, shared: dict[str, Tensor], seats: dict[str, Seat]) -> dict[str, tuple[Tensor, ...]]:
        """The modulation of the tokens of each branch."""
        return {name: taken(self._block(name, layer).offset(shared[name]), seat.spot.row).unbind(dim=2) for name, seat in seats.items()}

    def _projected(self, layer: int, x: dict[str, Tensor], mods: dict[str, tuple[Tensor, ...]]) -> list[list[Tensor]]:
        """Queries, keys and values, each of every branch."""
        qkv = [self._before(self._block(name, layer), x[name], mod) for name, mod in mods.items()]
        return [list(parts) for parts in zip(*qkv, strict=True)]

    def velocities(self, noisy: AV, t: AV, r: AV, layout: Layout, out: dict[str, Tensor]) -> AV:
        """The outputs of the noisy tokens, which stand last, as velocities."""
        at, made = per_latent(t, noisy, layout), {}
        for name, x in noisy.items():
            rows, columns = grid(x, self.config.patch)
            raw = unpatched(out[name][:, -x.shape[1] * rows * columns :], x, self.config.patch)
            direct = self.config.branch(name).prediction == "velocity"
            made[name] = raw.to(x.dtype) if direct else preconditioned(raw, x, at.get(name))
        return AV(**made)

    def text(self, name: str, controls: Controls) -> Text:
        return self._branch(name).text(controls, self.planner.text_rotation(controls.words_time_BW2.sum(dim=-1) / 2, self.like))

    def seats(self, spots: dict[str, Spot], text: dict[str, Text]) -> dict[str, Seat]:
        return {name: Seat(spot, self._visible(spot, text[name])) for name, spot in spots.items()}

    def _visible(self, spot: Spot, text: Text) -> Tensor:
        """[B, N, W], 0 or -inf: the timeless tokens that exist, and the words within the window; as every layer's kernel adds it."""
        chunk_N, words = sent(spot.tokens.chunk_N, self.like.device), text.words_time_BW2.shape[1]
        timed = word_mask(chunk_N, text.words_time_BW2, *self.hearing)
        timeless = torch.ones(*timed.shape[:2], text.exists_BW.shape[1] - words, dtype=torch.bool, device=timed.device)
        visible = torch.cat([timeless, timed], dim=-1) & text.exists_BW[:, None]
        return torch.zeros(visible.shape, dtype=self.like.dtype, device=visible.device).masked_fill(~visible, -inf)

    @property
    def hearing(self) -> tuple[float, int, float]:
        """How far words are heard: seconds a chunk, chunks back, seconds ahead."""
        return float(self.timeline.chunk), self.config.window, self.config.word_lookahead_s

    @property
    def like(self) -> Tensor:
        """A parameter, for device and dtype."""
        return next(self.parameters())

    def _branch(self, name: str) -> Branch:
        branch = self.branches[name]
        assert isinstance(branch, Branch)
        return branch

    def _block(self, name: str, layer: int) -> Block:
        return self._branch(name).block(layer)

    def embedded(self, x: Tensor, name: str) -> Tensor:
        channels = self.config.video_channels if name == "video" else self.config.audio_channels
        if x.shape[2] != channels:
            raise ValueError(f"{name} latents: {x.shape[2]} channels, where model.{name}_channels={channels}; they are of another codec")
        embed = self._branch(name).embed
        return embed(patched(x, self.config.patch).to(embed.weight.dtype))  # states stay in fp32 when the weights are in bf16


def pairs(t: AV, r: AV) -> dict[str, tuple[Tensor, Tensor]]:
    """(t, r) a modality."""
    return {name: (x, r.get(name)) for name, x in t.items()}


def expect(name: str, latents: Tensor, count: int, span: str) -> None:
    if latents.shape[1] != count:
        raise ValueError(f"{name} latents: there are {latents.shape[1]}, timeline gives {count} for {span}; they are of another rate")
