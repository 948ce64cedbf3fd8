"""Video codec: an orthonormal DCT over blocks of (frames, rows, columns, colours), of which the loudest coefficients are kept.

    frames   f0 | f1 f2 f3 f4 | f5 f6 f7 f8 | ...      1 + 4k frames
    latents  z0 |     z1      |     z2      | ...      1 + k latents

The first frame stands alone and is coded as four equal frames: its temporal-DC channels have the scale and meaning that they have
in every latent, its temporal-AC channels are exactly 0. The colour transform is the DCT of length 3: luminance, red-blue, green-magenta.
Dimensions: B batch, N frames, F latents, C channels, H W rows and columns, K coefficients of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .selection import Moments, Selection, check_channels, check_latents, check_whitening, dct_matrix, select
from .serial import REMEDY, identity_of, read_integer, read_number, require_keys

COLOURS = 3


@dataclass(frozen=True)
class DctVideoConfig:
    """The block that is transformed, and what is kept of it. spatial: its side in pixels (2..16). temporal: its frames (1..8). channels:
    coefficients that are kept. whitening: 0 leaves latents as spread as they are, 1 gives all channels the same spread.
    """

    spatial: int = 8
    temporal: int = 4
    channels: int = 32
    whitening: float = 0.5

    def __post_init__(self) -> None:
        _check_block(self.spatial, self.temporal)
        check_channels(self.channels, block_size(self.spatial, self.temporal))
        check_whitening(self.whitening)


def block_size(spatial: int, temporal: int) -> int:
    """Coefficients of one block, K."""
    return temporal * spatial**2 * COLOURS


class VideoMoments(Moments):
    """First and second moments of the block coefficients of video; see `selection.Moments`."""

    def __init__(self, spatial: int = 8, temporal: int = 4) -> None:
        _check_block(spatial, temporal)
        super().__init__(spatial, temporal)
        self._still_K = still_coefficients(spatial, temporal)
        self._analysis_KK = torch.from_numpy(_basis(spatial, temporal, np.arange(self.size))).float().T

    @property
    def size(self) -> int:
        return block_size(*self.geometry)

    def update(self, frames: Tensor) -> None:
        """Measure clips, uint8 `[B,N,H,W,3]` with N = 1 + k * temporal. The AC zeros of a first frame are not counted."""
        spatial, temporal = self.geometry
        check_frames(frames, spatial, temporal)
        analysis_KK = self._analysis_KK.to(frames.device)
        for clip in frames.split(1):
            coefficients_FK = (_blocks(_to_unit(clip), spatial, temporal) @ analysis_KK)[0].flatten(1, 2)
            self.add(coefficients_FK[0], self._still_K)
            self.add(coefficients_FK[1:].flatten(0, 1), np.ones_like(self._still_K))


class DctVideoCodec:
    """See the module. `decode` gives uint8; `encode_float` and `decode_float` are the exact linear maps beneath."""

    kind: ClassVar[str] = "dct-video"

    def __init__(self, config: DctVideoConfig, selection: Selection) -> None:
        self.config = config
        self.selection = selection
        kept_CK = _basis(config.spatial, config.temporal, selection.index_C)
        self._analysis_KC, self._offset_C = selection.analysis(kept_CK)
        self._synthesis_CK = selection.synthesis(kept_CK)
        self._mean_K = torch.from_numpy(_inverse(config.spatial, config.temporal, selection.mean_K))
        self._still_C = torch.from_numpy(still_coefficients(config.spatial, config.temporal)[selection.index_C])
        self.identity = identity_of(self.to_json())

    @classmethod
    def fit(cls, config: DctVideoConfig, moments: VideoMoments) -> DctVideoCodec:
        """Keep what carries the most variance in the measured clips; ValueError if nothing was measured or in other blocks."""
        if moments.geometry != (config.spatial, config.temporal):
            raise ValueError(f"moments: measured in blocks of {moments.geometry}, not {(config.spatial, config.temporal)}; measure again")
        # Means of temporal-AC coefficients are held at 0 so that a latent of 0 means "still" in the first latent as in all others.
        changing_K = ~still_coefficients(config.spatial, config.temporal)
        return cls(config, select(moments, config.channels, config.whitening, changing_K))

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def spatial_stride(self) -> int:
        return self.config.spatial

    @property
    def temporal_stride(self) -> int:
        return self.config.temporal

    def encode(self, frames: Tensor) -> Tensor:
        """Frames uint8 `[B,N,H,W,3]`, N = 1 + k * temporal, H and W multiples of `spatial` -> float32 `[B,1+k,C,H/s,W/s]`."""
        check_frames(frames, self.config.spatial, self.config.temporal)
        return self.encode_float(_to_unit(frames))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B,1+k,C,h,w]` -> frames uint8 `[B,1+k*temporal,h*s,w*s,3]`; AC of the first latent is ignored."""
        return to_uint8(self.decode_float(latents))

    def stream(self) -> DctVideoStream:
        """A decoder that emits the frames of each latent as it is pushed, without delay."""
        return DctVideoStream(self)

    def encode_float(self, pixels: Tensor) -> Tensor:
        """As `encode`, for pixels scaled to [-1, 1] in float32 or float64; latents have their precision."""
        blocks = _blocks(pixels, self.config.spatial, self.config.temporal)
        latents = blocks @ self._analysis_KC.to(pixels) - self._offset_C.to(pixels)
        latents[:, 0] *= self._still_C.to(pixels)
        return latents.permute(0, 1, 4, 2, 3).contiguous()

    def decode_float(self, latents: Tensor, first: bool = True) -> Tensor:
        """As `decode`, unrounded, pixels around [-1, 1]; `first` False if these latents follow others."""
        check_latents(latents, 5, 2, self.channels)
        latents = latents.float() if latents.dtype != torch.float64 else latents
        synthesis_CK, mean_K = self._synthesis_CK.to(latents), self._mean_K.to(latents)
        still_C = self._still_C.to(latents)
        groups = []
        # One latent a multiplication: rounding then cannot depend on how many were pushed together.
        for position, latent_BCHW in enumerate(latents.unbind(1)):
            alone = first and position == 0
            latent_BHWC = latent_BCHW.permute(0, 2, 3, 1).contiguous()
            blocks = (latent_BHWC * still_C if alone else latent_BHWC) @ synthesis_CK + mean_K
            frames = _unblock(blocks, self.config.spatial, self.config.temporal)
            groups.append(frames[:, :1] if alone else frames)
        return torch.cat(groups, dim=1)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "version": 1, **asdict(self.config), **self.selection.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DctVideoCodec:
        """Inverse of `to_json`; ValueError names the field that no codec wrote."""
        require_keys(data, ["kind", "version", "spatial", "temporal", "channels", "whitening", "index", "scale", "mean"])
        if data["kind"] != cls.kind or read_integer(data, "version") != 1:
            raise ValueError(f"codec.version: {data['kind']!r} {data['version']!r} is not {cls.kind!r} 1; update the package")
        sizes = {name: read_integer(data, name) for name in ("spatial", "temporal", "channels")}
        config = DctVideoConfig(**sizes, whitening=read_number(data, "whitening"))
        selection = Selection.from_json(data, config.channels, block_size(config.spatial, config.temporal))
        if selection.mean_K[~still_coefficients(config.spatial, config.temporal)].any():
            raise ValueError(f"codec.mean: temporal-AC coefficients must have mean 0; {REMEDY}")
        return cls(config, selection)


