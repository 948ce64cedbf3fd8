"""A codec's JSON alone says what its latents look like and which codec it is; a folder's JSON is had without its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from codec_material import moving_discs
from pretrained_material import NARROW21, NARROW22, NARROW_OOBLECK, WEIGHTS, oobleck_folder, wan_folder

from mutual_forcing.model.codecs import (
    AudioMoments,
    AudioShape,
    DctVideoCodec,
    DctVideoConfig,
    MdctAudioCodec,
    MdctAudioConfig,
    OobleckAudioCodec,
    Place,
    VideoMoments,
    VideoShape,
    WanVideoCodec,
    audio_shape,
    codec_from_folder,
    describe_folder,
    identity_in,
    is_pretrained,
    video_shape,
)

Codec = DctVideoCodec | MdctAudioCodec | WanVideoCodec | OobleckAudioCodec


@pytest.fixture(scope="module")
def codecs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("nets")
    video, audio = VideoMoments(), AudioMoments()
    video.update(moving_discs(1, 9, 16))
    audio.update(torch.randn(1, 2048, generator=torch.Generator().manual_seed(0)))
    return {
        "dct": DctVideoCodec.fit(DctVideoConfig(), video),
        "mdct": MdctAudioCodec.fit(MdctAudioConfig(), audio),
        "wan21": codec_from_folder(Place(str(wan_folder(folder / "wan21", NARROW21)))),
        "wan22": codec_from_folder(Place(str(wan_folder(folder / "wan22", NARROW22)), dtype="bfloat16")),
        "oobleck": codec_from_folder(Place(str(oobleck_folder(folder / "oobleck", NARROW_OOBLECK)))),
    }


def as_read(codec: Codec) -> dict[str, Any]:
    return json.loads(json.dumps(codec.to_json()))


@pytest.mark.parametrize("name", ["dct", "wan21", "wan22"])
def test_the_json_of_a_video_codec_tells_its_shape(codecs: dict[str, Any], name: str) -> None:
    codec = codecs[name]
    shape = video_shape(as_read(codec))
    assert shape == VideoShape(codec.channels, codec.spatial_stride, codec.temporal_stride)
    side = 2 * shape.spatial
    assert codec.encode(moving_discs(1, 1 + shape.temporal, side)).shape[1:] == (2, shape.channels, 2, 2)
    with pytest.raises(ValueError, match="no audio codec"):
        audio_shape(as_read(codec))


@pytest.mark.parametrize("name", ["mdct", "oobleck"])
def test_the_json_of_an_audio_codec_tells_its_shape(codecs: dict[str, Any], name: str) -> None:
    codec = codecs[name]
    shape = audio_shape(as_read(codec))
    assert shape == AudioShape(codec.channels, codec.hop, 44100 if name == "oobleck" else 0)
    assert codec.encode(torch.zeros(1, 3 * shape.hop)).shape[1:] == (3, shape.channels)
    with pytest.raises(ValueError, match="no video codec"):
        video_shape(as_read(codec))


def test_identity_is_in_the_json(codecs: dict[str, Any]) -> None:
    for name, codec in codecs.items():
        assert identity_in(as_read(codec)) == codec.identity
        assert is_pretrained(as_read(codec)) == (name in ("wan21", "wan22", "oobleck"))


@pytest.mark.parametrize(("name", "dtype"), [("wan21", "float32"), ("wan22", "bfloat16"), ("oobleck", "float32")])
def test_a_folder_is_described_as_its_codec_would_be(codecs: dict[str, Any], name: str, dtype: str) -> None:
    codec = codecs[name]
    assert describe_folder(Place(codec.origin.folder, dtype=dtype)) == codec.to_json()


def test_a_copy_of_a_folder_is_the_same_codec_and_a_changed_one_is_not(codecs: dict[str, Any], tmp_path: Path) -> None:
    codec = codecs["wan21"]
    copy = tmp_path / "elsewhere"
    shutil.copytree(codec.origin.folder, copy)
    data = describe_folder(Place(str(copy)))
    assert data["folder"] == str(copy)
    assert identity_in(data) == codec.identity
    wan_folder(copy, NARROW21, seed=1)
    assert identity_in(describe_folder(Place(str(copy)))) != codec.identity
    assert identity_in(describe_folder(Place(codec.origin.folder, dtype="bfloat16"))) != codec.identity


def test_a_folder_that_no_codec_comes_from_is_refused_by_its_name(codecs: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "cut short"
    shutil.copytree(codecs["wan21"].origin.folder, copy)
    (copy / WEIGHTS).write_bytes((copy / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"folder='.*cut short': diffusion_pytorch_model\.safetensors is cut short"):
        describe_folder(Place(str(copy)))
    with pytest.raises(ValueError, match="no local folder"):
        WanVideoCodec.describe(Place("s3://bucket/vae"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "list is not a JSON object"),
        ({"kind": "dct-video"}, "missing field channels"),
        ({"kind": "dct-video", "channels": 1.5}, "'1.5' is not an integer"),
        ({"kind": "wan-video", "config": 3}, "codec.config: '3' is no JSON object"),
        ({"kind": "wan-video", "config": {"z_dim": 0}}, "z_dim=0"),
        ({"kind": "cosmos"}, "'cosmos' is no video codec of this release"),
    ],
)
def test_json_that_no_codec_wrote_has_no_shape(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        video_shape(data)
