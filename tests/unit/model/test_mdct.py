"""Audio codec: exact in what it keeps, a true MDCT, streamed as whole, prefixes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from codec_material import audio_codec, gliding_tones
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.model.codecs.quality import snr

few = settings(max_examples=12, deadline=None, derandomize=True)


@few
@given(st.integers(1, 3), st.integers(1, 9), st.sampled_from([2, 64, 512]), st.integers(0, 99))
def test_audio_with_all_channels_is_exact(batch, length, hop, seed):
    codec = audio_codec(channels=hop, hop=hop)
    samples = torch.rand(batch, length * hop, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    latents = codec.encode(samples)
    assert latents.shape == (batch, length, hop)
    torch.testing.assert_close(codec.decode(latents), samples, rtol=0, atol=1e-5)
    torch.testing.assert_close(codec.decode(codec.encode(samples.double())), samples.double(), rtol=0, atol=1e-12)


@few
@given(st.integers(1, 3), st.integers(1, 9), st.sampled_from([64, 512]), st.integers(0, 99))
def test_audio_is_exact_in_what_it_keeps(batch, length, hop, seed):
    codec = audio_codec(channels=hop // 4, hop=hop)
    latents = torch.randn(batch, length, hop // 4, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(codec.encode(codec.decode(latents)), latents, rtol=0, atol=1e-5)


def test_audio_is_the_windowed_mdct_of_the_textbook():
    """Inner coefficients are `sum w(n) x(n) cos(pi/M (n + 1/2 - M/2)(k + 1/2))` over the 2M samples from iM - M/2."""
    hop, samples = 64, gliding_tones(1, 64 * 6, seed=2)[0].double()
    codec = audio_codec(channels=hop, hop=hop)
    n, k = np.arange(2 * hop)[:, None], np.arange(hop)[None]
    window = np.sin(np.pi / (2 * hop) * (n + 0.5))
    basis = math.sqrt(2 / hop) * window * np.cos(np.pi / hop * (n + 0.5 - hop / 2) * (k + 0.5))
    select = codec.selection
    for i in range(1, 5):
        expected = samples[i * hop - hop // 2 : i * hop + 3 * hop // 2].numpy() @ basis
        coefficients = codec.encode(samples[None])[0, i].numpy() * select.scale_C + select.mean_K[select.index_C]
        np.testing.assert_allclose(coefficients, expected[select.index_C], atol=1e-12)


def test_audio_energy_is_preserved():
    samples = torch.rand(2, 512 * 5, dtype=torch.float64) - 0.5
    select = audio_codec(channels=512).selection
    latents = audio_codec(channels=512).encode(samples)
    coefficients = latents * torch.from_numpy(select.scale_C) + torch.from_numpy(select.mean_K[select.index_C])
    torch.testing.assert_close(coefficients.square().sum(), samples.square().sum())


def test_audio_quality_rises_with_channels():
    samples = gliding_tones(2, 512 * 32, seed=1)
    ladder = [snr(samples, codec.decode(codec.encode(samples))) for codec in map(audio_codec, (16, 64, 128, 256))]
    assert all(less < more for less, more in itertools.pairwise(ladder))
    assert ladder[2] > 20


@few
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 2), st.integers(0, 99))
def test_audio_streams_as_whole(pushes, batch, seed):
    codec = audio_codec()
    latents = torch.randn(batch, sum(pushes), 128, generator=torch.Generator().manual_seed(seed))
    stream = codec.stream()
    parts = [stream.push(part) for part in latents.split(pushes, dim=1)]
    assert parts[0].shape[1] == 512 * pushes[0] - 256
    assert torch.equal(torch.cat([*parts, stream.flush()], dim=1), codec.decode(latents))


def test_audio_prefix_is_right_up_to_its_last_half_block():
    codec, samples = audio_codec(channels=512), gliding_tones(1, 512 * 8, seed=4)
    latents = codec.encode(samples)
    prefix = codec.decode(latents[:, :5])
    known = 5 * 512 - 256
    torch.testing.assert_close(prefix[:, :known], samples[:, :known], rtol=0, atol=1e-5)
    assert (prefix[:, known:] - samples[:, known : 5 * 512]).abs().max() > 0.01
    assert torch.equal(codec.stream().push(latents[:, :5]), prefix[:, :known])
