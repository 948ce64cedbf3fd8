"""From a codec's JSON back to the codec. Plain data only, nothing is unpickled or imported by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .base import AudioCodec, VideoCodec
from .dct import DctVideoCodec
from .mdct import MdctAudioCodec

VIDEO: dict[str, Callable[[Mapping[str, Any]], VideoCodec]] = {DctVideoCodec.kind: DctVideoCodec.from_json}
AUDIO: dict[str, Callable[[Mapping[str, Any]], AudioCodec]] = {MdctAudioCodec.kind: MdctAudioCodec.from_json}


def video_codec_from_json(data: Mapping[str, Any]) -> VideoCodec:
    """The video codec whose `to_json` made `data`; ValueError names what is wrong with it."""
    return VIDEO[_kind(data, list(VIDEO))](data)


def audio_codec_from_json(data: Mapping[str, Any]) -> AudioCodec:
    """The audio codec whose `to_json` made `data`; ValueError names what is wrong with it."""
    return AUDIO[_kind(data, list(AUDIO))](data)


def codec_from_json(data: Mapping[str, Any]) -> VideoCodec | AudioCodec:
    """The codec, of either modality, whose `to_json` made `data`; ValueError names what is wrong with it."""
    kind = _kind(data, [*VIDEO, *AUDIO])
    return VIDEO[kind](data) if kind in VIDEO else AUDIO[kind](data)


def _kind(data: Mapping[str, Any], known: list[str]) -> str:
    if not isinstance(data, Mapping):
        raise ValueError(f"codec: {type(data).__name__} is not a JSON object; give what to_json() wrote")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"codec.kind: {str(kind)[:80]!r} is not one of {', '.join(known)}; prepare the data again or update the package")
    return kind
