"""The key/value cache of streaming generation; the only in-place state in `model/`.

Keys are kept *unrotated*: the sink is re-placed before the window when it rolls, so its rotation changes with the chunk that reads it.
Memory is constant once the window is full.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from .mask import Tokens, sink_shift
from .rope import Rotation, rotate
from .timeline import FIRST_FRAME_CHUNK


class KVCache:
    """Keys and values of the context copy: the sink and the last `window` chunks, of both modalities, for every layer."""

    def __init__(self, depth: int, window: int, chunk_seconds: float) -> None:
        self._depth, self._window, self._chunk_seconds = depth, window, chunk_seconds
        self._sink: tuple[Tokens, list[tuple[Tensor, Tensor]]] | None = None
        self._chunks: deque[tuple[Tokens, list[tuple[Tensor, Tensor]]]] = deque(maxlen=window)
        self._pending: list[tuple[Tensor, Tensor]] = []

    def past(self, chunk: int) -> Tokens | None:
        """Places of the keys that chunk `chunk` reads, the sink re-placed; None when there is no past."""
        parts = [tokens for tokens, _ in self._chunks]
        if self._sink is not None:
            shift = int(sink_shift(torch.tensor(chunk), self._window))
            parts.insert(0, self._sink[0].replaced_sink(shift, self._chunk_seconds))
        return parts[0].cat(*parts[1:]) if parts else None

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Unrotated keys and values [B, N, M, D] of a layer, in the order of `past`."""
        parts = ([self._sink[1][layer]] if self._sink is not None else []) + [kv[layer] for _, kv in self._chunks]
        return torch.cat([k for k, _ in parts], dim=1), torch.cat([v for _, v in parts], dim=1)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Remember a layer's keys and values of the chunk being committed; layers come in order."""
        if layer != len(self._pending):
            raise AssertionError(f"cache: layer {layer} written after {len(self._pending)} layers")
        self._pending.append((k, v))

    def commit(self, tokens: Tokens) -> None:
        """All layers of a chunk are written: it becomes the past; the oldest chunk leaves a full window."""
        if len(self._pending) != self._depth:
            raise AssertionError(f"cache: {len(self._pending)} of {self._depth} layers written")
        entry, self._pending = (tokens, self._pending), []
        if int(tokens.chunk_N[0]) == FIRST_FRAME_CHUNK:
            self._sink = entry
        else:
            self._chunks.append(entry)


class Window:
    """What a chunk reads: the past, rotated once, and the chunk itself, whose keys and values every evaluation writes anew.

    past: the rotation of the cache's tokens as this chunk sees them, or None where there is no past. once: every layer is read once, so
    nothing is kept: what is kept is as large as the cache.
    """

    def __init__(self, cache: KVCache, past: Rotation | None, once: bool) -> None:
        self._cache, self._past, self._once = cache, past, once
        self._held: dict[int, tuple[Tensor, Tensor]] = {}

    def read(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the past and of the present, `k` rotated and `v`, [B, N, M, D]; without gradient."""
        if self._past is None:
            return k, v
        if layer not in self._held:
            past_k, past_v = self._cache.read(layer)
            whole = torch.cat([rotate(past_k, self._past), k], dim=1), torch.cat([past_v, v], dim=1)
            if self._once:
                return whole
            self._held[layer] = whole
        else:
            for every, now in zip(self._held[layer], (k, v), strict=True):
                every[:, -now.shape[1] :] = now
        return self._held[layer]
