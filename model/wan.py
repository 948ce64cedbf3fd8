"""Wan's video network (2.1 and 2.2, text to video) as our video branch: the settings it needs, and how its tensors become ours.

Names and meaning of its tensors are those of a diffusers folder (`WanTransformer3DModel`). What differs and no setting closes is closed
here: it rotates feature pairs (2i, 2i + 1) where ours are (i, i + D/2), so rows of queries and keys change places; its time features begin
with the cosines, ours with the sines; its outputs are ordered (row, column, channel) in a patch, ours (channel, row, column).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import pi
from typing import Any

import torch
from torch import Tensor

from .blocks import BranchConfig
from .pretrained import Copy, as_it_is
from .rope import RopeConfig
from .timeline import Timeline
from .trunk import TransformerConfig

CLASS = "WanTransformer3DModel"
THETA = 10_000.0  # of its rotary positions
NUMBERS = {
    "num_layers": "depth",
    "num_attention_heads": "heads",
    "attention_head_dim": "head_dim",
    "in_channels": "channels",
    "ffn_dim": "ffn",
    "text_dim": "text",
    "freq_dim": "time",
}
ONLY = {
    "qk_norm": "rms_norm_across_heads",
    "cross_attn_norm": True,
    "image_dim": None,  # image to video by a second cross-attention
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
IGNORED = {"rope_max_seq_len"}  # the length of a table that ours does not have
NEW = ("time.end.", "words.", "word_duration.", ".cross.words_", ".cross.gate.")
"""Parts of parameter names of a branch that Wan has nothing for: they stay as they start."""


@dataclass(frozen=True)
class WanShape:
    """What the `config.json` of a Wan network says."""

    depth: int
    heads: int
    head_dim: int
    channels: int
    ffn: int
    text: int
    time: int
    patch: int
    eps: float

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def pairs(self) -> tuple[int, int]:
        """Rotary pairs of a head for time, and for each of height and width."""
        space = self.head_dim // 6
        return self.head_dim // 2 - 2 * space, space

    def adapted(self, config: TransformerConfig, timeline: Timeline) -> TransformerConfig:
        """`config` with all that its video branch needs to be this network."""
        time, space = self.pairs
        latent = timeline.video_stride / timeline.fps  # seconds; Wan counts latents
        rope = RopeConfig(time / (time + 2 * space), _wavelengths(time, latent), _wavelengths(space, 1.0))
        video = BranchConfig("all", self.eps, self.time, self.ffn, "table", "velocity", self.text)
        return replace(
            config,
            video_channels=self.channels,
            video_width=self.width,
            depth=self.depth,
            heads=self.heads,
            head_dim=self.head_dim,
            patch=self.patch,
            rope=rope,
            video=video,
        )

    def copies(self) -> list[Copy]:
        """Every parameter of the branch that this network has."""
        return list(_copies(self))


def wan_shape(config: Any) -> WanShape:
    """The content of a `config.json`, checked.

    Raises:
        ValueError: it is of another network, or of one that this project cannot be; the field is named.
    """
    name = config.get("_class_name") if isinstance(config, dict) else None
    if name != CLASS:
        raise ValueError(f"config.json: _class_name={name!r} is not {CLASS}; give the transformer folder of a Wan network")
    known = {*NUMBERS, *ONLY, *IGNORED, "out_channels", "patch_size", "eps"}
    for field in config:
        if field not in known and not field.startswith("_"):
            raise ValueError(f"config.json: {field} is no field of a plain Wan network; only its text-to-video networks can be imported")
    for field, only in ONLY.items():
        if config.get(field, only) != only:
            raise ValueError(f"config.json: {field}={config[field]!r}: only {only!r} can be imported; give a text-to-video network")
    numbers = {ours: _positive(config, field) for field, ours in NUMBERS.items()}
    out, patch, eps = config.get("out_channels"), config.get("patch_size"), config.get("eps")
    if out not in (None, numbers["channels"]):
        raise ValueError(f"config.json: out_channels={out!r}: must equal in_channels={numbers['channels']}; give a text-to-video network")
    if not isinstance(patch, list) or len(patch) != 3 or patch[0] != 1 or patch[1] != patch[2] or _not_positive(patch[1]):
        raise ValueError(f"config.json: patch_size={patch!r}: only [1, n, n] can be imported")
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise ValueError(f"config.json: eps={eps!r}: must be a number between 0 and 1")
    d = numbers["head_dim"]
    if d % 8 or 2 * (d // 6) != d // 3:
        raise ValueError(f"config.json: attention_head_dim={d}: its rotary features do not divide as Wan's do; 128 does")
    if numbers["time"] % 2:
        raise ValueError(f"config.json: freq_dim={numbers['time']}: must be even")
    return WanShape(**numbers, patch=patch[1], eps=float(eps))


def _positive(config: dict[str, Any], field: str) -> int:
    value = config.get(field)
    if _not_positive(value):
        raise ValueError(f"config.json: {field}={value!r}: must be a positive integer")
    return config[field]


def _not_positive(value: Any) -> bool:
    return isinstance(value, bool) or not isinstance(value, int) or value < 1


def _wavelengths(pairs: int, unit: float) -> tuple[float, float]:
    """Shortest and longest wavelength of frequencies THETA^(-j / pairs), j = 0 .. pairs - 1."""
    return 2 * pi * unit, 2 * pi * unit * THETA ** ((pairs - 1) / pairs)


def _copies(wan: WanShape) -> Iterator[Copy]:
    width, cells = wan.width, wan.patch**2
    turned = _halves(wan.heads, wan.head_dim)

    def one(target: str, source: str, shape: tuple[int, ...], make: Callable[..., Tensor] = as_it_is) -> Copy:
        return Copy(target, ((source, shape),), make)

    def linear(target: str, source: str, outputs: int, inputs: int) -> Iterator[Copy]:
        yield one(f"{target}.weight", f"{source}.weight", (outputs, inputs))
        yield one(f"{target}.bias", f"{source}.bias", (outputs,))

    def stacked(target: str, source: str, parts: str, rotated: str) -> Iterator[Copy]:
        """One projection from several; the rows of those in `rotated` change places."""

        def stack(*tensors: Tensor) -> Tensor:
            return torch.cat([x[turned] if part in rotated else x for part, x in zip(parts, tensors, strict=True)])

        for kind, shape in (("weight", (width, width)), ("bias", (width,))):
            yield Copy(f"{target}.{kind}", tuple((f"{source}.to_{part}.{kind}", shape) for part in parts), stack)

    yield one("embed.weight", "patch_embedding.weight", (width, wan.channels, 1, wan.patch, wan.patch), lambda x: x.flatten(1))
    yield one("embed.bias", "patch_embedding.bias", (width,))
    embedder = "condition_embedder"
    swap = torch.arange(wan.time).roll(wan.time // 2)
    yield one("time.start.0.weight", f"{embedder}.time_embedder.linear_1.weight", (width, wan.time), lambda x: x[:, swap])
    yield one("time.start.0.bias", f"{embedder}.time_embedder.linear_1.bias", (width,))
    yield from linear("time.start.2", f"{embedder}.time_embedder.linear_2", width, width)
    yield from linear("modulation.linear", f"{embedder}.time_proj", 6 * width, width)
    yield from linear("caption.0", f"{embedder}.text_embedder.linear_1", width, wan.text)
    yield from linear("caption.2", f"{embedder}.text_embedder.linear_2", width, width)
    for layer in range(wan.depth):
        block = f"blocks.{layer}"
        yield one(f"{block}.offset.value", f"{block}.scale_shift_table", (1, 6, width), lambda x: x[0])
        yield from stacked(f"{block}.attention.qkv", f"{block}.attn1", "qkv", rotated="qk")
        yield from linear(f"{block}.attention.out", f"{block}.attn1.to_out.0", width, width)
        yield from linear(f"{block}.cross.q", f"{block}.attn2.to_q", width, width)
        yield from stacked(f"{block}.cross.kv", f"{block}.attn2", "kv", rotated="")
        yield from linear(f"{block}.cross.out", f"{block}.attn2.to_out.0", width, width)
        for part in "qk":
            yield one(f"{block}.attention.{part}_norm.weight", f"{block}.attn1.norm_{part}.weight", (width,), lambda x: x[turned])
            yield one(f"{block}.cross.{part}_norm.weight", f"{block}.attn2.norm_{part}.weight", (width,))
        for kind in ("weight", "bias"):
            yield one(f"{block}.cross_norm.{kind}", f"{block}.norm2.{kind}", (width,))
        yield from linear(f"{block}.ffn.0", f"{block}.ffn.net.0.proj", wan.ffn, width)
        yield from linear(f"{block}.ffn.2", f"{block}.ffn.net.2", width, wan.ffn)
    yield one("out_modulation.value", "scale_shift_table", (1, 2, width), lambda x: x[0])
    channel_first = torch.arange(cells * wan.channels).view(cells, wan.channels).T.flatten()
    yield one("out.weight", "proj_out.weight", (cells * wan.channels, width), lambda x: x[channel_first])
    yield one("out.bias", "proj_out.bias", (cells * wan.channels,), lambda x: x[channel_first])


def _halves(heads: int, head_dim: int) -> Tensor:
    """Which row of Wan's becomes which of ours: in each head the first of every rotary pair, then the second of every pair."""
    return torch.arange(heads * head_dim).view(heads, head_dim // 2, 2).transpose(1, 2).flatten()
