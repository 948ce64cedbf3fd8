"""Wan's video autoencoders: values are those of diffusers, a stream is the whole, latents are scaled by the folder's config."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from codec_material import moving_discs
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from pretrained_material import NARROW21, NARROW22, WAN21, WAN22, assert_stream_ends_once, constants, wan_folder
from torch import Tensor

from mutual_forcing.model.codecs import Place, WanVideoCodec
from mutual_forcing.model.codecs.dct import to_uint8
from mutual_forcing.model.codecs.wan_video import WanVaeShape

CONFIGS = {"2.1": NARROW21, "2.2": NARROW22}


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_folder(tmp_path_factory.mktemp("wan") / "vae", CONFIGS[request.param])


@pytest.fixture(scope="module")
def codec(folder: Path) -> WanVideoCodec:
    return WanVideoCodec.load(Place(str(folder)))


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    return AutoencoderKLWan.from_pretrained(folder).eval()


def some_latents(codec: WanVideoCodec, count: int, clips: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(clips, count, codec.channels, 2, 3, generator=torch.Generator().manual_seed(seed))


def scale(codec: WanVideoCodec) -> tuple[Tensor, Tensor]:
    """The constants that the folder was written with, `[C,1,1]`."""
    return tuple(torch.tensor(x)[:, None, None] for x in constants(codec.channels).values())  # type: ignore[return-value]


# --- rates and values -------------------------------------------------------------------------------------------------------


def test_one_latent_a_first_frame_and_one_for_every_four_that_follow(codec: WanVideoCodec) -> None:
    s = codec.spatial_stride
    assert (codec.channels, s, codec.temporal_stride) in {(16, 8, 4), (48, 16, 4)}
    for frames, latents in ((1, 1), (5, 2), (9, 3)):
        encoded = codec.encode(moving_discs(1, frames, 2 * s))
        assert encoded.shape == (1, latents, codec.channels, 2, 2)
        assert encoded.dtype == torch.float32
        decoded = codec.decode(encoded)
        assert decoded.shape == (1, frames, 2 * s, 2 * s, 3)
        assert decoded.dtype == torch.uint8


def test_latents_are_the_posterior_mean_on_the_scale_of_the_folders_config(codec: WanVideoCodec, reference: Any) -> None:
    frames = moving_discs(2, 5, 2 * codec.spatial_stride)
    with torch.no_grad():
        mean = reference.encode(frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1).latent_dist.mean.transpose(1, 2)
    shift, spread = scale(codec)
    made = codec.encode(frames)
    torch.testing.assert_close(made, (mean - shift) / spread, rtol=0, atol=1e-6)
    assert torch.equal(codec.encode(frames), made), "no sample is drawn"


def test_decoding_is_that_of_diffusers(codec: WanVideoCodec, reference: Any) -> None:
    latents = some_latents(codec, 3, clips=2)
    shift, spread = scale(codec)
    with torch.no_grad():
        pixels = reference.decode((latents * spread + shift).transpose(1, 2)).sample
    expected = to_uint8(pixels).permute(0, 2, 3, 4, 1)
    assert expected.float().std() > 30, "the pictures must fill the range, or rounding hides differences"
    apart = (codec.decode(latents).int() - expected.int()).abs()
    assert apart.max() <= 1, "rounding may fall on the other side of a half"
    assert (apart > 0).float().mean() < 1e-3


@pytest.mark.parametrize("pushes", [[1, 1, 1, 1], [2, 2], [1, 3]])
def test_a_stream_is_the_whole_bit_for_bit(codec: WanVideoCodec, pushes: list[int]) -> None:
    latents = some_latents(codec, 4)
    stream = codec.stream()
    parts = [stream.push(part) for part in latents.split(pushes, dim=1)]
    assert [part.shape[1] for part in parts] == [4 * n - (3 if i == 0 else 0) for i, n in enumerate(pushes)]
    assert stream.flush().shape == (1, 0, *parts[0].shape[2:])
    assert torch.equal(torch.cat(parts, dim=1), codec.decode(latents))


def test_streams_do_not_see_each_other(codec: WanVideoCodec) -> None:
    one, two = some_latents(codec, 3, seed=1), some_latents(codec, 3, seed=2)
    first, second = codec.stream(), codec.stream()
    made = [(first.push(a), second.push(b)) for a, b in zip(one.split(1, dim=1), two.split(1, dim=1), strict=True)]
    assert torch.equal(torch.cat([a for a, _ in made], dim=1), codec.decode(one))
    assert torch.equal(torch.cat([b for _, b in made], dim=1), codec.decode(two))


def test_a_latent_is_seen_by_what_follows_it_alone(codec: WanVideoCodec) -> None:
    latents = some_latents(codec, 3)
    other = latents.clone()
    other[:, 1] += 1
    a, b = codec.decode(latents), codec.decode(other)
    assert torch.equal(a[:, :1], b[:, :1])
    assert not torch.equal(a[:, 1:5], b[:, 1:5])
    assert not torch.equal(a[:, 5:], b[:, 5:]), "the stream carries its past"


def test_a_streams_memory_does_not_grow(codec: WanVideoCodec) -> None:
    def held(stream: Any) -> int:
        return sum(x.untyped_storage().nbytes() for x in stream._carried if isinstance(x, Tensor))

    stream, sizes = codec.stream(), []
    for latent in some_latents(codec, 6).split(1, dim=1):
        stream.push(latent)
        sizes.append(held(stream))
    assert sizes[0] > 0
    assert len(set(sizes[2:])) == 1, sizes


def test_decoding_never_asks_a_device_for_a_value(codec: WanVideoCodec, folder: Path) -> None:
    """A tensor on the device "meta" has none: reading one raises, as it would make the host wait on a GPU."""
    distant = WanVideoCodec(WanVideoCodec.load(Place(str(folder))).network.to("meta"), codec.origin)
    made = distant.decode(some_latents(codec, 2).to("meta"))
    assert made.shape == codec.decode(some_latents(codec, 2)).shape


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_arithmetic_is_near_and_has_another_identity(codec: WanVideoCodec, folder: Path, dtype: str) -> None:
    other = WanVideoCodec.load(Place(str(folder), dtype=dtype))
    frames = moving_discs(1, 5, 2 * codec.spatial_stride)
    latents = codec.encode(frames)
    near = 1e-5 if dtype == "float64" else 0.1  # bfloat16 has 8 bits; latents are near 1
    torch.testing.assert_close(other.encode(frames).float(), latents, rtol=0, atol=near)
    apart = (other.decode(latents).int() - codec.decode(latents).int()).abs().float().mean()
    assert apart < (0.01 if dtype == "float64" else 10)
    assert other.identity != codec.identity


# --- bad input --------------------------------------------------------------------------------------------------------------


def test_bad_media_and_latents_are_refused(codec: WanVideoCodec) -> None:
    s = codec.spatial_stride
    good = some_latents(codec, 1)
    cases = [
        (lambda: codec.encode(torch.zeros(1, 4, s, s, 3, dtype=torch.uint8)), r"4 is not 1 \+ k \* 4; cut the clip to 1 frames"),
        (lambda: codec.encode(torch.zeros(1, 5, s, s + 4, 3, dtype=torch.uint8)), f"{s}x{s + 4} pixels are not multiples of {s}; scale"),
        (lambda: codec.encode(torch.zeros(1, 5, s, s, 3)), "expected uint8"),
        (lambda: codec.decode(good[:, :, :-1]), f"{codec.channels} on axis 2"),
        (lambda: codec.decode(good[0]), "5 non-empty axes"),
        (lambda: codec.decode(good * math.nan), "not finite"),
    ]
    for action, message in cases:
        with pytest.raises(ValueError, match=message):
            action()


def test_streams_end_once_and_take_one_batch(codec: WanVideoCodec) -> None:
    assert_stream_ends_once(codec.stream(), some_latents(codec, 1), some_latents(codec, 1, clips=2))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"z_dim": 0}, "z_dim=0"),
        ({"z_dim": True}, "z_dim=True"),
        ({"base_dim": 10**9}, "base_dim=1000000000"),
        ({"num_res_blocks": "2"}, "num_res_blocks=2"),
        ({"dim_mult": []}, r"dim_mult=\[\]"),
        ({"dim_mult": [1] * 1000}, "dim_mult="),
        ({"temperal_downsample": [False, True]}, "temperal_downsample=.*must be 3 truth values"),
        ({"temperal_downsample": [True, True, True]}, "temperal_downsample=|scale_factor_temporal="),
        ({"scale_factor_spatial": 4}, "scale_factor_spatial=4: its levels and patch_size make"),
        ({"scale_factor_temporal": 8}, "scale_factor_temporal=8"),
        ({"latents_mean": None}, "latents_mean=None: must be"),
        ({"latents_mean": [0.0]}, "latents_mean="),
        ({"latents_std": [0.0] * 48}, "latents_std="),
        ({"latents_std": [math.nan] * 48}, "latents_std="),
        ({"in_channels": 4}, "in_channels=4"),
        ({"patch_size": 0}, "patch_size=0"),
    ],
)
def test_a_config_of_another_network_is_refused_by_its_field(change: dict[str, Any], words: str) -> None:
    good = NARROW22 | constants(48)
    assert WanVaeShape.of(good).spatial == 16
    with pytest.raises(ValueError, match=words) as refused:
        WanVaeShape.of(good | change)
    assert "\n" not in str(refused.value)


def test_scale_without_constants_is_refused_rather_than_guessed() -> None:
    """diffusers would fall back on those of Wan2.1, silently."""
    with pytest.raises(ValueError, match="latents_mean=None"):
        WanVaeShape.of(NARROW21)


# --- the true networks ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("config", "channels", "stride"), [(WAN21, 16, 8), (WAN22, 48, 16)], ids=["2.1", "2.2"])
def test_at_the_true_configuration(tmp_path: Path, config: dict[str, Any], channels: int, stride: int) -> None:
    """Random weights in the shape of the published ones, through the files: rates, and a stream that is diffusers' own whole."""
    codec = WanVideoCodec.load(Place(str(wan_folder(tmp_path / "vae", config, dtype=torch.bfloat16))))
    assert (codec.channels, codec.spatial_stride, codec.temporal_stride) == (channels, stride, 4)
    latents = codec.encode(moving_discs(1, 9, 2 * stride))
    assert latents.shape == (1, 3, channels, 2, 2)
    stream = codec.stream()
    parts = [stream.push(latent) for latent in latents.split(1, dim=1)]
    made = torch.cat(parts, dim=1)
    assert torch.equal(made, codec.decode(latents))
    with torch.no_grad():
        whole = codec.network.decode(codec.raw(latents)).sample.clamp(-1, 1)  # diffusers' own loop over the latents
    off = (to_uint8(whole.float()).permute(0, 2, 3, 4, 1).int() - made.int()).abs()
    assert int(off.max()) <= 1
    assert parts[1].shape == (1, 4, 2 * stride, 2 * stride, 3)