class DctVideoStream:
    """`push` `[B,F,C,h,w]` -> uint8 frames of those latents (the very first gives one frame); `flush` -> no frames."""

    def __init__(self, codec: DctVideoCodec) -> None:
        self._codec = codec
        self._empty: Tensor | None = None
        self._over = False

    def push(self, latents: Tensor) -> Tensor:
        if self._over:
            raise ValueError("stream: already flushed; open a new one with codec.stream()")
        frames = to_uint8(self._codec.decode_float(latents, first=self._empty is None))
        self._empty = frames[:, :0]
        return frames

    def flush(self) -> Tensor:
        if self._over or self._empty is None:
            raise ValueError("stream: nothing to flush; push latents first, and flush once")
        self._over = True
        return self._empty


def still_coefficients(spatial: int, temporal: int) -> np.ndarray:
    """Bool `[K]`: the temporal-DC coefficients, all that a still picture has."""
    return np.arange(block_size(spatial, temporal)) < spatial**2 * COLOURS


def check_frames(frames: Tensor, spatial: int, temporal: int) -> None:
    """ValueError unless uint8 `[B,1+k*temporal,H,W,3]`, not empty, with H and W multiples of `spatial`."""
    if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != COLOURS or frames.numel() == 0:
        raise ValueError(f"frames: {frames.dtype} {tuple(frames.shape)}; expected uint8 [B,N,H,W,3], not empty")
    _check_sizes(frames, spatial, temporal)


