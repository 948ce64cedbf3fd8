"""Video codec: exact in what it keeps, causal, the first frame alone, streamed as whole."""

from __future__ import annotations

import itertools

import torch
from codec_material import moving_discs, video_codec
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.model.codecs.dct import still_coefficients
from mutual_forcing.model.codecs.quality import psnr

few = settings(max_examples=12, deadline=None, derandomize=True)


def test_video_with_all_channels_is_lossless():
    frames = moving_discs(2, 9, 32, seed=5)
    codec = video_codec(channels=768)
    assert torch.equal(codec.decode(codec.encode(frames)), frames)


@few
@given(st.integers(1, 2), st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([4, 8]), st.integers(0, 99))
def test_video_is_exact_in_what_it_keeps(batch, groups, rows, columns, spatial, seed):
    codec = video_codec(channels=24, spatial=spatial)
    latents = torch.randn(batch, 1 + groups, 24, rows, columns, generator=torch.Generator().manual_seed(seed))
    latents[:, 0, ~still_coefficients(spatial, 4)[codec.selection.index_C]] = 0
    pixels = codec.decode_float(latents)
    assert pixels.shape == (batch, 1 + 4 * groups, rows * spatial, columns * spatial, 3)
    torch.testing.assert_close(codec.encode_float(pixels), latents, rtol=0, atol=1e-5)
    torch.testing.assert_close(codec.encode_float(codec.decode_float(latents.double())), latents.double(), rtol=0, atol=1e-12)


@few
@given(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_video_keeping_fewer_channels_is_a_projection(groups, rows, columns, seed):
    codec = video_codec(channels=16)
    frames = torch.randint(0, 256, (1, 1 + 4 * groups, 8 * rows, 8 * columns, 3), generator=torch.Generator().manual_seed(seed))
    latents = codec.encode(frames.to(torch.uint8))
    torch.testing.assert_close(codec.encode_float(codec.decode_float(latents)), latents, rtol=0, atol=1e-5)


def test_video_quality_rises_with_channels():
    frames = moving_discs(2, 17, 32, seed=1)
    ladder = [psnr(frames, codec.decode(codec.encode(frames))) for codec in map(video_codec, (1, 16, 64, 256))]
    assert all(less < more for less, more in itertools.pairwise(ladder))
    assert ladder[2] > 28


def test_still_clip_has_one_latent_repeated():
    still = moving_discs(1, 1, 32).expand(-1, 9, -1, -1, -1)
    latents = video_codec(channels=200).encode(still)
    torch.testing.assert_close(latents[:, 1:], latents[:, :1].expand(-1, 2, -1, -1, -1), rtol=0, atol=1e-4)


def test_first_latent_has_no_temporal_ac_and_none_is_decoded():
    codec = video_codec(channels=200)
    changing = ~torch.from_numpy(still_coefficients(8, 4)[codec.selection.index_C])
    assert 0 < int(changing.sum()) < 200
    latents = codec.encode(moving_discs(1, 9, 32, seed=2))
    assert not latents[:, 0, changing].any()
    assert latents[:, 1, changing].any()
    noisy = latents.clone()
    noisy[:, 0, changing] += 1
    assert torch.equal(codec.decode(noisy), codec.decode(latents))


def test_video_latents_do_not_see_later_frames():
    codec, frames = video_codec(), moving_discs(1, 13, 32, seed=3)
    latents = codec.encode(frames)
    for group in range(4):
        changed = frames.clone()
        changed[:, 1 + 4 * group :] = 255 - changed[:, 1 + 4 * group :]
        assert torch.equal(codec.encode(changed)[:, : 1 + group], latents[:, : 1 + group])
        torch.testing.assert_close(codec.encode(frames[:, : 1 + 4 * group]), latents[:, : 1 + group], rtol=0, atol=1e-5)
        changed[:, 4 * group] = 255 - changed[:, 4 * group]
        assert not torch.equal(codec.encode(changed)[:, group], latents[:, group])


@few
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(1, 2), st.integers(0, 99))
def test_video_streams_as_whole(pushes, batch, seed):
    codec = video_codec()
    latents = torch.randn(batch, sum(pushes), 32, 2, 3, generator=torch.Generator().manual_seed(seed))
    stream = codec.stream()
    parts = [stream.push(part) for part in latents.split(pushes, dim=1)]
    assert [part.shape[1] for part in parts] == [4 * n - 3 * (i == 0) for i, n in enumerate(pushes)]
    assert torch.equal(torch.cat([*parts, stream.flush()], dim=1), codec.decode(latents))
