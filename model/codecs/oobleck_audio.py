"""Audio codec: the autoencoder of Stable Audio (44.1 kHz, hop 2048, 64 channels), through diffusers' AutoencoderOobleck.

The network is stereo, our sound is mono: the samples go to both channels, and decoding returns their mean. Latents are the posterior's mean
as it is: the network's config holds no constants to normalise them by.

The decoder's convolutions look both ways, so a latent's samples depend on `left` latents before it and `right` after it; how many is
computed from the modules. A stream therefore lags by `right` latents, and decodes each push together with its neighbours on both sides:

    held      | left: emitted | to be emitted | right: waits |      latents
    kept                      [ T' * hop samples ]

What is cut away at the inner edges is all that could see them, and at the ends of the clip the network meets its own padding, as in the
whole decode. Both agree up to rounding: convolutions of another length may add in another order (1e-5 of the largest sample in float32).
Dimensions: B batch, S samples, T latents, C channels.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..pretrained import Copy, as_it_is
from ..types import at_least_fp32
from .folder import CONFIG, FromFolder, Layout, Origin, check_arguments, check_pushed, needs, on_meta, whole, wholes
from .mdct import check_samples


@dataclass(frozen=True)
class OobleckShape:
    """What this codec reads in the config of an AutoencoderOobleck."""

    channels: int
    hop: int
    sample_rate: int
    sides: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> OobleckShape:
        """ValueError names the field that is not that of such a network."""
        channels, hidden = whole(config, "decoder_input_channels", 1, 1024), whole(config, "encoder_hidden_size", 1, 4096)
        whole(config, "decoder_channels", 1, 4096)
        if hidden != 2 * channels:
            raise ValueError(f"{CONFIG}: encoder_hidden_size={hidden}: must be twice decoder_input_channels={channels} (mean and spread)")
        ratios = wholes(config, "downsampling_ratios", 2, 64)
        if odd := [ratio for ratio in ratios if ratio % 2]:
            raise ValueError(f"{CONFIG}: downsampling_ratios={ratios}: {odd[0]} is odd, and its decoder would lose samples")
        if len(wholes(config, "channel_multiples", 1, 64)) != len(ratios):
            raise ValueError(f"{CONFIG}: channel_multiples={config['channel_multiples']}: must be as many as downsampling_ratios={ratios}")
        return cls(channels, prod(ratios), whole(config, "sampling_rate", 1, 1_000_000), whole(config, "audio_channels", 1, 2))


class OobleckAudioCodec(FromFolder):
    """See the module. Unclipped: decoded samples may exceed [-1, 1]; whoever writes them clips."""

    kind: ClassVar[str] = "oobleck-audio"
    layout: ClassVar[Layout] = Layout("_class_name", "AutoencoderOobleck", "diffusion_pytorch_model.safetensors")

    def __init__(self, network: Any, origin: Origin) -> None:
        super().__init__(network, origin)
        self._shape = OobleckShape.of(origin.config)
        self._like = next(network.parameters()).new_empty(0)
        self.left, self.right = receptive_field(network.decoder, self.hop)

    @staticmethod
    def build(config: dict[str, Any]) -> tuple[nn.Module, list[Copy]]:
        """Files hold each weight as length and direction (weight normalisation); the network here has the product, made once."""
        with needs("diffusers"):
            from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck

        check_arguments(config, AutoencoderOobleck)
        OobleckShape.of(config)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's, about the weight normalisation that diffusers uses
            network = on_meta(AutoencoderOobleck, config)
        copies = []
        for prefix, module in network.named_modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                sources = tuple((f"{prefix}.weight_{part}", tuple(module.get_parameter(f"weight_{part}").shape)) for part in "vg")
                nn.utils.remove_weight_norm(module)
                copies.append(Copy(f"{prefix}.weight", sources, _folded))
        folded = {copy.target for copy in copies}
        copies += [Copy(name, ((name, tuple(p.shape)),), as_it_is) for name, p in network.named_parameters() if name not in folded]
        return network, copies

    @property
    def channels(self) -> int:
        return self._shape.channels

    @property
    def hop(self) -> int:
        return self._shape.hop

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self._shape.sample_rate

    @property
    def delay_ms(self) -> float:
        """How far a stream lags behind what was pushed: `right` latents."""
        return 1000 * self.right * self.hop / self.sample_rate

    @torch.no_grad()
    def encode(self, samples: Tensor) -> Tensor:
        """Samples float32 `[B,S]`, S a multiple of `hop` -> latents float32 `[B,S/hop,C]`."""
        check_samples(samples, self.hop)
        sides_BXS = samples.to(self._like)[:, None].expand(-1, self._shape.sides, -1)
        return at_least_fp32(self.network.encode(sides_BXS).latent_dist.mode()).transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[B,T,C]` of a whole signal, at once -> samples float32 `[B,T*hop]`. Long signals take less memory as a stream."""
        return self.samples(self.raw(latents))

    def stream(self) -> OobleckAudioStream:
        """A decoder that holds the latents in whose reach the next samples lie."""
        return OobleckAudioStream(self)

    def raw(self, latents: Tensor) -> Tensor:
        """Latents `[B,T,C]` -> `[B,C,T]` as the network knows them; ValueError unless they are this codec's."""
        check_pushed(latents, 3, 2, self.channels)
        return latents.to(self._like).transpose(1, 2)

    @torch.no_grad()
    def samples(self, raw_BCT: Tensor) -> Tensor:
        """Latents of the network, with its padding at both ends -> samples `[B,T*hop]`."""
        return at_least_fp32(self.network.decoder(raw_BCT)).mean(1)


