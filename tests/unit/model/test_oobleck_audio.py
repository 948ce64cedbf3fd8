"""Stable Audio's autoencoder: what comes out is what diffusers computes, and a stream that sees just far enough is the whole."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from codec_material import gliding_tones
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
from pretrained_material import NARROW_OOBLECK, OOBLECK, assert_stream_ends_once, oobleck_folder
from torch import Tensor

from mutual_forcing.model.codecs import OobleckAudioCodec, Place
from mutual_forcing.model.codecs.oobleck_audio import OobleckShape

HOP = 2048


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oobleck_folder(tmp_path_factory.mktemp("oobleck") / "vae", NARROW_OOBLECK)


@pytest.fixture(scope="module")
def codec(folder: Path) -> OobleckAudioCodec:
    return OobleckAudioCodec.load(Place(str(folder)))


@pytest.fixture(scope="module")
def exact(folder: Path) -> OobleckAudioCodec:
    return OobleckAudioCodec.load(Place(str(folder), dtype="float64"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoencoderOobleck.from_pretrained(folder).eval()


def some_latents(codec: OobleckAudioCodec, count: int, clips: int = 1) -> Tensor:
    return torch.randn(clips, count, codec.channels, generator=torch.Generator().manual_seed(1))


def streamed(codec: OobleckAudioCodec, latents: Tensor, pushes: list[int]) -> list[Tensor]:
    stream = codec.stream()
    return [*(stream.push(part) for part in latents.split(pushes, dim=1)), stream.flush()]


# --- rates and values -------------------------------------------------------------------------------------------------------


def test_one_latent_for_2048_samples(codec: OobleckAudioCodec) -> None:
    assert (codec.hop, codec.sample_rate) == (HOP, 44100)
    for count in (1, 3):
        latents = codec.encode(gliding_tones(2, count * HOP))
        assert latents.shape == (2, count, codec.channels)
        assert latents.dtype == torch.float32
        samples = codec.decode(latents)
        assert samples.shape == (2, count * HOP)
        assert samples.dtype == torch.float32


def test_latents_are_the_posterior_mean_of_the_sound_on_both_sides(codec: OobleckAudioCodec, reference: Any) -> None:
    samples = gliding_tones(2, 4 * HOP)
    with torch.no_grad():
        mean = reference.encode(torch.stack([samples, samples], dim=1)).latent_dist.mean
    assert mean.std() > 1e-3
    torch.testing.assert_close(codec.encode(samples), mean.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_decoding_is_the_mean_of_both_sides(codec: OobleckAudioCodec, reference: Any) -> None:
    latents = some_latents(codec, 5, clips=2)
    with torch.no_grad():
        sides = reference.decode(latents.transpose(1, 2)).sample
    assert (sides[:, 0] - sides[:, 1]).std() > 0.1 * sides.std(), "random weights: the sides differ"
    torch.testing.assert_close(codec.decode(latents), sides.mean(1), rtol=0, atol=1e-6 * float(sides.abs().max()))


# --- the stream -------------------------------------------------------------------------------------------------------------


def test_the_receptive_field_is_exact(exact: OobleckAudioCodec) -> None:
    """A value that is not a number reaches all that depends on it, however little, and nothing else."""
    middle, count = exact.left + exact.right + 1, 2 * (exact.left + exact.right) + 3
    raw = torch.zeros(1, exact.channels, count, dtype=torch.float64)
    raw[:, :, middle] = math.nan
    reached = exact.samples(raw).isnan().view(count, HOP).any(dim=1).nonzero().flatten().tolist()
    assert reached == list(range(middle - exact.right, middle + exact.left + 1))


@pytest.mark.parametrize("pushes", [[1] * 50, [7, 1, 40, 2], [50], [25, 25], [11] * 4 + [6]])
def test_a_stream_is_the_whole(exact: OobleckAudioCodec, pushes: list[int]) -> None:
    latents = some_latents(exact, 50)
    whole = exact.decode(latents)
    made = torch.cat(streamed(exact, latents, pushes), dim=1)
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-12 * float(whole.abs().max()))


def test_in_float32_a_stream_is_the_whole_up_to_rounding(codec: OobleckAudioCodec) -> None:
    latents = some_latents(codec, 50, clips=2)
    whole = codec.decode(latents)
    made = torch.cat(streamed(codec, latents, [11] * 4 + [6]), dim=1)
    print(f"\nlargest error {(made - whole).abs().max() / whole.abs().max():.1e} of the largest sample")
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("count", [1, 3])
def test_a_clip_shorter_than_the_delay_comes_with_the_flush(exact: OobleckAudioCodec, count: int) -> None:
    latents = some_latents(exact, count)
    first, last = streamed(exact, latents, [count])
    assert first.shape == (1, 0)
    assert torch.equal(last, exact.decode(latents))


def test_a_stream_lags_by_its_delay_and_no_more(codec: OobleckAudioCodec) -> None:
    parts = streamed(codec, some_latents(codec, 40), [10] * 4)
    emitted = torch.tensor([part.shape[1] for part in parts]).cumsum(0).tolist()
    assert emitted == [max(0, 10 * (i + 1) - codec.right) * HOP for i in range(4)] + [40 * HOP]
    assert codec.delay_ms == pytest.approx(1000 * codec.right * HOP / 44100)


def test_a_streams_memory_does_not_grow(codec: OobleckAudioCodec) -> None:
    stream = codec.stream()
    sizes = []
    for latent in some_latents(codec, 60).split(2, dim=1):
        samples = stream.push(latent)
        assert samples.untyped_storage().nbytes() == samples.nbytes, "what is emitted keeps nothing else in memory"
        assert stream._held_BCT is not None
        sizes.append(stream._held_BCT.untyped_storage().nbytes() // stream._held_BCT.element_size() // codec.channels)
    assert max(sizes) == sizes[-1] == codec.left + codec.right


def test_decoding_never_asks_a_device_for_a_value(codec: OobleckAudioCodec, folder: Path) -> None:
    """A tensor on the device "meta" has none: reading one raises, as it would make the host wait on a GPU."""
    distant = OobleckAudioCodec(OobleckAudioCodec.load(Place(str(folder))).network.to("meta"), codec.origin)
    parts = streamed(distant, some_latents(codec, 30).to("meta"), [30])
    assert sum(part.shape[1] for part in parts) == 30 * HOP


def test_bfloat16_is_near(codec: OobleckAudioCodec, folder: Path) -> None:
    other = OobleckAudioCodec.load(Place(str(folder), dtype="bfloat16"))
    latents = some_latents(codec, 4)
    whole = codec.decode(latents)
    assert other.decode(latents).dtype == torch.float32
    assert (other.decode(latents) - whole).std() < 0.05 * whole.std()
    assert other.identity != codec.identity


# --- bad input --------------------------------------------------------------------------------------------------------------


def test_bad_media_and_latents_are_refused(codec: OobleckAudioCodec) -> None:
    good = some_latents(codec, 1)
    cases = [
        (lambda: codec.encode(torch.zeros(1, HOP + 1)), "2049 is not a multiple of hop 2048; cut or zero-pad"),
        (lambda: codec.encode(torch.zeros(HOP)), r"\[B,S\]"),
        (lambda: codec.encode(torch.full((1, HOP), math.inf)), "finite"),
        (lambda: codec.decode(good[..., :-1]), f"{codec.channels} on axis 2"),
        (lambda: codec.decode(good * math.nan), "not finite"),
    ]
    for action, message in cases:
        with pytest.raises(ValueError, match=message):
            action()


def test_streams_end_once_and_take_one_batch(codec: OobleckAudioCodec) -> None:
    assert_stream_ends_once(codec.stream(), some_latents(codec, 1), some_latents(codec, 1, clips=2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder_input_channels": 0}, "decoder_input_channels=0"),
        ({"encoder_hidden_size": 64}, "encoder_hidden_size=64: must be twice"),
        ({"downsampling_ratios": [2, 3]}, r"downsampling_ratios=\[2, 3\]: 3 is odd"),
        ({"downsampling_ratios": "24488"}, "downsampling_ratios="),
        ({"channel_multiples": [1]}, "channel_multiples="),
        ({"audio_channels": 3}, "audio_channels=3"),
        ({"sampling_rate": 44100.0}, "sampling_rate=44100.0"),
    ],
)
def test_a_config_of_another_network_is_refused_by_its_field(change: dict[str, Any], words: str) -> None:
    assert OobleckShape.of(OOBLECK) == OobleckShape(64, HOP, 44100, 2)
    with pytest.raises(ValueError, match=words) as refused:
        OobleckShape.of(OOBLECK | change)
    assert "\n" not in str(refused.value)


# --- the true network -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_at_the_true_configuration(tmp_path: Path) -> None:
    """Random weights in the shape of the published ones, through the files: rates, and a stream that is the whole up to rounding."""
    codec = OobleckAudioCodec.load(Place(str(oobleck_folder(tmp_path / "vae", OOBLECK))))
    assert (codec.channels, codec.hop, codec.sample_rate) == (64, HOP, 44100)
    assert codec.encode(gliding_tones(1, 2 * HOP)).shape == (1, 2, 64)
    latents = some_latents(codec, codec.left + codec.right + 3)
    whole = codec.decode(latents)
    made = torch.cat(streamed(codec, latents, [codec.right + 1, codec.left + 2]), dim=1)
    print(f"\nlargest error {(made - whole).abs().max() / whole.abs().max():.1e} of the largest sample; delay {codec.delay_ms:.0f} ms")
    torch.testing.assert_close(made, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))
