"""All codecs: measured in any order, scaled as asked, read back exactly, strict about what they are given."""

from __future__ import annotations

import functools
import itertools
import json
import math

import numpy as np
import pytest
import torch
from codec_material import audio_codec, gliding_tones, moving_discs, video_codec

from mutual_forcing.model.codecs import (
    AudioMoments,
    DctVideoCodec,
    DctVideoConfig,
    MdctAudioCodec,
    MdctAudioConfig,
    VideoMoments,
    audio_codec_from_json,
    codec_from_json,
    video_codec_from_json,
)
from mutual_forcing.model.codecs.dct import block_size
from mutual_forcing.model.codecs.quality import psnr, snr

# Moments, selection, whitening


def measure_video(seed: int) -> VideoMoments:
    moments = VideoMoments()
    moments.update(moving_discs(1, 5 + 4 * seed, 16, seed))
    return moments


def measure_audio(seed: int) -> AudioMoments:
    moments = AudioMoments()
    moments.update(gliding_tones(1, 512 * (2 + seed), seed))
    return moments


@pytest.mark.parametrize(
    ("measure", "fit"),
    [
        (measure_video, functools.partial(DctVideoCodec.fit, DctVideoConfig())),
        (measure_audio, functools.partial(MdctAudioCodec.fit, MdctAudioConfig())),
    ],
    ids=["video", "audio"],
)
def test_moments_merge_in_any_order_to_one_identity(measure, fit):
    identities = set()
    for one, two, three in itertools.permutations(range(3)):
        left = measure(one).merge(measure(two)).merge(measure(three))
        right = measure(one).merge(measure(two).merge(measure(three)))
        identities |= {fit(moments).identity for moments in (left, right, type(left).from_arrays(left.to_arrays()))}
    assert len(identities) == 1
    assert fit(measure(0)).identity not in identities


def test_moments_equal_those_of_the_coefficients():
    clips = torch.rand(8, 512 * 4, dtype=torch.float32, generator=torch.Generator().manual_seed(0)) - 0.3
    moments = AudioMoments()
    for clip in clips.split(3):
        moments.update(clip)
    codec = MdctAudioCodec.fit(MdctAudioConfig(channels=512, whitening=1), moments)
    latents = codec.encode(clips).flatten(0, 1)
    torch.testing.assert_close(latents.mean(0), torch.zeros(512), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.var(0, correction=0), torch.ones(512), rtol=0, atol=1e-3)


@pytest.mark.parametrize("whitening", [0.0, 0.3, 1.0])
def test_whitening_sets_the_spectrum_and_keeps_the_mean_variance(whitening):
    frames = moving_discs(4, 17, 32)
    codec = video_codec(channels=24, whitening=whitening)
    plain = video_codec(channels=24, whitening=0)
    assert np.array_equal(codec.selection.index_C, plain.selection.index_C)
    variance, flat = (c.encode(frames)[:, 1:].permute(0, 1, 3, 4, 2).flatten(0, 3).var(0, correction=0) for c in (codec, plain))
    assert abs(float(variance.mean()) - 1) < 0.2  # the first latents, also measured, are left out here
    expected = flat.sqrt() ** (1 - whitening)
    measured = variance.sqrt()
    torch.testing.assert_close(measured / measured[0], expected / expected[0], rtol=0.2, atol=0)


def test_kept_channels_are_the_loudest():
    codec = video_codec(channels=32)
    every = video_codec(channels=768)
    dropped = np.setdiff1d(np.arange(768), codec.selection.index_C)
    frames = moving_discs(4, 17, 32)
    latents = every.encode(frames) * torch.from_numpy(every.selection.scale_C).float()[:, None, None]
    energy = np.empty(768)
    energy[every.selection.index_C] = latents[:, 1:].square().mean((0, 1, 3, 4)).numpy()
    assert energy[codec.selection.index_C].min() > 0.8 * energy[dropped].max()


def test_silence_and_one_grey_picture_can_be_fitted():
    video, audio = VideoMoments(), AudioMoments()
    grey, silence = torch.full((1, 1, 16, 16, 3), 100, dtype=torch.uint8), torch.zeros(1, 1024)
    video.update(grey)
    audio.update(silence)
    video_fit, audio_fit = DctVideoCodec.fit(DctVideoConfig(), video), MdctAudioCodec.fit(MdctAudioConfig(), audio)
    assert torch.equal(video_fit.decode(video_fit.encode(grey)), grey)
    assert torch.equal(audio_fit.decode(audio_fit.encode(silence)), silence)


# Serialization


@pytest.mark.parametrize("codec", [video_codec(), audio_codec()], ids=["video", "audio"])
def test_json_round_trip_is_exact(codec):
    copy = codec_from_json(json.loads(json.dumps(codec.to_json())))
    assert copy.identity == codec.identity
    assert copy.to_json() == codec.to_json()
    media = moving_discs(1, 5, 16) if isinstance(codec, DctVideoCodec) else gliding_tones(1, 1024)
    assert torch.equal(copy.encode(media), codec.encode(media))
    assert torch.equal(copy.decode(copy.encode(media)), codec.decode(codec.encode(media)))


def test_identity_follows_the_content():
    codecs = [video_codec(), video_codec(channels=16), video_codec(whitening=1), audio_codec(), audio_codec(channels=64)]
    data = video_codec().to_json()
    data["scale"][3] = math.nextafter(data["scale"][3], 9)
    assert len({codec.identity for codec in [*codecs, codec_from_json(data)]}) == len(codecs) + 1


