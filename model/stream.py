"""Chunk-by-chunk generation with a key/value cache: B clips, their text, their past, and the chunk in progress."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from .attention import attention
from .branch import Text
from .cache import KeysValues, KVCache, Window
from .mask import word_mask, words_kept
from .patches import grid
from .plan import joint
from .recording import Moving, Read, Recorder
from .timeline import FIRST_FRAME_CHUNK, Layout
from .trunk import Trunk, expect, pairs
from .types import AV, MODALITIES, Controls, sent


class Stream:
    """State and moves of one stream; made by `AVTransformer.start`. What it has read belongs to the weights of that moment."""

    def __init__(self, net: Trunk, controls: Controls, modalities: tuple[str, ...] = MODALITIES) -> None:
        self._net, self._words_time_BW2 = net, controls.words_time_BW2.cpu()
        self.text = {name: net.text(name, controls) for name in modalities}
        self.cache = KVCache(net.config.window, float(net.timeline.chunk))
        self.moving: Moving | None = None
        self._first_text = True  # what is recorded may read it where it lies
        self._recorder = self._new_recorder()

    @torch.no_grad()
    def control(self, controls: Controls) -> None:
        """Other text for the chunks that follow; the past stays what it was read as."""
        self._words_time_BW2 = controls.words_time_BW2.cpu()
        self.text = {name: self._net.text(name, controls) for name in self.text}
        self.moving, self._first_text = None, False

    def keep(self, clips: Sequence[int], controls: Controls) -> None:
        """Go on with some of the clips alone, whose text is `controls`."""
        self.cache.keep(sent(torch.tensor(clips), self._net.like.device))
        self.control(controls)
        self._recorder = self._new_recorder()

    def twin(self) -> Stream:
        """Another stream with this one's text and past: what one of them reads from now on, the other does not."""
        other = copy(self)
        other.cache, other.moving = copy(self.cache), None
        other._recorder = other._new_recorder()
        return other

    def _new_recorder(self) -> Recorder | None:
        return Recorder(self._evaluated, self._net.config.depth) if self._net.execution.graphs else None

    @torch.no_grad()
    def commit(self, clean: AV, chunk: int) -> None:
        """Append the clean latents of a chunk (chunk -1: the first frame alone) to the stream's history.

        Raises:
            ValueError: the chunk does not follow the last one, a modality is missing, or the latents are of another rate or codec.
        """
        zero = clean.map(lambda x: torch.zeros(x.shape[0], 1, device=x.device))
        now = self._at(clean, chunk, once=True)  # what its evaluations shared serves once more
        if (recorder := self._playing()) is not None:
            recorder.velocity(now, clean, zero, zero)
            self.cache.commit(chunk, now.tokens, recorder.present(), [])
            self.moving = None
            return
        turned, unturned, is_sink = list[KeysValues](), list[KeysValues](), self.cache.wants_sink
        rotated = self._net.rotated

        def remember(layer: int, k: Tensor, v: Tensor) -> None:
            turned.append((rotated(k, now.turn), v))
            if is_sink:
                unturned.append((k, v))

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(rotated(q, now.turn), *now.window.read(layer, *turned[layer]))

        patches = {name: self._net.embedded(x, name) for name, x in clean.items()}
        self._net.layers(patches, pairs(zero, zero), now.seats, now.text, attend, remember)
        self.cache.commit(chunk, now.tokens, turned, unturned)
        self.moving = None

    @torch.no_grad()
    def velocity(self, noisy: AV, t: AV, r: AV, chunk: int) -> AV:
        """Velocity of the chunk in progress, given the committed history; t, r: [B, 1] a modality. Raises as `commit` does."""
        now = self.moving = self._at(noisy, chunk, once=False)
        if (recorder := self._playing()) is not None:
            return recorder.velocity(now, noisy, t, r)
        return self._evaluated(now, now.window.read, noisy, t, r)

    def _playing(self) -> Recorder | None:
        """What plays recorded passes, once chunks are alike: while the window fills, each would be recorded for itself alone."""
        return self._recorder if self.cache.full and not self.cache.wants_sink else None

    def _evaluated(self, now: Moving, read: Read, noisy: AV, t: AV, r: AV) -> AV:
        rotated = self._net.rotated

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention(rotated(q, now.turn), *read(layer, rotated(k, now.turn), v))

        patches = {name: self._net.embedded(x, name) for name, x in noisy.items()}
        out = self._net.layers(patches, pairs(t, r), now.seats, now.text, attend)
        return self._net.velocities(noisy, t, r, Layout(self._net.timeline, 1, first=now.chunk), out)

    def _at(self, x: AV, chunk: int, once: bool) -> Moving:
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
        whole = text is self.text and self._first_text
        window = Window(self.cache, None if sink is None else self._net.planner.rotation(sink, self._net.like), once)
        turn = self._net.planner.rotation(tokens, self._net.like)
        return Moving(chunk, shapes, tokens, self._net.seats(spots, text), text, whole, turn, window)

    def _spoken_near(self, chunk: int) -> dict[str, Text]:
        """The text with the words that a chunk can see in any clip: the cost of a chunk must not grow with the transcript."""
        visible_BNW = word_mask(torch.tensor([chunk]), self._words_time_BW2, *self._net.hearing)
        index = torch.nonzero(visible_BNW.any(dim=0)[0])[:, 0]
        every = self._words_time_BW2.shape[1]
        if (room := words_kept(len(index), every)) == every:
            return self.text
        padded = sent(torch.cat([index, index.new_zeros(room - len(index))]), self._net.like.device)
        return {name: text.of_words(padded, len(index)) for name, text in self.text.items()}
