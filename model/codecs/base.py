"""What every codec offers: encode, decode, decode as a stream, and an identity that names its content. And what a text encoder does.

Dimensions: B batch, N pixel frames, F latent frames, H W rows and columns, S audio samples, T audio latents, C channels,
L tokens of a caption, E features of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class LatentStream(Protocol):
    """One decoding in progress, of one clip. All pushes and the flush, concatenated along time, equal the whole decode: bit for bit,
    but for a codec that says how far rounding may take them apart.
    """

    def push(self, latents: Tensor) -> Tensor:
        """Latents that follow those already pushed -> the media that they complete (may lag; see the codec)."""
        ...

    def flush(self) -> Tensor:
        """The media still held back. The stream is over: a later push or flush raises ValueError."""
        ...


class VideoCodec(Protocol):
    """Frames uint8 `[B,N,H,W,3]` with N = 1 + k * temporal_stride <-> latents float32 `[B,1+k,C,H/s,W/s]`, s = spatial_stride."""

    @property
    def channels(self) -> int: ...

    @property
    def spatial_stride(self) -> int: ...

    @property
    def temporal_stride(self) -> int: ...

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the canonical JSON: equal identities encode equally."""
        ...

    def encode(self, frames: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def stream(self) -> LatentStream: ...

    def to_json(self) -> dict[str, Any]: ...


class AudioCodec(Protocol):
    """Samples float32 `[B,S]`, mono, S = T * hop <-> latents float32 `[B,T,C]`."""

    @property
    def channels(self) -> int: ...

    @property
    def hop(self) -> int: ...

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the canonical JSON: equal identities encode equally."""
        ...

    def encode(self, samples: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def stream(self) -> LatentStream: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class TextFeatures:
    """What a text encoder makes of B captions: `features_BLE` float32, zero where `mask_BL` is False, as `Controls` takes them."""

    features_BLE: Tensor
    mask_BL: Tensor


class TextEncoder(Protocol):
    """Captions -> features. L is always `max_tokens`: a Wan network sees the padding too, so its length is part of the features."""

    @property
    def width(self) -> int:
        """Features of a token, E."""
        ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def identity(self) -> str:
        """SHA-256 (hex) of the canonical JSON: equal identities encode equally."""
        ...

    def encode(self, captions: Sequence[str]) -> TextFeatures: ...

    def to_json(self) -> dict[str, Any]: ...
