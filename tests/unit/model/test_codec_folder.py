"""A pretrained codec is named by its content and found again by its JSON; its folder is a stranger's, refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from codec_material import audio_codec, moving_discs, video_codec
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from pretrained_material import NARROW21, NARROW_OOBLECK, WEIGHTS, constants, oobleck_folder, wan_folder
from safetensors.torch import load_file, save_file

from mutual_forcing.model.codecs import (
    OobleckAudioCodec,
    Place,
    WanVideoCodec,
    audio_codec_from_json,
    codec_from_folder,
    codec_from_json,
    video_codec_from_json,
)
from mutual_forcing.model.weights import sha256


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wan_folder(tmp_path_factory.mktemp("wan") / "vae", NARROW21)


@pytest.fixture(scope="module")
def oobleck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return oobleck_folder(tmp_path_factory.mktemp("oobleck") / "vae", NARROW_OOBLECK)


@pytest.fixture
def copy(wan: Path, tmp_path: Path) -> Path:
    return shutil.copytree(wan, tmp_path / "copy")


def change_config(change: dict[str, Any]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in (config | change).items() if v != "leave out"}))

    return apply


def change_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        state = load_file(str(folder / WEIGHTS))
        change(state)
        save_file(state, str(folder / WEIGHTS))

    return apply


# --- by content -------------------------------------------------------------------------------------------------------------


def test_a_folder_tells_what_it_is(wan: Path, oobleck: Path) -> None:
    assert isinstance(codec_from_folder(Place(str(wan))), WanVideoCodec)
    assert isinstance(codec_from_folder(Place(str(oobleck))), OobleckAudioCodec)


def test_identity_is_the_content_and_not_the_place(wan: Path, copy: Path) -> None:
    one, two = codec_from_folder(Place(str(wan))), codec_from_folder(Place(str(copy)))
    assert one.identity == two.identity
    assert one.to_json()["folder"] != two.to_json()["folder"]
    assert one.to_json()["files"] == {WEIGHTS: sha256(wan / WEIGHTS)}
    change_config({"_diffusers_version": "99.0"})(copy)
    assert codec_from_folder(Place(str(copy))).identity == one.identity, "the writer's notes are no content"
    change_config({"latents_mean": [0.5] * 16})(copy)
    assert codec_from_folder(Place(str(copy))).identity != one.identity
    change_config(constants(16))(copy)
    change_weights(lambda s: s["post_quant_conv.bias"].add_(1))(copy)
    assert codec_from_folder(Place(str(copy))).identity != one.identity


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_json_finds_the_codec_again(kind: str, wan: Path, oobleck: Path) -> None:
    codec = codec_from_folder(Place(str(wan if kind == "video" else oobleck)))
    data = json.loads(json.dumps(codec.to_json()))
    again = codec_from_json(data)
    assert again.to_json() == data
    assert again.identity == codec.identity
    latents = torch.randn(1, 2, codec.channels, *((1, 1) if kind == "video" else ()))
    assert torch.equal(again.decode(latents), codec.decode(latents))
    with pytest.raises(ValueError, match=rf"codec\.kind: '{data['kind']}' is not one of"):
        (audio_codec_from_json if kind == "video" else video_codec_from_json)(data)


def test_on_another_machine_the_folder_is_given_and_must_hold_the_same(wan: Path, copy: Path) -> None:
    data = codec_from_folder(Place(str(wan))).to_json() | {"folder": "/nowhere/vae"}
    with pytest.raises(ValueError, match="'/nowhere/vae': does not exist; give a folder with"):
        codec_from_json(data)
    again = codec_from_json(data, Place(str(copy)))
    assert again.to_json()["folder"] == str(copy)
    change_weights(lambda s: s["post_quant_conv.bias"].add_(1))(copy)
    with pytest.raises(ValueError, match=rf"{WEIGHTS} has SHA-256 [0-9a-f]{{16}}, the codec's JSON names [0-9a-f]{{16}}; give the folder"):
        codec_from_json(data, Place(str(copy)))
    shutil.copy(wan / WEIGHTS, copy)
    change_config({"latents_mean": [0.5] * 16})(copy)
    with pytest.raises(ValueError, match=r"its config\.json .* is not that of the codec's JSON"):
        codec_from_json(data, Place(str(copy)))


def test_an_address_is_kept_as_the_reference(wan: Path) -> None:
    """What was read from a copy names the original, so that others can copy it too."""
    codec = codec_from_folder(Place(str(wan), reference="s3://bucket/vae"))
    data = codec.to_json()
    assert data["folder"] == "s3://bucket/vae"
    assert codec.identity == codec_from_folder(Place(str(wan))).identity
    with pytest.raises(ValueError, match=r"folder='s3://bucket/vae': no local folder; copy it with datasets\.encoding\.pretrained_folder"):
        codec_from_json(data)


def test_data_may_be_decoded_in_another_dtype(wan: Path) -> None:
    codec = codec_from_folder(Place(str(wan)))
    half = codec_from_json(codec.to_json(), Place(dtype="bfloat16"))
    assert half.to_json()["dtype"] == "bfloat16"
    assert half.identity != codec.identity
    assert codec_from_json(half.to_json()).identity == half.identity


def test_embedded_codecs_take_no_place() -> None:
    for codec in (video_codec(), audio_codec()):
        assert codec_from_json(codec.to_json(), Place("/nowhere", "cuda:9", "float64")).identity == codec.identity


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("config", None),
        ("files", []),
        ("dtype", 3),
        ("dtype", "float16"),
        ("folder", None),
        ("folder", ""),
        ("surprise", 1),
    ],
)
def test_json_that_no_codec_wrote_is_refused(wan: Path, field: str, value: object) -> None:
    data = codec_from_folder(Place(str(wan))).to_json()
    with pytest.raises(ValueError, match=field):
        codec_from_json(data | {field: value})
    del data["files"]
    with pytest.raises(ValueError, match="files"):
        codec_from_json(data)


def test_weights_in_several_files_are_read_through_their_index(wan: Path, tmp_path: Path) -> None:
    AutoencoderKLWan.from_pretrained(wan).save_pretrained(tmp_path / "parts", max_shard_size="40KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    one, parts = codec_from_folder(Place(str(wan))), codec_from_folder(Place(str(tmp_path / "parts")))
    assert len(parts.to_json()["files"]) > 1
    frames = moving_discs(1, 5, 16)
    assert torch.equal(one.encode(frames), parts.encode(frames))


# --- refusals ---------------------------------------------------------------------------------------------------------------


def one_level_down(folder: Path) -> None:
    shutil.move(folder, folder.parent / "vae")
    folder.mkdir()
    shutil.move(folder.parent / "vae", folder)


def as_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: shutil.rmtree(f), r"does not exist; give a folder with config\.json and safetensors"),
        (lambda f: (shutil.rmtree(f), f.write_text("x")), "is a file"),
        (lambda f: (f / "config.json").unlink(), r"has no config\.json; give the folder as diffusers writes it"),
        (one_level_down, "give its vae/"),
        (lambda f: (f / "config.json").write_text("[]"), r"config\.json: list is no JSON object"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff" * 9), r"config\.json is not JSON"),
        (lambda f: (f / "config.json").write_bytes(b" " * (16 * 2**20 + 1)), "bytes; at most"),
        (
            change_config({"_class_name": "AutoencoderKL"}),
            r"_class_name='AutoencoderKL' is not one of AutoencoderKLWan, AutoencoderOobleck",
        ),
        (change_config({"_class_name": None}), "_class_name='None' is not"),
        (change_config({"z_dim": 8}), r"config\.json: latents_mean="),
        (change_config({"base_dim": 6}), "tensor '.*' is .*, this network needs"),
        (change_config({"tomorrows_option": 1}), "tomorrows_option is no field of the installed AutoencoderKLWan; update diffusers"),
        (change_config({"attn_scales": 5}), r"config\.json: its fields make no network \(TypeError"),
        (as_pickle, r"holds a pickle \(diffusion_pytorch_model\.bin\), which runs code"),
        (lambda f: (f / WEIGHTS).unlink(), f"{WEIGHTS} is missing; get the weights again"),
        (lambda f: os.truncate(f / WEIGHTS, 5000), "cut short, damaged"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 100), "cut short, damaged"),
        (change_weights(lambda s: s.pop("post_quant_conv.bias")), "lacks tensor 'post_quant_conv.bias'"),
        (change_weights(lambda s: s.update(more=torch.zeros(2))), "holds tensor 'more', which nothing here takes"),
        (change_weights(lambda s: s["post_quant_conv.bias"].fill_(torch.nan)), "'post_quant_conv.bias': not all values are finite"),
        (change_weights(lambda s: s.update({"quant_conv.bias": torch.zeros(32, dtype=torch.int8)})), "of type I8"),
    ],
)
def test_a_stranger_folder_is_refused_in_one_line(copy: Path, damage: Callable[[Path], object], words: str) -> None:
    damage(copy)
    with pytest.raises(ValueError, match=words) as refused:
        codec_from_folder(Place(str(copy)))
    assert str(refused.value).startswith(f"folder='{copy}': ")
    assert "\n" not in str(refused.value)


def test_a_field_that_only_an_early_diffusers_wrote_is_ignored(copy: Path) -> None:
    change_config({"clip_output": False})(copy)
    assert codec_from_folder(Place(str(copy))).channels == 16


@pytest.mark.parametrize("change", [{"device": "cuda:77"}, {"device": "toaster"}, {"dtype": "float16"}, {"folder": ""}])
def test_a_place_that_is_not_there_is_refused(wan: Path, change: dict[str, str]) -> None:
    [(field, value)] = change.items()
    with pytest.raises(ValueError, match=f"{field}='{value}'") as refused:
        WanVideoCodec.load(Place(**({"folder": str(wan)} | change)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("which", ["wan", "oobleck"])
def test_without_diffusers_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, wan: Path, oobleck: Path, which: str) -> None:
    for name in [name for name in sys.modules if name.startswith("diffusers.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match=r"needs the package diffusers .*; pip install 'mutual-forcing\[pretrained\]'$"):
        codec_from_folder(Place(str(wan if which == "wan" else oobleck)))
