"""Audio codec: an MDCT with a sine window (Princen, Johnson, Bradley 1987), of which the loudest coefficients are kept.

    samples   0 .... M .... 2M .... 3M        T * M samples
    latents   |  z0  |  z1  |  z2   |         T latents; the window of z_i covers [iM - M/2, iM + 3M/2)

It is computed as a lapped orthogonal transform: at each inner boundary, pairs of samples mirrored about it (up to M/2 away) are
rotated into each other; then each block of M takes a DCT-IV (even at its left end, odd at its right: an MDCT of phase -M/2).
At the two ends of the signal nothing is rotated, which makes those window edges rectangular, so T latents hold T * M samples exactly.

Decoding latents one by one: the last M/2 samples of what was pushed wait for the next latent (M/2 samples of delay, 16 ms at
M = 512 and 16 kHz). `flush` is for the true end of the encoded signal, and there alone it is exact. A *prefix* of a longer
sequence is right up to its last M/2 samples; these are mirrored images (time aliasing) if flushed: take a stream and do not flush it.
Dimensions: B batch, S samples, T latents, M = hop = coefficients of a block, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .selection import Moments, Selection, check_channels, check_latents, check_whitening, select
from .serial import identity_of, read_integer, read_number, require_keys


@dataclass(frozen=True)
class MdctAudioConfig:
    """The window that is transformed, and what is kept of it. hop: samples a latent (even, 2..4096). channels: coefficients that are kept,
    of `hop`. whitening: 0 leaves latents as spread as they are, 1 gives all channels the same spread.
    """

    hop: int = 512
    channels: int = 128
    whitening: float = 0.5

    def __post_init__(self) -> None:
        _check_hop(self.hop)
        check_channels(self.channels, self.hop)
        check_whitening(self.whitening)


class AudioMoments(Moments):
    """First and second moments of the MDCT coefficients of audio; see `selection.Moments`."""

    def __init__(self, hop: int = 512) -> None:
        _check_hop(hop)
        super().__init__(hop)
        self._basis_MM = torch.from_numpy(_dct4_matrix(hop)).float()

    @property
    def size(self) -> int:
        return self.geometry[0]

    def update(self, samples: Tensor) -> None:
        """Measure clips, float32 `[B,S]` in [-1, 1], S a multiple of `hop`."""
        (hop,) = self.geometry
        check_samples(samples, hop)
        coefficients = fold(samples.float().unflatten(1, (-1, hop))) @ self._basis_MM.to(samples.device)
        self.add(coefficients.flatten(0, 1), np.ones(hop, dtype=bool))


class MdctAudioCodec:
    """See the module. Linear and unclipped: decoded samples may exceed [-1, 1] slightly; whoever writes them clips."""

    kind: ClassVar[str] = "mdct-audio"

    def __init__(self, config: MdctAudioConfig, selection: Selection) -> None:
        self.config = config
        self.selection = selection
        basis_MM = _dct4_matrix(config.hop)
        kept_CM = basis_MM[selection.index_C]
        self._analysis_MC, self._offset_C = selection.analysis(kept_CM)
        self._synthesis_CM = selection.synthesis(kept_CM)
        self._mean_M = torch.from_numpy(selection.mean_K @ basis_MM)
        self.identity = identity_of(self.to_json())

    @classmethod
    def fit(cls, config: MdctAudioConfig, moments: AudioMoments) -> MdctAudioCodec:
        """Keep what carries the most variance in the measured clips; ValueError if nothing was measured or at another hop."""
        if moments.geometry != (config.hop,):
            raise ValueError(f"moments: measured at hop {moments.geometry[0]}, not {config.hop}; measure again")
        return cls(config, select(moments, config.channels, config.whitening, np.zeros(config.hop, dtype=bool)))

    @property
    def channels(self) -> int:
        return self.config.channels

    @property
    def hop(self) -> int:
        return self.config.hop

    def encode(self, samples: Tensor) -> Tensor:
        """Samples float32 `[B,S]`, S a multiple of `hop` -> latents float32 `[B,S/hop,C]` (float64 stays float64)."""
        check_samples(samples, self.hop)
        blocks = fold(samples.unflatten(1, (-1, self.hop)))
        return blocks @ self._analysis_MC.to(samples) - self._offset_C.to(samples)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B,T,C]` of a whole signal -> samples float32 `[B,T*hop]` (float64 stays float64)."""
        stream = self.stream()
        return torch.cat([stream.push(latents), stream.flush()], dim=1)

    def stream(self) -> MdctAudioStream:
        """A decoder that carries the half block that waits for its neighbour."""
        return MdctAudioStream(self)

    def folded_blocks(self, latents: Tensor) -> list[Tensor]:
        """Latents `[B,T,C]` -> T blocks `[B,M]`, still mirrored into each other at their boundaries."""
        check_latents(latents, 3, 2, self.channels)
        latents = latents.float() if latents.dtype != torch.float64 else latents
        synthesis_CM, mean_M = self._synthesis_CM.to(latents), self._mean_M.to(latents)
        # One latent a multiplication: rounding then cannot depend on how many were pushed together.
        return [latent_BC.contiguous() @ synthesis_CM + mean_M for latent_BC in latents.unbind(1)]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "version": 1, **asdict(self.config), **self.selection.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MdctAudioCodec:
        """Inverse of `to_json`; ValueError names the field that no codec wrote."""
        require_keys(data, ["kind", "version", "hop", "channels", "whitening", "index", "scale", "mean"])
        if data["kind"] != cls.kind or read_integer(data, "version") != 1:
            raise ValueError(f"codec.version: {data['kind']!r} {data['version']!r} is not {cls.kind!r} 1; update the package")
        config = MdctAudioConfig(read_integer(data, "hop"), read_integer(data, "channels"), read_number(data, "whitening"))
        return cls(config, Selection.from_json(data, config.channels, config.hop))


