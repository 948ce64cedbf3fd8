"""`data prepare` with networks in the formats of Wan and Stable Audio: CPUs decode, actors encode, and the dataset finds them again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrained_material import NARROW21, NARROW_OOBLECK, oobleck_folder, wan_folder

from mutual_forcing.datasets.adopt import prepared_dataset
from mutual_forcing.datasets.config import DataConfig
from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, write_corpus
from mutual_forcing.datasets.encoding.actor_pool import PoolConfig
from mutual_forcing.datasets.encoding.pretrained_codecs import PretrainedConfig, open_codecs
from mutual_forcing.datasets.ffmpeg.media import decode, probe
from mutual_forcing.datasets.pipeline import prepare
from mutual_forcing.datasets.reading.loader import LatentDataset
from mutual_forcing.datasets.views.pictures import decode_record
from mutual_forcing.model.codecs import DctVideoConfig, MdctAudioConfig
from mutual_forcing.model.text import TextConfig
from mutual_forcing.model.timeline import Timeline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_dataset_of_pretrained_latents(ray_cluster: str, tmp_path: Path) -> None:
    media, nets, out = tmp_path / "media", tmp_path / "nets", tmp_path / "data"
    write_corpus(SyntheticConfig(count=3, seconds=1.2, width=32, height=32, seed=3), media)
    pretrained = PretrainedConfig(str(wan_folder(nets / "wan", NARROW21)), str(oobleck_folder(nets / "oobleck", NARROW_OOBLECK)))
    config = DataConfig(
        media=str(media),
        width=32,
        height=32,
        clip_chunks=2,
        held_out_share=0.3,
        timeline=Timeline(sample_rate=44100, audio_hop=2048),
        video_codec=DctVideoConfig(spatial=8, temporal=4, channels=16),
        audio_codec=MdctAudioConfig(hop=2048, channels=4),
        pretrained=pretrained,
        encoders=PoolConfig(min_actors=1, max_actors=2),
    )
    with pytest.raises(ValueError, match=r"data\.pretrained\.video=.*--set data\.video_codec\.channels=16"):
        prepare(replace(config, video_codec=DctVideoConfig(channels=32)), out)
    manifest = prepare(config, out)
    assert manifest.clips == 3
    assert (manifest.video_codec["kind"], manifest.audio_codec["kind"]) == ("wan-video", "oobleck-audio")
    assert len(manifest.statistics["video"]["mean"]) == 16

    dataset = LatentDataset(out, TextConfig(), verify=True)
    (shard, row), *_ = dataset.train
    record = shard.row(row)
    frames = decode(media / record.source, probe(media / record.source), config.decoding).frames[: config.timeline.frames(2)]
    codecs = open_codecs(manifest.video_codec, manifest.audio_codec)
    assert codecs.video is not None
    np.testing.assert_array_equal(record.video, codecs.video.encode(torch.from_numpy(frames.copy())[None])[0].half().numpy())
    shown = decode_record(record, manifest, "", codecs).frames
    assert shown is not None
    assert shown.shape[1:] == (32, 32, 3)
    assert prepared_dataset(replace(config, prepared=str(out))).clips == 3

    moved = shutil.copytree(nets, tmp_path / "elsewhere")
    shutil.rmtree(nets)
    there = replace(config, pretrained=PretrainedConfig(str(moved / "wan"), str(moved / "oobleck")))
    assert prepare(there, out, grow=True) == manifest, "the same networks at another place"
    weights = next((moved / "wan").glob("*.json"))
    weights.write_text(json.dumps(json.loads(weights.read_text()) | {"latents_mean": [0.5] * 16}))
    with pytest.raises(ValueError, match=r"data\.pretrained\.video=.*was made with another one"):
        prepare(replace(there, media=(str(media), str(_more(tmp_path)))), out, grow=True)


def test_a_set_of_sound_alone_needs_no_network_of_pictures(ray_cluster: str, tmp_path: Path) -> None:
    """Of both that are named one is not there: who opened it would end."""
    media, nets, out = tmp_path / "media", tmp_path / "nets", tmp_path / "data"
    write_corpus(SyntheticConfig(count=3, seconds=1.2, width=32, height=32, seed=3), media)
    config = DataConfig(
        media=str(media),
        modalities=("audio",),
        clip_chunks=2,
        held_out_share=0.3,
        timeline=Timeline(sample_rate=44100, audio_hop=2048),
        audio_codec=MdctAudioConfig(hop=2048, channels=4),
        pretrained=PretrainedConfig(str(nets / "none"), str(oobleck_folder(nets / "oobleck", NARROW_OOBLECK))),
        encoders=PoolConfig(min_actors=1, max_actors=1),
    )
    manifest = prepare(config, out)
    assert (manifest.clips, manifest.video_codec, manifest.audio_codec["kind"]) == (3, {}, "oobleck-audio")

    # Earlier releases wrote down the codec of pictures too.
    replace(manifest, video_codec=manifest.audio_codec | {"kind": "wan-video", "folder": str(nets / "none")}).write(out)
    assert prepare(replace(config, media=(str(media), str(_more(tmp_path)))), out, grow=True).clips == 4


def _more(tmp_path: Path) -> Path:
    write_corpus(SyntheticConfig(count=1, seconds=1.2, width=32, height=32, seed=8), tmp_path / "more")
    return tmp_path / "more"
