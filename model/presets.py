"""Named networks with their clocks, from one that a laptop trains to the paper's 2 x 7B. `mutual-forcing bench model --preset NAME`.

`base` and `paper` take the latents of the published autoencoders (Wan2.2: 48 channels, 16 x 16 pixels, 4 frames; Stable Audio: 64
channels, 2048 samples) and the caption features of UMT5, and their branches are built as Wan's network is, but for the wavelengths of its
rotary positions. The paper gives 7B a branch and no shape: ours is Wan2.2-5B's with wider layers (its depth of 30 and heads of 128; 28
heads instead of 24).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .blocks import BranchConfig
from .text import TextConfig
from .timeline import Timeline
from .transformer import AVTransformer
from .trunk import TransformerConfig
from .types import MODALITIES

WAN = BranchConfig(
    qk_norm="all", norm_eps=1e-6, time_features=256, head="table", prediction="velocity", caption_features=4096
)  # as docs/pretrained.md lists it
PUBLISHED = Timeline(fps=24, video_stride=4, sample_rate=44100, audio_hop=2048, chunk_frames=12)


@dataclass(frozen=True)
class Preset:
    """A network and the clock of its latents; spatial_stride: pixels along a side of a picture latent."""

    network: TransformerConfig
    clock: Timeline
    spatial_stride: int = 8

    def meta(self) -> AVTransformer:
        """The network without memory for its weights."""
        with torch.device("meta"):
            return AVTransformer(self.network, self.clock)

    def parameters(self) -> dict[str, int]:
        """How many weights each branch has."""
        branches = self.meta().branches
        return {name: sum(p.numel() for p in branches[name].parameters()) for name in MODALITIES}


def _published(width: int, audio_width: int, depth: int, heads: int) -> Preset:
    network = TransformerConfig(
        video_channels=48,
        audio_channels=64,
        video_width=width,
        audio_width=audio_width,
        depth=depth,
        heads=heads,
        head_dim=128,
        window=8,
        text=TextConfig(max_words=64),
        video=WAN,
        audio=WAN,
    )
    return Preset(network, PUBLISHED, spatial_stride=16)


PRESETS = {
    "tiny": Preset(TransformerConfig(video_width=96, audio_width=96, depth=2, heads=3), Timeline()),
    "small": Preset(TransformerConfig(video_width=320, audio_width=320, depth=8, heads=5, head_dim=64), Timeline()),
    "base": _published(width=1536, audio_width=1024, depth=30, heads=12),
    "paper": _published(width=3584, audio_width=3584, depth=30, heads=28),
}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in PRESETS:
        raise ValueError(f"preset {name!r}: unknown; choose from {', '.join(PRESETS)}")
    return PRESETS[name]