class MdctAudioStream:
    """`push` `[B,T,C]` -> T * hop samples (hop / 2 fewer the first time); `flush` -> the last hop / 2."""

    def __init__(self, codec: MdctAudioCodec) -> None:
        self._codec = codec
        self._held: Tensor | None = None
        self._over = False

    def push(self, latents: Tensor) -> Tensor:
        if self._over:
            raise ValueError("stream: already flushed; open a new one with codec.stream()")
        half = self._codec.hop // 2
        ready = []
        for block_BM in self._codec.folded_blocks(latents):
            left, right = block_BM[:, :half], block_BM[:, half:]
            ready.extend([left] if self._held is None else unrotate(self._held, left))
            self._held = right
        return torch.cat(ready, dim=1)

    def flush(self) -> Tensor:
        if self._over or self._held is None:
            raise ValueError("stream: nothing to flush; push latents first, and flush once")
        self._over = True
        return self._held


def check_samples(samples: Tensor, hop: int) -> None:
    """ValueError unless finite floating-point `[B,S]`, not empty, S a multiple of `hop`."""
    if samples.dtype not in (torch.float32, torch.float64) or samples.ndim != 2 or samples.numel() == 0:
        raise ValueError(f"samples: {samples.dtype} {tuple(samples.shape)}; expected float32 [B,S], not empty")
    if samples.shape[1] % hop:
        raise ValueError(f"samples: {samples.shape[1]} is not a multiple of hop {hop}; cut or zero-pad the clip")
    if not bool(torch.isfinite(samples).all()):
        raise ValueError("samples: not all are finite numbers; decode the file again or leave it out")


def fold(blocks_BTM: Tensor) -> Tensor:
    """Rotate mirrored pairs at the inner boundaries (an orthogonal map); the ends of the signal stay as they are."""
    half = blocks_BTM.shape[2] // 2
    before, after = blocks_BTM[:, :-1, half:], blocks_BTM[:, 1:, :half]
    near, far = _window(half, blocks_BTM)
    folded = blocks_BTM.clone()
    folded[:, :-1, half:] = near.flip(-1) * before - far.flip(-1) * after.flip(-1)
    folded[:, 1:, :half] = near * after + far * before.flip(-1)
    return folded


def unrotate(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of `fold` at one boundary: the halves `[B,M/2]` on its two sides -> their samples."""
    near, far = _window(before.shape[1], before)
    return near.flip(-1) * before + far.flip(-1) * after.flip(-1), near * after - far * before.flip(-1)


def _window(half: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Sine window at distance 0..half from a boundary: on the own side and on the other; squares sum to 1."""
    angle = np.pi / (4 * half) * (np.arange(half) + 0.5 + half)
    return torch.from_numpy(np.sin(angle)).to(like), torch.from_numpy(np.cos(angle)).to(like)


def _dct4_matrix(size: int) -> np.ndarray:
    """Orthonormal, symmetric DCT-IV `[size,size]` float64: even at the left end of a block, odd at the right."""
    grid = np.arange(size) + 0.5
    return np.sqrt(2 / size) * np.cos(np.pi / size * grid[:, None] * grid[None])


def _check_hop(hop: int) -> None:
    if not 2 <= hop <= 4096 or hop % 2:
        raise ValueError(f"hop: {hop} is not an even number in 2..4096; use the timeline's audio hop")
