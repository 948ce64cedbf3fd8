"""Randomness from position (architecture, rule 4): what is drawn depends on the sample, never on the worker or the attempt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .types import AV, sent


def position_seed(*key: int | str) -> int:
    """A 63-bit seed from a key of integers and strings; stable across processes and versions."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class PositionalNoise:
    """Draws for a batch of clips, each from its own generator keyed by (key of the clip, tag of the draw).

    keys: one key a clip, e.g. (seed, stage, position). The same clip gets the same draws in any batch on any rank.
    """

    def __init__(self, keys: Sequence[tuple[int | str, ...]], device: torch.device | str = "cpu") -> None:
        self._keys = list(keys)
        self._device = device

    def clips(self, which: slice | Sequence[int]) -> PositionalNoise:
        """The draws of some of the clips."""
        keys = self._keys[which] if isinstance(which, slice) else [self._keys[clip] for clip in which]
        return PositionalNoise(keys, self._device)

    def _draw(self, tag: tuple[int | str, ...], one: Callable[[torch.Generator], Tensor]) -> Tensor:
        rows = [one(torch.Generator().manual_seed(position_seed(*key, *tag))) for key in self._keys]
        return sent(torch.stack(rows), self._device)

    def normal(self, shape: Sequence[int], *tag: int | str) -> Tensor:
        """Standard normal [B, *shape]."""
        return self._draw(tag, lambda g: torch.randn(tuple(shape), generator=g))

    def uniform(self, shape: Sequence[int], *tag: int | str) -> Tensor:
        """Uniform on [0, 1), [B, *shape]."""
        return self._draw(tag, lambda g: torch.rand(tuple(shape), generator=g))

    def normal_like(self, latents: AV, *tag: int | str) -> AV:
        """Standard normal in the shapes of `latents` (whose batch is this batch); modalities are drawn apart."""
        return AV(**{name: self.normal(x.shape[1:], *tag, name).to(x.dtype) for name, x in latents.items()})
