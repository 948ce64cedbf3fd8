"""Autoencoders of others in a dataset: which ones a run names, what its settings must then be, and how the codecs of a manifest come back.

    data.pretrained.video, .audio -> folder or address -> JSON with identity, no weights -> the settings that it needs
    manifest's JSON -> its folder, or the copy that data.pretrained names here -> hashes agree -> codec

A pretrained codec's rates and channels stand in the same fields as the embedded one's (`data.video_codec`, `data.audio_codec`,
`data.timeline`), so whatever counts latents does not ask which of the two it is; its `whitening` means nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ...model.codecs.base import AudioCodec, VideoCodec
from ...model.codecs.folder import DTYPES, Place
from ...model.codecs.registry import audio_codec_from_json, describe_folder, video_codec_from_json
from ...model.codecs.shape import AudioShape, audio_shape, identity_in, is_pretrained, video_shape
from ...model.types import MODALITIES
from .pretrained_folder import local_folder, placed

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class PretrainedConfig:
    """Folders of autoencoders that make the latents instead of the embedded codecs.

    video, audio: of that modality: a path, s3://BUCKET/FOLDER or hf://OWNER/NAME@COMMIT/FOLDER; empty: the embedded codec, or where a
    dataset is read, what its manifest names. dtype: that they compute in, float32 or bfloat16; part of what they are.
    """

    video: str = ""
    audio: str = ""
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"data.pretrained.dtype={self.dtype!r}: is not one of {', '.join(DTYPES)}; bfloat16 suits a GPU")

    def folders(self) -> dict[str, str]:
        """The folder of each modality that has one."""
        return {name: folder for name in MODALITIES if (folder := getattr(self, name))}

    def only(self, modalities: Collection[str]) -> PretrainedConfig:
        """Without the folders of other modalities, which a dataset that lacks these never looks into."""
        return replace(self, **{name: "" for name in MODALITIES if name not in modalities})


@dataclass(frozen=True)
class CodecPair:
    """The codecs of a dataset; None of a modality that it does not have."""

    video: VideoCodec | None = None
    audio: AudioCodec | None = None


def describe_pretrained(config: PretrainedConfig) -> dict[str, Json]:
    """The codec's JSON of each modality that has a folder, without weights in memory. Remote folders are copied to this machine.

    Raises:
        ValueError: a folder cannot be had, is damaged, or holds a network of the other modality; one line names the field.
    """
    found = {}
    for modality, uri in config.folders().items():
        field = f"data.pretrained.{modality}"
        data = _named(field, uri, lambda place: describe_folder(place), _place(field, uri, Place(dtype=config.dtype)))
        _named(field, uri, video_shape if modality == "video" else audio_shape, data)
        found[modality] = data
    return found


def needed_settings(found: Mapping[str, Json]) -> dict[str, int]:
    """What a run's settings must be with these codecs, by modality: their names as `--set` takes them."""
    needed = dict[str, int]()
    if video := found.get("video"):
        shape = video_shape(video)
        needed |= {f"data.video_codec.{name}": getattr(shape, name) for name in ("channels", "spatial", "temporal")}
        needed |= {"data.timeline.video_stride": shape.temporal, "model.video_channels": shape.channels}
    if audio := found.get("audio"):
        shape = audio_shape(audio)
        needed |= {f"data.audio_codec.{name}": getattr(shape, name) for name in ("channels", "hop")}
        needed |= {"data.timeline.audio_hop": shape.hop, "model.audio_channels": shape.channels} | _rate(shape)
    return needed


def _rate(shape: AudioShape) -> dict[str, int]:
    return {"data.timeline.sample_rate": shape.sample_rate} if shape.sample_rate else {}


def require_settings(config: PretrainedConfig, found: Mapping[str, Json], here: Mapping[str, Any]) -> None:
    """Refuse settings that the codecs do not go with. here: those of the run, by name; what is not among them is not asked for.

    Raises:
        ValueError: they differ; the line lists every `--set` that the run needs.
    """
    for modality, uri in config.folders().items():
        needed = needed_settings({modality: found[modality]})
        apart = {name: value for name, value in needed.items() if name in here and here[name] != value}
        if apart:
            name, value = next(iter(apart.items()))
            remedy = " ".join(f"--set {shlex.quote(f'{name}={value}')}" for name, value in apart.items())
            raise ValueError(
                f"data.pretrained.{modality}={uri!r}: is a network with {name}={value}, this run has {name}={here[name]}; "
                f"give it what it needs: {remedy}"
            )


def require_same(config: PretrainedConfig, found: Mapping[str, Json], manifest: Mapping[str, Json | None], what: str) -> None:
    """Refuse codecs other than those that made a dataset. manifest: its codecs by modality; `what` names the dataset in the error.

    Raises:
        ValueError: a network has another content, or another dtype, than the one that made the latents.
    """
    for modality, uri in config.folders().items():
        made = manifest.get(modality)
        if made is None or identity_in(made) != identity_in(found[modality]):
            kind = "no codec" if made is None else f"another one ({made.get('kind')}, {made.get('dtype', 'embedded')})"
            raise ValueError(
                f"data.pretrained.{modality}={uri!r}: {what} was made with {kind}, not with this network as {config.dtype}; leave the "
                "setting out, or prepare the data again"
            )


def open_codecs(video: Json | None, audio: Json | None, config: PretrainedConfig | None = None, device: str = "cpu") -> CodecPair:
    """The codecs whose JSON a manifest holds. `config` may name another copy of a pretrained one's folder on this machine.

    Takes as long as reading and hashing the weights: open them once, not for each clip.

    Raises:
        ValueError: a folder is not here, or not the same; one line says how to name another copy.
    """
    return CodecPair(
        None if video is None else _opened("video", video, video_codec_from_json, config, device),
        None if audio is None else _opened("audio", audio, audio_codec_from_json, config, device),
    )


def _opened(modality: str, data: Json, make: Any, config: PretrainedConfig | None, device: str) -> Any:
    if not is_pretrained(data):
        return make(data)
    field, uri = f"data.pretrained.{modality}", (config or PretrainedConfig()).folders().get(modality, "")
    if uri:
        return _named(field, uri, lambda place: make(data, place), _place(field, uri, Place(device=device)))
    try:
        return make(data, placed(data, Place(device=device)))
    except ValueError as error:
        raise ValueError(f"{modality} codec of the dataset: {error}; or name another copy with --set {field}=FOLDER") from error


def _place(field: str, uri: str, place: Place) -> Place:
    return Place(str(local_folder(field, uri)), place.device, place.dtype, uri if "://" in uri else "")


def _named(field: str, uri: str, make: Any, value: Any) -> Any:
    """`make(value)`, its errors with the field before them."""
    try:
        return make(value)
    except ValueError as error:
        raise ValueError(f"{field}={uri!r}: {error}") from error
