"""What a codec's latents look like, and which codec it is, known from its JSON alone: no weights are read, no package of others is needed.

A dataset's manifest holds that JSON, and training needs no more than this of a codec; `folder.describe` makes it of a pretrained folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .dct import DctVideoCodec
from .folder import FromFolder
from .mdct import MdctAudioCodec
from .oobleck_audio import OobleckAudioCodec, OobleckShape
from .serial import REMEDY, identity_of, read_integer
from .wan_video import TEMPORAL, WanVaeShape, WanVideoCodec

FROM_FOLDERS: dict[str, type[FromFolder]] = {codec.kind: codec for codec in (WanVideoCodec, OobleckAudioCodec)}


@dataclass(frozen=True)
class VideoShape:
    """`1 + k * temporal` frames of HxW pixels <-> `1 + k` latents of `channels` x H/spatial x W/spatial."""

    channels: int
    spatial: int
    temporal: int


@dataclass(frozen=True)
class AudioShape:
    """`T * hop` samples <-> `T` latents of `channels`; sample_rate: that the network was made for, per second (0: any)."""

    channels: int
    hop: int
    sample_rate: int = 0


def video_shape(data: Mapping[str, Any]) -> VideoShape:
    """Of the video codec whose `to_json` made `data`; ValueError names what is wrong with it."""
    if (kind := _kind(data)) == DctVideoCodec.kind:
        return VideoShape(*(_read(data, name) for name in ("channels", "spatial", "temporal")))
    if kind == WanVideoCodec.kind:
        shape = WanVaeShape.of(_config(data))
        return VideoShape(shape.channels, shape.spatial, TEMPORAL)
    raise ValueError(f"codec.kind: {kind!r} is no video codec of this release; update the package")


def audio_shape(data: Mapping[str, Any]) -> AudioShape:
    """Of the audio codec whose `to_json` made `data`; ValueError names what is wrong with it."""
    if (kind := _kind(data)) == MdctAudioCodec.kind:
        return AudioShape(_read(data, "channels"), _read(data, "hop"))
    if kind == OobleckAudioCodec.kind:
        shape = OobleckShape.of(_config(data))
        return AudioShape(shape.channels, shape.hop, shape.sample_rate)
    raise ValueError(f"codec.kind: {kind!r} is no audio codec of this release; update the package")


def is_pretrained(data: Mapping[str, Any]) -> bool:
    """Whether a codec's JSON names a folder of weights; an embedded codec is its JSON."""
    return _kind(data) in FROM_FOLDERS


def identity_in(data: Mapping[str, Any]) -> str:
    """The codec's `identity`, SHA-256 (hex): equal ones encode equally. Where a pretrained one's folder lies is no part of it."""
    return identity_of({name: value for name, value in data.items() if name != "folder"} if is_pretrained(data) else data)


def _kind(data: Mapping[str, Any]) -> str:
    if not isinstance(data, Mapping):
        raise ValueError(f"codec: {type(data).__name__} is not a JSON object; give what to_json() wrote")
    return str(data.get("kind"))[:80]


def _read(data: Mapping[str, Any], name: str) -> int:
    if name not in data:
        raise ValueError(f"codec: missing field {name}; {REMEDY}")
    return read_integer(data, name)


def _config(data: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(config := data.get("config"), Mapping):
        raise ValueError(f"codec.config: {str(config)[:80]!r} is no JSON object; {REMEDY}")
    return config
