"""From a codec's JSON, or a pretrained network's folder, to the codec. Plain data only, nothing is unpickled or imported by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .base import AudioCodec, TextEncoder, VideoCodec
from .dct import DctVideoCodec
from .folder import Place, folder_class
from .mdct import MdctAudioCodec
from .oobleck_audio import OobleckAudioCodec
from .umt5 import Umt5TextEncoder
from .wan_video import WanVideoCodec

HERE = Place()

VIDEO: dict[str, Callable[[Mapping[str, Any], Place], VideoCodec]] = {
    DctVideoCodec.kind: lambda data, _: DctVideoCodec.from_json(data),
    WanVideoCodec.kind: lambda data, place: WanVideoCodec.load(place, data),
}
AUDIO: dict[str, Callable[[Mapping[str, Any], Place], AudioCodec]] = {
    MdctAudioCodec.kind: lambda data, _: MdctAudioCodec.from_json(data),
    OobleckAudioCodec.kind: lambda data, place: OobleckAudioCodec.load(place, data),
}
TEXT: dict[str, Callable[[Mapping[str, Any], Place], TextEncoder]] = {
    Umt5TextEncoder.kind: lambda data, place: Umt5TextEncoder.load(place, data),
}
FOLDERS: dict[str, type[WanVideoCodec] | type[OobleckAudioCodec]] = {
    WanVideoCodec.layout.network: WanVideoCodec,
    OobleckAudioCodec.layout.network: OobleckAudioCodec,
}


def video_codec_from_json(data: Mapping[str, Any], place: Place = HERE) -> VideoCodec:
    """The video codec whose `to_json` made `data`; ValueError names what is wrong with it. `place` is for the pretrained ones."""
    return VIDEO[_kind(data, list(VIDEO))](data, place)


def audio_codec_from_json(data: Mapping[str, Any], place: Place = HERE) -> AudioCodec:
    """The audio codec whose `to_json` made `data`; ValueError names what is wrong with it. `place` is for the pretrained ones."""
    return AUDIO[_kind(data, list(AUDIO))](data, place)


def codec_from_json(data: Mapping[str, Any], place: Place = HERE) -> VideoCodec | AudioCodec:
    """The codec, of either modality, whose `to_json` made `data`; ValueError names what is wrong with it."""
    kind = _kind(data, [*VIDEO, *AUDIO])
    return VIDEO[kind](data, place) if kind in VIDEO else AUDIO[kind](data, place)


def text_encoder_from_json(data: Mapping[str, Any], place: Place = HERE) -> TextEncoder:
    """The text encoder whose `to_json` made `data`; ValueError names what is wrong with it."""
    return TEXT[_kind(data, list(TEXT))](data, place)


def codec_from_folder(place: Place) -> VideoCodec | AudioCodec:
    """The codec that a folder of diffusers holds.

    Raises:
        ValueError: it holds another network, or is missing or damaged.
    """
    return _class_of(place).load(place)


def describe_folder(place: Place) -> dict[str, Any]:
    """The JSON of the codec that a folder of diffusers holds, without its weights in memory: its files are hashed.

    Raises:
        ValueError: as `codec_from_folder`, for all but values that are not finite.
    """
    return _class_of(place).describe(place)


def _class_of(place: Place) -> type[WanVideoCodec] | type[OobleckAudioCodec]:
    name = folder_class(place.folder)
    if name not in FOLDERS:
        raise ValueError(f"folder={place.folder!r}: config.json: _class_name={name!r} is not one of {', '.join(FOLDERS)}")
    return FOLDERS[name]


def _kind(data: Mapping[str, Any], known: list[str]) -> str:
    if not isinstance(data, Mapping):
        raise ValueError(f"codec: {type(data).__name__} is not a JSON object; give what to_json() wrote")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"codec.kind: {str(kind)[:80]!r} is not one of {', '.join(known)}; prepare the data again or update the package")
    return kind
