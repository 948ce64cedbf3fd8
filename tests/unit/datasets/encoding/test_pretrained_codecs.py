"""Which autoencoders a run names, what its settings must be with them, and how those of a dataset are found again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrained_material import NARROW22, NARROW_OOBLECK, oobleck_folder, wan_folder

from mutual_forcing.datasets.encoding.pretrained_codecs import (
    PretrainedConfig,
    describe_pretrained,
    needed_settings,
    open_codecs,
    require_same,
    require_settings,
)
from mutual_forcing.model.codecs import DctVideoCodec, DctVideoConfig, MdctAudioConfig, VideoMoments, WanVideoCodec
from mutual_forcing.model.timeline import Timeline

Json = dict[str, Any]
WAN22 = {
    "data.video_codec.channels": 48,
    "data.video_codec.spatial": 16,
    "data.video_codec.temporal": 4,
    "data.timeline.video_stride": 4,
    "model.video_channels": 48,
}
OOBLECK = {
    "data.audio_codec.channels": 4,
    "data.audio_codec.hop": 2048,
    "data.timeline.audio_hop": 2048,
    "model.audio_channels": 4,
    "data.timeline.sample_rate": 44100,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainedConfig:
    folder = tmp_path_factory.mktemp("nets")
    return PretrainedConfig(str(wan_folder(folder / "wan", NARROW22)), str(oobleck_folder(folder / "oobleck", NARROW_OOBLECK)))


@pytest.fixture(scope="module")
def found(config: PretrainedConfig) -> dict[str, Json]:
    return describe_pretrained(config)


def test_settings_that_they_need_are_listed_ready_for_the_command_line(config: PretrainedConfig, found: dict[str, Json]) -> None:
    needed = needed_settings(found)
    assert needed == WAN22 | OOBLECK
    require_settings(config, found, needed)
    require_settings(config, found, {"data.width": 64})
    here = needed | {"data.video_codec.channels": 24, "model.video_channels": 24}
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the whole line is compared
        require_settings(config, found, here)
    assert str(refused.value) == (
        f"data.pretrained.video={config.video!r}: is a network with data.video_codec.channels=48, "
        "this run has data.video_codec.channels=24; give it what it needs: --set data.video_codec.channels=48 --set model.video_channels=48"
    )


def test_the_fields_of_the_embedded_codecs_hold_the_published_networks() -> None:
    """Their rates and channels stand in these fields, whose bounds are the embedded codecs' own."""
    for channels, spatial in ((16, 8), (48, 16)):
        assert DctVideoConfig(spatial, 4, channels).channels == channels
    assert MdctAudioConfig(2048, 64).hop == 2048
    timeline = Timeline(video_stride=4, sample_rate=44100, audio_hop=2048)
    assert timeline.samples(5) % 2048 == 0


def test_a_dataset_is_that_of_the_named_networks_or_refused(config: PretrainedConfig, found: dict[str, Json], tmp_path: Path) -> None:
    elsewhere = {name: data | {"folder": "/another/machine"} for name, data in found.items()}
    require_same(config, found, elsewhere, "runs/a/data")
    require_same(PretrainedConfig(), {}, elsewhere, "runs/a/data")
    with pytest.raises(ValueError, match=r"data was made with another one \(wan-video, bfloat16\), not with this .* float32"):
        require_same(config, found, elsewhere | {"video": found["video"] | {"dtype": "bfloat16"}}, "runs/a/data")
    moments = VideoMoments()
    moments.update(torch.zeros(1, 5, 8, 8, 3, dtype=torch.uint8))
    embedded = DctVideoCodec.fit(DctVideoConfig(), moments).to_json()
    with pytest.raises(ValueError, match=r"made with another one \(dct-video, embedded\)"):
        require_same(config, found, elsewhere | {"video": embedded}, "runs/a/data")
    with pytest.raises(ValueError, match=r"data\.pretrained\.audio=.*made with no codec"):
        require_same(config, found, {"video": found["video"]}, "runs/a/data")


def test_codecs_of_a_manifest_come_back_from_their_folder_or_from_another_copy(
    config: PretrainedConfig, found: dict[str, Json], tmp_path: Path
) -> None:
    there = open_codecs(found["video"], found["audio"])
    assert isinstance(there.video, WanVideoCodec)
    copy = tmp_path / "copy"
    shutil.copytree(config.video, copy)
    moved = found["video"] | {"folder": str(tmp_path / "gone")}
    other = open_codecs(moved, None, PretrainedConfig(video=str(copy)))
    assert (other.audio, other.video and other.video.identity) == (None, there.video.identity)
    with pytest.raises(ValueError, match=r"video codec of the dataset: folder='.*gone': .*--set data\.pretrained\.video=FOLDER"):
        open_codecs(moved, None)
    wan_folder(copy, NARROW22, seed=5)
    with pytest.raises(ValueError, match=r"data\.pretrained\.video='.*copy': .*the codec's JSON names .*; give the folder of that release"):
        open_codecs(moved, None, PretrainedConfig(video=str(copy)))


@pytest.mark.parametrize(("field", "other"), [("video", "audio"), ("audio", "video")])
def test_a_network_of_the_other_modality_is_refused(config: PretrainedConfig, field: str, other: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.pretrained\.{field}=.*is no {field} codec"):
        describe_pretrained(PretrainedConfig(**{field: getattr(config, other)}))


def test_what_is_no_network_is_refused_with_its_field(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.pretrained\.video='.*none': .*does not exist"):
        describe_pretrained(PretrainedConfig(video=str(tmp_path / "none")))
    with pytest.raises(ValueError, match=r"data\.pretrained\.audio='ftp://x': ftp:// is no address of folders"):
        describe_pretrained(PretrainedConfig(audio="ftp://x"))
    with pytest.raises(ValueError, match=r"data\.pretrained\.dtype='float16': is not one of"):
        PretrainedConfig(dtype="float16")
