"""Chunk-by-chunk generation with a key/value cache: B clips, their text, their past, and the chunk in progress."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import attention
from .branch import Text
from .cache import KeysValues, KVCache, Window
from .mask import Tokens, word_mask
from .patches import grid
from .plan import joint
from .rope import Rotation, rotate
from .timeline import FIRST_FRAME_CHUNK, Layout
from .trunk import Seat, Trunk, expect, pairs
from .types import AV, MODALITIES, Controls


@dataclass(frozen=True)
class _Moving:
    """What every pass over the chunk in progress shares."""

    chunk: int
    shapes: tuple[torch.Size, ...]
    tokens: Tokens
    seats: dict[str, Seat]
    text: dict[str, Text]
    turn: Rotation
    window: Window


class Stream:
    """State and moves of one stream; made by `AVTransformer.start`. What it has read belongs to the weights of that moment."""

    def __init__(self, net: Trunk, controls: Controls, modalities: tuple[str, ...] = MODALITIES) -> None:
        self._net, self._words_time_BW2 = net, controls.words_time_BW2.cpu()
        self.text = {name: net.text(name, controls) for name in modalities}
        self.cache = KVCache(net.config.window, float(net.timeline.chunk))
        self.moving: _Moving | None = None

    @torch.no_grad()
    def commit(self, clean: AV, chunk: int) -> None:
        """Append the clean latents of a chunk (chunk -1: the first frame alone) to the stream's history.

        Raises:
            ValueError: the chunk does not follow the last one, a modality is missing, or the latents are of another rate or codec.
        """
        zero = clean.map(lambda x: torch.zeros(x.shape[0], 1, device=x.device))
        now = self._at(clean, chunk, once=True)  # what its evaluations shared serves once more
        turned, unturned, is_sink = list[KeysValues](), list[KeysValues](), self.cache.wants_sink

        def remember(layer: int, k: Tensor, v: Tensor) -> None:
            turned.append((rotate(k, now.turn), v))
            if is_sink:
                unturned.append((k, v))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(rotate(q, now.turn), *now.window.read(layer, *turned[layer]))

        patches = {name: self._net.embedded(x, name) for name, x in clean.items()}
        self._net.layers(patches, pairs(zero, zero), now.seats, now.text, attend, remember)
        self.cache.commit(chunk, now.tokens, turned, unturned)
        self.moving = None

    @torch.no_grad()
    def velocity(self, noisy: AV, t: AV, r: AV, chunk: int) -> AV:
        """Velocity of the chunk in progress, given the committed history; t, r: [B, 1] a modality. Raises as `commit` does."""
        now = self.moving = self._at(noisy, chunk, once=False)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(rotate(q, now.turn), *now.window.read(layer, rotate(k, now.turn), v))

        patches = {name: self._net.embedded(x, name) for name, x in noisy.items()}
        out = self._net.layers(patches, pairs(t, r), now.seats, now.text, attend)
        return self._net.velocities(noisy, t, r, Layout(self._net.timeline, 1, first=chunk), out)

    def _at(self, x: AV, chunk: int, once: bool) -> _Moving:
        """What all passes over a chunk share: that of the chunk in progress, if it is this one. once: no pass will follow.

        Raises:
            ValueError: the chunk does not follow the last one, a modality is missing, or there are more or fewer latents than it has.
        """
        shapes = tuple(y.shape for _, y in x.items())
        if self.moving is not None and (self.moving.chunk, self.moving.shapes) == (chunk, shapes):
            return self.moving
        self.moving = None  # first: it holds as much as the cache
        if self.cache.chunks and chunk != (following := self.cache.chunks[-1] + 1):
            raise ValueError(f"chunk {chunk}: the stream's last is {following - 1}; give chunk {following}, or start another stream")
        given, wanted = [name for name, _ in x.items()], [m for m in self.text if m == "video" or chunk != FIRST_FRAME_CHUNK]
        if given != wanted:
            others = ", ".join(wanted) or "sound alone"
            raise ValueError(f"chunk {chunk}: has latents of {', '.join(given)}, this stream of {others}; give these")
        spots = self._net.planner.spots_of_chunk(x, chunk, self._net.like)
        for name, x_m in x.items():
            rows, columns = grid(x_m, self._net.config.patch)
            expect(name, x_m, len(spots[name].tokens) // (rows * columns), f"chunk {chunk}")
        tokens, sink, text = joint(spots), self.cache.sink(chunk), self._spoken_near(chunk)
        window = Window(self.cache, None if sink is None else self._net.planner.rotation(sink, self._net.like), once)
        return _Moving(
            chunk, shapes, tokens, self._net.seats(spots, text), text, self._net.planner.rotation(tokens, self._net.like), window
        )

    def _spoken_near(self, chunk: int) -> dict[str, Text]:
        """The text with the words that a chunk can see in any clip: the cost of a chunk must not grow with the transcript."""
        visible_BNW = word_mask(torch.tensor([chunk]), self._words_time_BW2, *self._net.hearing)
        seen_W = visible_BNW.any(dim=0)[0]
        if 2 * int(seen_W.sum()) > len(seen_W):
            return self.text
        index = torch.nonzero(seen_W)[:, 0].to(self._net.like.device, non_blocking=True)
        return {name: text.of_words(index) for name, text in self.text.items()}