class OobleckAudioStream:
    """`push` `[B,T,C]` -> T * hop samples (`right` * hop fewer in all until `flush`); `flush` -> the rest."""

    def __init__(self, codec: OobleckAudioCodec) -> None:
        self._codec = codec
        self._held_BCT: Tensor | None = None
        self._emitted = 0  # of the latents held; they are the neighbours of those that follow
        self._over = False

    def push(self, latents: Tensor) -> Tensor:
        if self._over:
            raise ValueError("stream: already flushed; open a new one with codec.stream()")
        raw_BCT = self._codec.raw(latents)
        if self._held_BCT is not None:
            if raw_BCT.shape[0] != self._held_BCT.shape[0]:
                raise ValueError(f"latents: {raw_BCT.shape[0]} clips follow {self._held_BCT.shape[0]}; open one stream a batch")
            raw_BCT = torch.cat([self._held_BCT, raw_BCT], dim=2)
        samples = self._emit(raw_BCT, raw_BCT.shape[2] - self._codec.right)
        past = max(self._emitted - self._codec.left, 0)
        # A copy, so that what was pushed does not stay in memory behind a view of its end.
        self._held_BCT, self._emitted = raw_BCT[:, :, past:].clone(), self._emitted - past
        return samples

    def flush(self) -> Tensor:
        if self._over or self._held_BCT is None:
            raise ValueError("stream: nothing to flush; push latents first, and flush once")
        held_BCT, self._held_BCT, self._over = self._held_BCT, None, True
        return self._emit(held_BCT, held_BCT.shape[2])

    def _emit(self, held_BCT: Tensor, end: int) -> Tensor:
        """The samples of latents `emitted` to `end` of those held."""
        start, hop = self._emitted, self._codec.hop
        if end <= start:
            return held_BCT.new_zeros(held_BCT.shape[0], 0, dtype=torch.promote_types(held_BCT.dtype, torch.float32))
        self._emitted = end
        return self._codec.samples(held_BCT)[:, start * hop : end * hop].clone()


def receptive_field(decoder: nn.Module, hop: int) -> tuple[int, int]:
    """How many latents before and after a latent its `hop` samples depend on, (left, right).

    The range of outputs is followed back through the convolutions, last one first; a residual connection lies within the range of the
    convolutions beside it. The modules are registered in the order in which they run.
    """
    low, high = 0, hop - 1
    for conv in reversed([m for m in decoder.modules() if isinstance(m, nn.Conv1d | nn.ConvTranspose1d)]):
        (stride,), (reach,) = conv.stride, [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        padding = conv.padding[0]
        assert isinstance(padding, int)
        if isinstance(conv, nn.ConvTranspose1d):  # input i adds to outputs i * stride - padding + (0 .. reach)
            low, high = -((reach - low - padding) // stride), (high + padding) // stride
        else:  # output o is made of inputs o * stride - padding + (0 .. reach)
            low, high = low * stride - padding, high * stride - padding + reach
    return -low, high


def _folded(direction: Tensor, length: Tensor) -> Tensor:
    """One weight for every row of the first axis, at its length."""
    wide = at_least_fp32(direction)
    return wide * (at_least_fp32(length) / wide.norm(dim=(1, 2), keepdim=True))
