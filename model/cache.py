"""The key/value cache of streaming generation; the only in-place state in `model/`.

Chunks keep their keys rotated to their own time. The sink (the first frame; in a stream without a picture its first chunk) keeps its keys
unrotated as well: it is re-placed before the window when that rolls, so its rotation changes with the chunk that reads it. Memory is
constant once the window is full.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from .mask import Tokens, sink_of, sink_shift
from .rope import Rotation, rotate
from .timeline import FIRST_FRAME_CHUNK

KeysValues = tuple[Tensor, Tensor]
"""[B, N, M, D] each."""


class KVCache:
    """Keys and values of the context copy: the sink and the last `window` chunks, of both modalities, for every layer."""

    def __init__(self, window: int, chunk_seconds: float) -> None:
        self._window, self._chunk_seconds = window, chunk_seconds
        self._sink: tuple[Tokens, list[KeysValues]] | None = None
        self._chunks: deque[tuple[int, list[KeysValues]]] = deque(maxlen=window)

    @property
    def chunks(self) -> list[int]:
        """Those in the window."""
        return [chunk for chunk, _ in self._chunks]

    @property
    def full(self) -> bool:
        """Whether the window is, so that from chunk to chunk as much is read."""
        return len(self._chunks) == self._window

    @property
    def wants_sink(self) -> bool:
        """Whether the chunk that is committed now is the sink."""
        return self._sink is None

    def sink(self, chunk: int) -> Tokens | None:
        """Places of the sink for chunk `chunk`, None where there is none besides the window."""
        if self._sink is None:
            return None
        tokens, _ = self._sink
        own = sink_of(tokens)
        if own != FIRST_FRAME_CHUNK and chunk <= own + self._window:
            return None
        return tokens.replaced_sink(int(sink_shift(torch.tensor(chunk), self._window, own)), self._chunk_seconds)

    def read(self, layer: int, sink_turn: Rotation | None) -> list[KeysValues]:
        """Rotated keys, and values, of the sink and of every chunk of the window; `sink_turn` rotates the sink to its place."""
        found = [kv[layer] for _, kv in self._chunks]
        if self._sink is not None and sink_turn is not None:
            k, v = self._sink[1][layer]
            found.insert(0, (rotate(k, sink_turn), v))
        return found

    def commit(self, chunk: int, tokens: Tokens, turned: list[KeysValues], unturned: list[KeysValues]) -> None:
        """A chunk becomes the past, by its keys and values in every layer; the oldest chunk leaves a full window.

        turned, unturned: with keys rotated to the chunk's time, and as they were before; the latter are kept where `wants_sink`.
        """
        if self._sink is None:
            self._sink = tokens, unturned
        if chunk != FIRST_FRAME_CHUNK:
            self._chunks.append((chunk, turned))

    def __copy__(self) -> KVCache:
        """With the same keys and values, which nobody writes to, and a window of its own."""
        other = KVCache(self._window, self._chunk_seconds)
        other._sink, other._chunks = self._sink, self._chunks.copy()
        return other

    def keep(self, clips_B: Tensor) -> None:
        """The keys and values of some of the clips alone."""

        def kept(layers: list[KeysValues]) -> list[KeysValues]:
            return [(k[clips_B], v[clips_B]) for k, v in layers]

        if self._sink is not None:
            self._sink = self._sink[0], kept(self._sink[1])
        self._chunks = deque(((chunk, kept(layers)) for chunk, layers in self._chunks), maxlen=self._window)


class Window:
    """What a chunk reads: the past, and the chunk itself, whose keys and values every evaluation writes anew.

    sink_turn: the rotation of the sink as this chunk sees it. once: every layer is read once, so nothing is kept: what is kept is as large
    as the cache.
    """

    def __init__(self, cache: KVCache, sink_turn: Rotation | None, once: bool) -> None:
        self._cache, self._sink_turn, self._once = cache, sink_turn, once
        self._held: dict[int, KeysValues] = {}

    def past(self, layer: int) -> list[KeysValues]:
        """Rotated keys, and values, of what the chunk sees of the past, oldest first."""
        return self._cache.read(layer, self._sink_turn)

    def read(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """Keys and values of the past and of the present, `k` rotated and `v`, [B, N, M, D]; without gradient."""
        if layer in self._held:
            for every, now in zip(self._held[layer], (k, v), strict=True):
                every[:, every.shape[1] - now.shape[1] :] = now
            return self._held[layer]
        past = self.past(layer)
        if not past:
            return k, v
        whole = torch.cat([*(x for x, _ in past), k], dim=1), torch.cat([*(x for _, x in past), v], dim=1)
        if not self._once:
            self._held[layer] = whole
        return whole