def test_modality_is_checked():
    assert video_codec_from_json(video_codec().to_json()).identity == video_codec().identity
    assert audio_codec_from_json(audio_codec().to_json()).identity == audio_codec().identity
    with pytest.raises(ValueError, match=r"codec\.kind: 'mdct-audio'"):
        video_codec_from_json(audio_codec().to_json())
    with pytest.raises(ValueError, match=r"codec\.kind: 'dct-video'"):
        audio_codec_from_json(video_codec().to_json())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "pickle"),
        ("kind", ["dct-video"]),
        ("version", 2),
        ("spatial", 1000),
        ("spatial", True),
        ("temporal", 0),
        ("channels", 769),
        ("channels", 10**9),
        ("whitening", "1"),
        ("whitening", 2),
        ("index", [0] * 32),
        ("index", [*range(31), 768]),
        ("index", [*range(31), 31.5]),
        ("scale", [1.0] * 31 + [0.0]),
        ("scale", [1.0] * 31 + [math.nan]),
        ("scale", [1.0] * 31 + [10**400]),
        ("mean", [0.0] * 767),
        ("mean", [0.0] * 767 + [0.5]),
        ("mean", None),
        ("surprise", 1),
    ],
)
def test_json_that_no_codec_wrote_is_refused(field, value):
    with pytest.raises(ValueError, match=field if field != "surprise" else "unknown field surprise"):
        codec_from_json(video_codec().to_json() | {field: value})


def test_json_without_a_field_is_refused():
    for field in audio_codec().to_json():
        data = audio_codec().to_json()
        del data[field]
        with pytest.raises(ValueError, match=field):
            codec_from_json(data)


# Bad input


@pytest.mark.parametrize("count", [2, 4, 8])
def test_other_frame_counts_are_refused(count):
    frames = torch.zeros(1, count, 16, 16, 3, dtype=torch.uint8)
    for use in (video_codec().encode, VideoMoments().update):
        with pytest.raises(ValueError, match=rf"{count} is not 1 \+ k \* 4"):
            use(frames)


def test_bad_media_and_latents_are_refused():
    video, audio = video_codec(), audio_codec()
    cases = [
        (lambda: video.encode(torch.zeros(1, 5, 16, 12, 3, dtype=torch.uint8)), "multiples of 8"),
        (lambda: video.encode(torch.zeros(1, 5, 16, 16, 3)), "expected uint8"),
        (lambda: video.encode(torch.zeros(1, 0, 16, 16, 3, dtype=torch.uint8)), "not empty"),
        (lambda: video.decode(torch.zeros(1, 2, 31, 2, 2)), "32 on axis 2"),
        (lambda: video.decode(torch.full((1, 2, 32, 2, 2), math.nan)), "not finite"),
        (lambda: audio.encode(torch.zeros(1, 513)), "multiple of hop 512"),
        (lambda: audio.encode(torch.zeros(512)), r"\[B,S\]"),
        (lambda: audio.encode(torch.full((1, 512), math.inf)), "finite"),
        (lambda: audio.decode(torch.zeros(1, 0, 128)), "non-empty"),
        (lambda: audio.decode(torch.full((1, 1, 128), math.nan)), "not finite"),
    ]
    for action, message in cases:
        with pytest.raises(ValueError, match=message):
            action()


def test_bad_configuration_and_moments_are_refused():
    assert block_size(8, 4) == 768
    cases = [
        (lambda: DctVideoConfig(channels=769), "channels: 769"),
        (lambda: DctVideoConfig(spatial=64), "spatial: 64"),
        (lambda: DctVideoConfig(temporal=9), "temporal: 9"),
        (lambda: MdctAudioConfig(hop=511), "hop: 511"),
        (lambda: MdctAudioConfig(whitening=-0.1), "whitening: -0.1"),
        (lambda: DctVideoCodec.fit(DctVideoConfig(), VideoMoments()), "nothing was measured"),
        (lambda: DctVideoCodec.fit(DctVideoConfig(), VideoMoments(spatial=4)), "measure again"),
        (lambda: AudioMoments(512).merge(AudioMoments(256)), "do not merge"),
        (lambda: AudioMoments.from_arrays({}), "no array count"),
    ]
    for action, message in cases:
        with pytest.raises(ValueError, match=message):
            action()


def test_moments_refuse_to_overflow():
    moments = AudioMoments()
    moments.update(gliding_tones(1, 1024))
    with pytest.raises(ValueError, match=r"exceed 2\^62"):
        functools.reduce(AudioMoments.merge, [moments] * 64)


@pytest.mark.parametrize("codec", [video_codec(), audio_codec()], ids=["video", "audio"])
def test_streams_end_once(codec):
    shape = (1, 1, codec.channels, 2, 2) if isinstance(codec, DctVideoCodec) else (1, 1, codec.channels)
    stream = codec.stream()
    with pytest.raises(ValueError, match="push latents first"):
        stream.flush()
    stream.push(torch.zeros(shape))
    stream.flush()
    with pytest.raises(ValueError, match="already flushed"):
        stream.push(torch.zeros(shape))
    with pytest.raises(ValueError, match="flush once"):
        stream.flush()


def test_quality_in_decibels():
    a = torch.zeros(4, dtype=torch.uint8)
    assert psnr(a, a) == math.inf
    assert math.isclose(psnr(a, a + 1), 20 * math.log10(255))
    assert math.isclose(snr(torch.ones(10), torch.full((10,), 0.9)), 20, abs_tol=1e-4)
    with pytest.raises(ValueError, match="one shape"):
        psnr(a, a[:2])
