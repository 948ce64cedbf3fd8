"""The key/value cache of streaming generation; the only in-place state in `model/`.

Chunks keep their keys rotated to their own time. The sink keeps its keys unrotated: it is re-placed before the window when that rolls, so
its rotation changes with the chunk that reads it. Memory is constant once the window is full.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from .mask import Tokens, sink_shift
from .rope import Rotation, rotate
from .timeline import FIRST_FRAME_CHUNK

KeysValues = tuple[Tensor, Tensor]
"""[B, N, M, D] each."""


class KVCache:
    """Keys and values of the context copy: the sink and the last `window` chunks, of both modalities, for every layer."""

    def __init__(self, depth: int, window: int, chunk_seconds: float) -> None:
        self._depth, self._window, self._chunk_seconds = depth, window, chunk_seconds
        self._sink: tuple[Tokens, list[KeysValues]] | None = None
        self._chunks: deque[tuple[int, list[KeysValues]]] = deque(maxlen=window)
        self._pending: list[KeysValues] = []

    @property
    def chunks(self) -> list[int]:
        """Those in the window."""
        return [chunk for chunk, _ in self._chunks]

    def sink(self, chunk: int) -> Tokens | None:
        """Places of the sink for chunk `chunk`, None when there is none."""
        if self._sink is None:
            return None
        return self._sink[0].replaced_sink(int(sink_shift(torch.tensor(chunk), self._window)), self._chunk_seconds)

    def read(self, layer: int, sink_turn: Rotation | None) -> list[KeysValues]:
        """Rotated keys, and values, of the sink and of every chunk of the window; `sink_turn` rotates the sink to its place."""
        found = [kv[layer] for _, kv in self._chunks]
        if self._sink is not None and sink_turn is not None:
            k, v = self._sink[1][layer]
            found.insert(0, (rotate(k, sink_turn), v))
        return found

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Remember a layer's keys and values of the chunk being committed; layers come in order."""
        if layer != len(self._pending):
            raise AssertionError(f"cache: layer {layer} written after {len(self._pending)} layers")
        self._pending.append((k, v))

    def commit(self, chunk: int, tokens: Tokens) -> None:
        """All layers of a chunk are written: it becomes the past; the oldest chunk leaves a full window."""
        if len(self._pending) != self._depth:
            raise AssertionError(f"cache: {len(self._pending)} of {self._depth} layers written")
        written, self._pending = self._pending, []
        if chunk == FIRST_FRAME_CHUNK:
            self._sink = tokens, written
        else:
            self._chunks.append((chunk, written))


class Window:
    """What a chunk reads: the past, and the chunk itself, whose keys and values every evaluation writes anew.

    sink_turn: the rotation of the sink as this chunk sees it. once: every layer is read once, so nothing is kept: what is kept is as large
    as the cache.
    """

    def __init__(self, cache: KVCache, sink_turn: Rotation | None, once: bool) -> None:
        self._cache, self._sink_turn, self._once = cache, sink_turn, once
        self._held: dict[int, KeysValues] = {}

    def read(self, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        """Keys and values of the past and of the present, `k` rotated and `v`, [B, N, M, D]; without gradient."""
        if layer in self._held:
            for every, now in zip(self._held[layer], (k, v), strict=True):
                every[:, -now.shape[1] :] = now
            return self._held[layer]
        past = self._cache.read(layer, self._sink_turn)
        if not past:
            return k, v
        whole = torch.cat([*(x for x, _ in past), k], dim=1), torch.cat([*(x for _, x in past), v], dim=1)
        if not self._once:
            self._held[layer] = whole
        return whole
