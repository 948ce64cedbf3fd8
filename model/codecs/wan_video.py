"""Video codec: the causal autoencoders of Wan (2.1: 4x8x8, 16 channels; 2.2: 4x16x16, 48 channels), through diffusers' AutoencoderKLWan.

    frames   f0 | f1 f2 f3 f4 | f5 f6 f7 f8 | ...      1 + 4k frames
    latents  z0 |     z1      |     z2      | ...      1 + k latents, (posterior mean - latents_mean) / latents_std of the config

Every convolution in time looks back only. So the decoder takes one latent after the other and carries, for each convolution, the last
inputs that the next latent's outputs need. Here that state is the stream's, not the network's (as in diffusers): several streams may be
open, and their memory does not grow. `decode` is a stream of one push, so both agree bit for bit. Nothing in it makes the host wait.
Dimensions: B batch, N frames, F latents, C channels, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..pretrained import Copy, same_names
from ..types import at_least_fp32
from .dct import check_frames, to_uint8
from .folder import CONFIG, FromFolder, Layout, Origin, check_arguments, check_pushed, needs, on_meta, whole, wholes

TEMPORAL = 4  # frames of a latent: AutoencoderKLWan cuts clips by this number, whatever its config says
IGNORED = ("clip_output",)  # written by an early release of diffusers, read by none; frames are clipped as uint8 anyway


@dataclass(frozen=True)
class WanVaeShape:
    """What this codec reads in the config of an AutoencoderKLWan; `patch`: pixels of a side that become channels before the network."""

    channels: int
    spatial: int
    patch: int
    mean_C: tuple[float, ...]
    std_C: tuple[float, ...]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> WanVaeShape:
        """ValueError names the field that is not that of such a network."""
        channels = whole(config, "z_dim", 1, 1024)
        whole(config, "base_dim", 1, 4096)
        whole(config, "num_res_blocks", 1, 16)
        patch = 1 if config.get("patch_size") is None else whole(config, "patch_size", 1, 8)
        levels, halved = len(wholes(config, "dim_mult", 1, 64)), config.get("temperal_downsample")
        if not isinstance(halved, list) or len(halved) != levels - 1 or any(type(x) is not bool for x in halved):
            raise ValueError(f"{CONFIG}: temperal_downsample={str(halved)[:80]}: must be {levels - 1} truth values, as dim_mult has levels")
        for field, found in (("scale_factor_temporal", 2 ** sum(halved)), ("scale_factor_spatial", spatial := patch * 2 ** (levels - 1))):
            if config.get(field, found) != found:
                raise ValueError(f"{CONFIG}: {field}={str(config[field])[:80]}: its levels and patch_size make {found}; get it again")
        if 2 ** sum(halved) != TEMPORAL:
            raise ValueError(f"{CONFIG}: temperal_downsample={halved}: only networks of {TEMPORAL} frames a latent are read")
        mean, std = _numbers(config, "latents_mean", channels), _numbers(config, "latents_std", channels)
        if min(std) <= 0:
            raise ValueError(f"{CONFIG}: latents_std={min(std)}: must be positive; get it again")
        for field in ("in_channels", "out_channels"):
            if (found := config.get(field, 3)) != 3 * patch**2:
                raise ValueError(f"{CONFIG}: {field}={str(found)[:80]}: must be {3 * patch**2}, the colours of a patch; get it again")
        return cls(channels, spatial, patch, tuple(mean), tuple(std))


class WanVideoCodec(FromFolder):
    """See the module. Encoding is deterministic: the posterior's mean, no sample."""

    kind: ClassVar[str] = "wan-video"
    layout: ClassVar[Layout] = Layout("_class_name", "AutoencoderKLWan", "diffusion_pytorch_model.safetensors")

    def __init__(self, network: Any, origin: Origin) -> None:
        super().__init__(network, origin)
        self._shape = WanVaeShape.of(origin.config)
        weight = next(network.parameters())
        self._like = weight.new_empty(0)
        wide = {"dtype": torch.promote_types(weight.dtype, torch.float32), "device": weight.device}
        self._mean_CHW = torch.tensor(self._shape.mean_C, **wide)[:, None, None]
        self._std_CHW = torch.tensor(self._shape.std_C, **wide)[:, None, None]

    @staticmethod
    def build(config: dict[str, Any]) -> tuple[nn.Module, list[Copy]]:
        with needs("diffusers"):
            from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

        arguments = {name: value for name, value in config.items() if name not in IGNORED}
        check_arguments(arguments, AutoencoderKLWan)
        WanVaeShape.of(arguments)
        network = on_meta(AutoencoderKLWan, arguments)
        return network, same_names(network, "")

    @property
    def channels(self) -> int:
        return self._shape.channels

    @property
    def spatial_stride(self) -> int:
        return self._shape.spatial

    @property
    def temporal_stride(self) -> int:
        return TEMPORAL

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """Frames uint8 `[B,N,H,W,3]`, N = 1 + 4k, H and W multiples of the stride -> float32 `[B,1+k,C,H/s,W/s]`. One caller at a time."""
        check_frames(frames, self.spatial_stride, TEMPORAL)
        pixels_BCNHW = frames.to(self._like.device).to(self._mean_CHW.dtype).permute(0, 4, 1, 2, 3) / 127.5 - 1
        posterior_BCFHW = self.network.encode(pixels_BCNHW.to(self._like)).latent_dist.mode()
        return (at_least_fp32(posterior_BCFHW).transpose(1, 2) - self._mean_CHW) / self._std_CHW

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B,1+k,C,h,w]` -> frames uint8 `[B,1+4k,h*s,w*s,3]`."""
        return self.stream().push(latents)

    def stream(self) -> WanVideoStream:
        """A decoder that emits the frames of each latent as it is pushed, without delay."""
        return WanVideoStream(self)

    def raw(self, latents: Tensor) -> Tensor:
        """Latents `[B,F,C,h,w]` -> `[B,C,F,h,w]` as the network knows them; ValueError unless they are this codec's."""
        check_pushed(latents, 5, 2, self.channels)
        return (latents.to(self._mean_CHW) * self._std_CHW + self._mean_CHW).to(self._like).transpose(1, 2)

    def pixels(self, raw_BCHW: Tensor, carried: list[Any], first: bool) -> Tensor:
        """One latent of the network -> its pixels `[B,n,H,W,3]` around [-1, 1], n = 1 if it is the first, else 4. Advances `carried`."""
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        x_BCNHW = self.network.post_quant_conv(raw_BCHW.unsqueeze(2))
        x_BCNHW = self.network.decoder(x_BCNHW, feat_cache=carried, feat_idx=[0], first_chunk=first)
        return at_least_fp32(unpatchify(x_BCNHW, self._shape.patch)).permute(0, 2, 3, 4, 1)


class WanVideoStream:
    """`push` `[B,F,C,h,w]` -> uint8 frames of those latents (the very first gives one frame); `flush` -> no frames."""

    def __init__(self, codec: WanVideoCodec) -> None:
        self._codec = codec
        # One place a convolution in time, in the order in which they run; there are more places than the decoder takes.
        self._carried: list[Any] = [None] * sum(isinstance(m, nn.Conv3d) for m in codec.network.decoder.modules())
        self._empty: Tensor | None = None
        self._over = False

    @torch.no_grad()
    def push(self, latents: Tensor) -> Tensor:
        if self._over:
            raise ValueError("stream: already flushed; open a new one with codec.stream()")
        raw_BCFHW = self._codec.raw(latents)
        size = (raw_BCFHW.shape[0], *(side * self._codec.spatial_stride for side in raw_BCFHW.shape[3:]))
        if self._empty is not None and size != (self._empty.shape[0], *self._empty.shape[2:4]):
            raise ValueError(f"latents: {size} clips, rows and columns follow others; open one stream a batch")
        frames = []
        for raw_BCHW in raw_BCFHW.unbind(2):
            frames.append(to_uint8(self._codec.pixels(raw_BCHW, self._carried, self._empty is None)))
            self._empty = frames[-1][:, :0]
        return torch.cat(frames, dim=1)

    def flush(self) -> Tensor:
        if self._over or self._empty is None:
            raise ValueError("stream: nothing to flush; push latents first, and flush once")
        self._over, self._carried = True, []
        return self._empty.clone()


def _numbers(config: Mapping[str, Any], field: str, length: int) -> list[float]:
    values = config.get(field)
    if not isinstance(values, list) or len(values) != length or any(type(x) not in (int, float) or not abs(x) < 1e6 for x in values):
        raise ValueError(f"{CONFIG}: {field}={str(values)[:80]}: must be {length} finite numbers, one a channel (z_dim); get it again")
    return values
