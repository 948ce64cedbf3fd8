"""Clips become the same latents in place and in a pool of actors; what 16 bits cannot hold is found, and its clip named."""

from __future__ import annotations

import json
import pickle
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from pretrained_material import NARROW21, NARROW_OOBLECK, oobleck_folder, wan_folder

from mutual_forcing.datasets.encoding.actor_pool import PoolConfig, PoolFailed, actor_pool
from mutual_forcing.datasets.encoding.encoders import ClipEncoder, LocalEncoder, OpenEncoder, PooledEncoder, UnfitLatents, clip_encoder
from mutual_forcing.datasets.encoding.pretrained_codecs import PretrainedConfig, describe_pretrained, open_codecs
from mutual_forcing.model.codecs import AudioMoments, DctVideoCodec, DctVideoConfig, MdctAudioCodec, MdctAudioConfig, VideoMoments
from mutual_forcing.model.codecs.quality import psnr, snr

Pair = dict[str, dict[str, Any]]
SAMPLES = 4 * 2048


def clips(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, 5, 16, 16, 3), np.uint8), random.normal(0, 0.1, (count, SAMPLES)).astype(np.float32)


@pytest.fixture(scope="module")
def embedded() -> Pair:
    frames, audio = (torch.from_numpy(x) for x in clips(4, seed=9))
    video_moments, audio_moments = VideoMoments(), AudioMoments()
    video_moments.update(frames)
    audio_moments.update(audio)
    codecs = DctVideoCodec.fit(DctVideoConfig(), video_moments), MdctAudioCodec.fit(MdctAudioConfig(), audio_moments)
    return {"video": codecs[0].to_json(), "audio": codecs[1].to_json()}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PretrainedConfig:
    folder = tmp_path_factory.mktemp("nets")
    return PretrainedConfig(str(wan_folder(folder / "wan", NARROW21)), str(oobleck_folder(folder / "oobleck", NARROW_OOBLECK)))


@pytest.fixture(scope="module")
def pretrained(config: PretrainedConfig) -> Pair:
    return describe_pretrained(config)


