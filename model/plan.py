"""What a pass through the network needs that depends on shapes alone: where tokens stand, their rotations, who attends to whom.

A pass is over the context copy and the noisy copy together (`both`), over the context copy (`past`), over the noisy copy after a past
that was read (`present`), or over one chunk of a stream (`spots_of_chunk`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .attention import Attention, AttentionKind, masked
from .mask import Tokens, sink_of, sink_shift
from .patches import places
from .rope import RopeConfig, Rotation, rotation
from .timeline import FIRST_FRAME_CHUNK, Layout, Timeline
from .types import AV

Copies = tuple[int, int, int]
KEPT = 8  # plans of the last few shapes: masks and rotations cost as much as a layer of a small network


@dataclass(frozen=True)
class Spot:
    """Where the tokens of one modality stand: their places, rotation for the text, and which of the pass's times each has: row 0 for clean
    tokens, then a row a chunk; or all of them the only row, which is then spread over them without a copy.
    """

    tokens: Tokens
    row: Tensor | slice
    rotation: Rotation


@dataclass(frozen=True)
class Plan:
    """A parallel pass. keys: places of all keys; sink: its first token, the one after its last, and how many copies of it follow all
    tokens; last: the same for the last layer, after which nobody reads the context copy.
    """

    spots: dict[str, Spot]
    keys: Tokens
    sink: Copies | None
    turn: Rotation
    key_turn: Rotation
    attention: Attention
    last: Plan | None = None

    def copied(self, x: Tensor) -> Tensor:
        """Keys or values of the tokens -> of all keys."""
        if self.sink is None:
            return x
        first, end, count = self.sink
        return torch.cat([x, *[x[:, first:end]] * count], dim=1)


def joint(spots: dict[str, Spot]) -> Tokens:
    """The tokens of all modalities as the joint attention sees them."""
    first, *rest = (spot.tokens for spot in spots.values())
    return first.cat(*rest)


def before_last(context: AV, layout: Layout) -> AV:
    """A context without its last chunk, which nothing attends to."""

    def cut(x: Tensor) -> Tensor:
        chunk, _ = layout.audio() if x.dim() == 3 else layout.video(with_first_frame=True)
        return x[:, : int((chunk < _last(layout)).sum())]

    return context.map(cut)


def _last(layout: Layout) -> int:
    return layout.first + layout.chunks - 1


class Planner:
    """Makes the plans of one network; `like` is a tensor on its device and in its dtype."""

    def __init__(self, timeline: Timeline, patch: int, window: int, head_dim: int, rope: RopeConfig, kind: AttentionKind) -> None:
        self._timeline, self._patch, self._window, self._head_dim, self._rope = timeline, patch, window, head_dim, rope
        self._kind: AttentionKind = kind
        self._kept: dict[Hashable, Plan] = {}

    def both(self, before: AV, noisy: AV, layout: Layout, like: Tensor) -> Plan:
        """Every token of the context copy (`before_last` of it) and the noisy copy reads both."""

        def make() -> Plan:
            pasts = {name: self._past(before.get(name), layout) for name, _ in noisy.items()}
            now = {name: self._places(x, layout, clean=False) for name, x in noisy.items()}
            spots = {name: self._spot(pasts[name].cat(places), layout.first, like) for name, places in now.items()}
            keys = self._with_sink_copies(joint(spots), layout)
            last = {name: self._spot(places, layout.first, like) for name, places in now.items()}
            return replace(self._plan(spots, *keys, like), last=self._plan(last, *keys, like))

        return self._once("both", layout, (before, noisy), like, make)

    def past(self, before: AV, layout: Layout, like: Tensor) -> Plan:
        """The context copy reads itself."""

        def make() -> Plan:
            spots = {name: self._spot(self._past(x, layout), layout.first, like) for name, x in before.items()}
            return self._plan(spots, *self._with_sink_copies(joint(spots), layout), like)

        return self._once("past", layout, (before,), like, make)

    def present(self, before: AV, noisy: AV, layout: Layout, like: Tensor) -> Plan:
        """The noisy copy reads the keys of the past and itself."""

        def make() -> Plan:
            spots = {name: self._spot(self._places(x, layout, clean=False), layout.first, like) for name, x in noisy.items()}
            return self._plan(spots, self.past(before, layout, like).keys.cat(joint(spots)), None, like)

        return self._once("present", layout, (before, noisy), like, make)

    def spots_of_chunk(self, x: AV, chunk: int, like: Tensor) -> dict[str, Spot]:
        """One chunk of a stream; chunk -1 is the first frame."""
        layout, spots, first = Layout(self._timeline, 1, first=max(chunk, 0)), {}, chunk == FIRST_FRAME_CHUNK
        for name, x_m in x.items():
            tokens = places(x_m, layout, self._patch, clean=first, with_first_frame=first)
            tokens = tokens.select(tokens.chunk_N == chunk)
            spots[name] = Spot(tokens, slice(None), self.text_rotation(tokens.time_N, like))
        return spots

    def rotation(self, tokens: Tokens, like: Tensor) -> Rotation:
        """Of queries and keys in the joint attention."""
        return rotation(tokens.time_N, tokens.row_N, tokens.column_N, self._head_dim, self._rope, like)

    def text_rotation(self, time: Tensor, like: Tensor) -> Rotation:
        """Of queries and words in the text cross-attention, which knows time alone; `time` is [N] or [B, N] seconds."""
        zero = torch.zeros_like(time)
        return rotation(time, zero, zero, self._head_dim, self._rope, like)

    def _once(self, use: str, layout: Layout, latents: tuple[AV, ...], like: Tensor, make: Callable[[], Plan]) -> Plan:
        shapes = tuple(tuple((name, *x.shape[1:]) for name, x in av.items()) for av in latents)
        key = (use, layout, shapes, like.device, like.dtype)
        if key not in self._kept:
            plan = make()
            if len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = plan
        return self._kept[key]

    def _plan(self, spots: dict[str, Spot], keys: Tokens, sink: Copies | None, like: Tensor) -> Plan:
        queries = joint(spots)
        attention = masked(self._kind, queries, keys, self._window, like.device)
        return Plan(spots, keys, sink, self.rotation(queries, like), self.rotation(keys, like), attention)

    def _with_sink_copies(self, tokens: Tokens, layout: Layout) -> tuple[Tokens, Copies | None]:
        """The tokens, then the sink once for every place that it takes while the window rolls."""
        chunk = sink_of(tokens)
        sink = torch.nonzero(tokens.clean_N & (tokens.chunk_N == chunk))[:, 0]
        low, high = (int(sink_shift(torch.tensor(k), self._window, chunk)) for k in (layout.first, _last(layout)))
        copies = [tokens.select(sink).replaced_sink(shift, float(self._timeline.chunk)) for shift in range(max(1, low), high + 1)]
        if not len(sink) or not copies:
            return tokens, None
        first, end = int(sink[0]), int(sink[-1]) + 1
        assert end - first == len(sink), "the sink's tokens are of one modality, and follow each other"
        return tokens.cat(*copies), (first, end, len(copies))

    def _spot(self, tokens: Tokens, first_chunk: int, like: Tensor) -> Spot:
        row_N = torch.where(tokens.clean_N, 0, tokens.chunk_N - first_chunk + 1)
        return Spot(tokens, row_N.to(like.device), self.text_rotation(tokens.time_N, like))

    def _places(self, x: Tensor, layout: Layout, clean: bool) -> Tokens:
        return places(x, layout, self._patch, clean, with_first_frame=clean)

    def _past(self, x: Tensor, layout: Layout) -> Tokens:
        tokens = self._places(x, layout, clean=True)
        return tokens.select(tokens.chunk_N < _last(layout))