def to_uint8(pixels: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded and clipped."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _check_sizes(pixels: Tensor, spatial: int, temporal: int) -> None:
    count, rows, columns = pixels.shape[1:4]
    if count % temporal != 1 % temporal:
        raise ValueError(
            f"frames: {count} is not 1 + k * {temporal}; cut the clip to {max(count - 1, 0) // temporal * temporal + 1} frames"
        )
    if rows % spatial or columns % spatial:
        raise ValueError(f"frames: {rows}x{columns} pixels are not multiples of {spatial}; scale or crop the picture")


def _check_block(spatial: int, temporal: int) -> None:
    if not 2 <= spatial <= 16:
        raise ValueError(f"spatial: {spatial} is outside 2..16; 8 suits small pictures, 16 large ones")
    if not 1 <= temporal <= 8:
        raise ValueError(f"temporal: {temporal} is outside 1..8; use the timeline's video stride")


def _to_unit(frames: Tensor) -> Tensor:
    return frames.float() / 127.5 - 1


def _basis(spatial: int, temporal: int, index: np.ndarray) -> np.ndarray:
    """Rows `index` of the block basis, float64 `[len(index), K]`; both axes run over (frame, row, column, colour)."""
    t, y, x, c = np.unravel_index(index, (temporal, spatial, spatial, COLOURS))
    time, space, colour = dct_matrix(temporal), dct_matrix(spatial), dct_matrix(COLOURS)
    return np.einsum("it,iy,ix,ic->ityxc", time[t], space[y], space[x], colour[c], optimize=True).reshape(len(index), -1)


def _inverse(spatial: int, temporal: int, coefficients_K: np.ndarray) -> np.ndarray:
    """The block `[K]` with these coefficients."""
    grid = coefficients_K.reshape(temporal, spatial, spatial, COLOURS)
    time, space, colour = dct_matrix(temporal), dct_matrix(spatial), dct_matrix(COLOURS)
    return np.einsum("tyxc,tT,yY,xX,cC->TYXC", grid, time, space, space, colour, optimize=True).reshape(-1)


def _blocks(pixels: Tensor, spatial: int, temporal: int) -> Tensor:
    """`[B,1+k*temporal,H,W,3]` -> `[B,1+k,H/s,W/s,K]`, the first frame repeated to fill its block."""
    _check_sizes(pixels, spatial, temporal)
    first = pixels[:, :1].expand(-1, temporal - 1, -1, -1, -1)
    batch, count, rows, columns, colours = (padded := torch.cat([first, pixels], dim=1)).shape
    split = padded.reshape(batch, count // temporal, temporal, rows // spatial, spatial, columns // spatial, spatial, colours)
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4)


def _unblock(blocks_BHWK: Tensor, spatial: int, temporal: int) -> Tensor:
    """`[B,h,w,K]` of one latent -> `[B,temporal,h*s,w*s,3]`."""
    split = blocks_BHWK.unflatten(-1, (temporal, spatial, spatial, COLOURS))
    return split.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)