def alone(pair: Pair, frames: np.ndarray, audio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The latents of clips that a codec is given one by one."""
    codecs = open_codecs(pair["video"], pair["audio"])
    assert codecs.video is not None
    assert codecs.audio is not None
    video = [codecs.video.encode(torch.from_numpy(x[None].copy())).half() for x in frames]
    return torch.cat(video).numpy(), torch.cat([codecs.audio.encode(torch.from_numpy(x[None].copy())).half() for x in audio]).numpy()


def assert_bits(found: tuple[np.ndarray | None, np.ndarray | None], wanted: tuple[np.ndarray, np.ndarray]) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a is not None
        assert a.dtype == b.dtype == np.float16
        assert np.array_equal(a, b)


# --- in place ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["embedded", "pretrained"])
def test_in_place_they_are_those_of_each_clip_alone(request: pytest.FixtureRequest, which: str) -> None:
    pair, (frames, audio) = request.getfixturevalue(which), clips(3)
    encoder = LocalEncoder(OpenEncoder(pair["video"], pair["audio"]))
    latents = encoder.encode(frames, audio)
    assert_bits(latents, alone(pair, frames, audio))
    assert_bits(pickle.loads(pickle.dumps(encoder)).submit(frames, audio).result(), alone(pair, frames, audio))
    codecs = open_codecs(pair["video"], pair["audio"])
    assert codecs.video is not None
    assert codecs.audio is not None
    for i, (pictures, sound) in enumerate(encoder.judge(frames, audio, latents)):
        decoded = codecs.video.decode(torch.from_numpy(latents[0][i : i + 1]).float())  # type: ignore[index]
        heard = codecs.audio.decode(torch.from_numpy(latents[1][i : i + 1]).float())  # type: ignore[index]
        assert pictures == psnr(torch.from_numpy(frames[i : i + 1]), decoded)
        assert sound == snr(torch.from_numpy(audio[i : i + 1]), heard)


def test_a_dataset_may_have_one_modality_alone(embedded: Pair) -> None:
    frames, audio = clips(2)
    pictures, sound = LocalEncoder(OpenEncoder(embedded["video"], None)), LocalEncoder(OpenEncoder(None, embedded["audio"]))
    video, nothing = pictures.encode(frames, None)
    assert nothing is None
    both = alone(embedded, frames, audio)
    assert_bits((video, sound.encode(None, audio)[1]), both)
    ((quality, none), _) = pictures.judge(frames, None, (video, None))
    assert quality > 0
    assert isnan(none)
    with pytest.raises(ValueError, match="have sound, for which the dataset has no codec"):
        pictures.encode(frames, audio)


def test_clips_that_16_bits_do_not_hold_are_named(embedded: Pair) -> None:
    loud = embedded["audio"] | {"scale": [1e-9] * 128, "mean": [0.0] * 512}
    encoder = LocalEncoder(OpenEncoder(embedded["video"], loud))
    frames, audio = clips(4)
    audio[[0, 2]] = 0
    with pytest.raises(UnfitLatents) as found:
        encoder.encode(frames, audio)
    assert (found.value.modality, found.value.clips) == ("audio", (1, 3))
    assert str(found.value) == "its audio latents are not finite in 16 bits; fit the codec to clips like this one"
    assert str(pickle.loads(pickle.dumps(found.value))) == str(found.value)
    assert_bits(encoder.encode(frames[::2], audio[::2]), alone({**embedded, "audio": loud}, frames[::2], audio[::2]))


@pytest.mark.parametrize(
    ("frames", "audio", "message"),
    [(2, 3, "give as many of each"), (0, 0, "at least one"), (None, None, "at least one")],
)
def test_clips_that_do_not_go_together_are_refused(embedded: Pair, frames: int | None, audio: int | None, message: str) -> None:
    some = clips(3)
    with pytest.raises(ValueError, match=message):
        LocalEncoder(OpenEncoder(embedded["video"], embedded["audio"])).encode(
            None if frames is None else some[0][:frames], None if audio is None else some[1][:audio]
        )


# --- by actors --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_gives_what_the_place_gives(embedded: Pair) -> None:
    loud = embedded["audio"] | {"scale": [1e-9] * 128, "mean": [0.0] * 512}
    work = OpenEncoder(embedded["video"], loud)
    frames, audio = clips(5)
    quiet = audio * 0
    config = PoolConfig(batch=2, outstanding=9)
    with actor_pool("encoders", work, config) as client:
        pooled, local = PooledEncoder(client, config.batch), LocalEncoder(work)
        latents = pooled.encode(frames, quiet)
        assert_bits(latents, alone({**embedded, "audio": loud}, frames, quiet))
        assert pooled.judge(frames, quiet, latents) == local.judge(frames, quiet, latents)
        assert_bits((pooled.encode(frames, None)[0], latents[1]), (latents[0], latents[1]))  # type: ignore[arg-type]
        quiet[[1, 4]] = audio[[1, 4]]
        answer = pooled.submit(frames, quiet)
        with pytest.raises(UnfitLatents, match="audio latents are not finite") as found:
            answer.result()
        assert found.value.clips == (1, 4), "counted over all pieces"
        for frames_, audio_, message in ((frames[:, :4], None, r"4 is not 1 \+ k \* 4"), (frames, quiet[:2], "give as many of each")):
            with pytest.raises(ValueError, match=message):
                pooled.encode(frames_, audio_)
        assert client.state().lost == 0


@ray.remote(num_cpus=0)
def encoded(encoder: ClipEncoder, seed: int) -> list[Any]:
    """A worker of a data pipeline: clip after clip, the next one while the one before is under way."""
    given = np.random.default_rng(seed)
    answers = []
    for _ in range(3):
        frames, audio = given.integers(0, 256, (1, 5, 16, 16, 3), np.uint8), given.normal(0, 0.1, (1, 4 * 2048)).astype(np.float32)
        answers.append((frames, audio, encoder.submit(frames, audio)))
    return [(frames, audio, answer.result()) for frames, audio, answer in answers]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_actors_make_of_many_workers_clips_what_each_clip_alone_gives(config: PretrainedConfig, pretrained: Pair) -> None:
    pool = PoolConfig(min_actors=2, max_actors=2)
    with clip_encoder(pretrained["video"], pretrained["audio"], config, pool, "float16") as encoder:
        workers = [encoded.remote(encoder, seed) for seed in range(2)]
        for frames, audio, latents in [clip for made in ray.get(workers) for clip in made]:
            assert_bits(latents, alone(pretrained, frames, audio))
        frames, audio = clips(3)
        latents = encoder.encode(frames, audio)
        assert_bits(latents, alone(pretrained, frames, audio))
        local = LocalEncoder(OpenEncoder(pretrained["video"], pretrained["audio"]))
        assert encoder.judge(frames, audio, latents) == local.judge(frames, audio, latents)
        with pytest.raises(ValueError, match=r"4 is not 1 \+ k \* 4"):
            encoder.encode(frames[:, :4], None)
        assert isinstance(encoder, PooledEncoder)
        state = encoder.client.state()
        assert (state.up, state.lost) == (2, 0)
        assert state.served > 6 + 3 + 3


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_clips_computed_together_are_those_of_each_alone_up_to_rounding(config: PretrainedConfig, pretrained: Pair, tmp_path: Path) -> None:
    copy = wan_folder(tmp_path / "other place", NARROW21)
    settings = json.loads((copy / "config.json").read_text())
    moved = PretrainedConfig(str(copy), config.audio)  # the manifest names a folder that may be gone; here is another copy of it
    gone = {name: data | {"folder": "/gone"} for name, data in pretrained.items()}
    frames, audio = clips(5)
    with clip_encoder(gone["video"], gone["audio"], moved, PoolConfig(batch=4), "float16") as encoder:
        assert isinstance(encoder, PooledEncoder)
        video, sound = encoder.encode(frames, audio)
        assert encoder.client.state().batches == 2
        for found, wanted in zip((video, sound), alone(pretrained, frames, audio), strict=True):
            assert found is not None
            np.testing.assert_allclose(found.astype(np.float32), wanted.astype(np.float32), rtol=2e-3, atol=2e-3)
    (copy / "config.json").write_text(json.dumps(settings | {"latents_std": [1e-12] * 16}))
    unfit = describe_pretrained(moved)
    with pytest.raises(UnfitLatents, match="video latents are not finite in 16 bits; leave the clip out, or encode in float32"):
        LocalEncoder(OpenEncoder(unfit["video"], None)).encode(frames, None)
    failed = pytest.raises(PoolFailed, match=r"the last with: .*its config\.json or list of files is not that of the codec's JSON")
    with failed, clip_encoder(gone["video"], None, moved, PoolConfig(max_failures=1), "float16"):
        pass


def test_embedded_codecs_need_no_actors(embedded: Pair) -> None:
    with clip_encoder(embedded["video"], None, PretrainedConfig(), PoolConfig(), "float16") as encoder:
        assert isinstance(encoder, LocalEncoder)
