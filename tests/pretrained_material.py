"""Folders of pretrained networks with random weights, written by diffusers and transformers: true configurations and narrow ones."""

from __future__ import annotations

import functools
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from mutual_forcing.model.codecs.base import LatentStream

WEIGHTS = "diffusion_pytorch_model.safetensors"


def constants(channels: int, seed: int = 3) -> dict[str, list[float]]:
    """Latent means and spreads that no default of diffusers has."""
    random_ = random.Random(seed)
    return {
        "latents_mean": [round(random_.uniform(-1, 1), 4) for _ in range(channels)],
        "latents_std": [round(random_.uniform(0.5, 2), 4) for _ in range(channels)],
    }


# The configurations of the published networks, but for the constants of their latents.
WAN21 = {"base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2, "temperal_downsample": [False, True, True]}
WAN22 = WAN21 | {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "scale_factor_temporal": 4,
}
OOBLECK = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [2, 4, 4, 8, 8],
    "channel_multiples": [1, 2, 4, 8, 16],
    "decoder_channels": 128,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 44100,
}
# The same architectures with few channels inside.
NARROW21 = WAN21 | {"base_dim": 4, "num_res_blocks": 1}
NARROW22 = WAN22 | {"base_dim": 4, "decoder_base_dim": 6, "num_res_blocks": 1}
NARROW_OOBLECK = OOBLECK | {
    "encoder_hidden_size": 8,
    "decoder_input_channels": 4,
    "decoder_channels": 4,
    "channel_multiples": [1, 1, 2, 2, 2],
}
UMT5 = {"vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu"}
PIECES = ["<pad>", "</s>", "<unk>", "▁a", "▁red", "▁round", "▁fox", "▁speaks", "▁softly", "r", "e", "d", "o", "x", "s", "▁", "&", "▁&"]


def wan_folder(path: Path, config: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """The `vae` folder of a Wan pipeline."""
    network = _random(functools.partial(AutoencoderKLWan, **config, **constants(config["z_dim"])), seed)
    network.decoder.conv_out.weight.data *= 4  # pictures that fill the range of a byte
    nn.Module.to(network, dtype)
    network.save_pretrained(path)
    return path


def oobleck_folder(path: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """The `vae` folder of a Stable Audio pipeline. Every parameter counts: also those that start at 0 or at the norm of another."""
    network = _random(functools.partial(AutoencoderOobleck, **config), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, p in network.named_parameters():
        if name.endswith(("alpha", "beta")):
            p.data.normal_(0, 0.3, generator=generator)
        if name.endswith("weight_g"):
            p.data *= torch.empty_like(p).uniform_(0.5, 1.5, generator=generator)
    network.save_pretrained(path)
    return path


def text_folder(path: Path, config: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """A Wan pipeline's folder, of which only the text encoder and its tokenizer are there."""
    torch.manual_seed(seed)
    network = UMT5EncoderModel(UMT5Config(**(config or UMT5), initializer_factor=2.0))
    network.save_pretrained(path / "text_encoder")
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0 - i / 10) for i, piece in enumerate(PIECES)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(
        path / "tokenizer"
    )
    return path


def _random(build: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network = build()
    assert isinstance(network, nn.Module)
    return network.eval()


def assert_stream_ends_once(stream: LatentStream, latents: Tensor, of_more_clips: Tensor) -> None:
    """What every stream refuses, in the order in which it can be done wrong."""
    with pytest.raises(ValueError, match="push latents first"):
        stream.flush()
    stream.push(latents)
    with pytest.raises(ValueError, match="open one stream a batch"):
        stream.push(of_more_clips)
    stream.flush()
    with pytest.raises(ValueError, match="already flushed"):
        stream.push(latents)
    with pytest.raises(ValueError, match="flush once"):
        stream.flush()
