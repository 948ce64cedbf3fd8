"""Captions as features of umT5: those that transformers computes for each caption alone, padded with zeros to a fixed length."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pretrained_material import UMT5, text_folder
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, UMT5EncoderModel

from mutual_forcing.model.codecs import Place, Umt5TextEncoder, text_encoder_from_json
from mutual_forcing.model.text import TextConfig, make_controls

CAPTIONS = ["a red fox speaks softly", "", "a round\n  round   fox"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_folder(tmp_path_factory.mktemp("text") / "pipeline")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Umt5TextEncoder:
    return Umt5TextEncoder.load(Place(str(folder)))


def test_features_are_those_that_transformers_computes_for_each_caption_alone(encoder: Umt5TextEncoder, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    network = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
    made = encoder.encode(CAPTIONS)
    assert made.features_BLE.shape == (3, 512, encoder.width)
    assert made.features_BLE.dtype == torch.float32
    assert made.mask_BL.sum(1).tolist() == [6, 1, 5], "each with its end mark"
    for caption, features, mask in zip(CAPTIONS, made.features_BLE, made.mask_BL, strict=True):
        ids = tokenizer(" ".join(caption.split()), return_tensors="pt").input_ids
        with torch.no_grad():
            expected = network(input_ids=ids).last_hidden_state[0]
        assert expected.std() > 0.1
        torch.testing.assert_close(features[mask], expected, rtol=0, atol=1e-5)
        assert not features[~mask].any()


def test_a_caption_does_not_depend_on_its_batch(encoder: Umt5TextEncoder) -> None:
    together = encoder.encode(CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        torch.testing.assert_close(encoder.encode([caption]).features_BLE[0], together.features_BLE[i], rtol=0, atol=1e-5)


def test_a_long_caption_is_cut_and_keeps_its_end_mark(encoder: Umt5TextEncoder) -> None:
    long, longer = (encoder.encode(["fox " * count]) for count in (511, 600))
    assert long.mask_BL.all()
    assert torch.equal(long.features_BLE, longer.features_BLE)


def test_escaped_captions_are_read_as_they_were_meant(encoder: Umt5TextEncoder) -> None:
    plain = encoder.encode(["a fox & a fox"])
    for escaped in ("a fox &amp; a fox", "a fox &amp;amp; a fox"):
        assert torch.equal(encoder.encode([escaped]).features_BLE, plain.features_BLE)


def test_controls_take_the_features(encoder: Umt5TextEncoder) -> None:
    made = encoder.encode(CAPTIONS)
    text = make_controls(CAPTIONS, [[], [], []], TextConfig())
    controls = type(text)(**(text.tensors() | {"caption_features_BLE": made.features_BLE}))
    dropped = controls.unconditional().caption_features_BLE
    assert dropped is not None
    assert not dropped.any(), "a dropped caption is padding alone"


def test_identity_is_the_content_and_json_finds_it_again(encoder: Umt5TextEncoder, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    data = json.loads(json.dumps(encoder.to_json()))
    assert sorted(data["files"]) == ["model.safetensors", "tokenizer/tokenizer.json"]
    again = text_encoder_from_json(data, Place(str(copy)))
    assert again.identity == encoder.identity == text_encoder_from_json(data).identity
    assert torch.equal(again.encode(CAPTIONS).features_BLE, encoder.encode(CAPTIONS).features_BLE)
    tokenizer = copy / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("▁fox", "▁cat"))
    assert Umt5TextEncoder.load(Place(str(copy))).identity != encoder.identity
    with pytest.raises(ValueError, match=r"tokenizer\.json has SHA-256"):
        text_encoder_from_json(data, Place(str(copy)))


def test_a_file_may_hold_the_table_under_both_its_names(encoder: Umt5TextEncoder, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    file = str(copy / "text_encoder" / "model.safetensors")
    state = load_file(file)
    save_file(state | {"encoder.embed_tokens.weight": state["shared.weight"].clone()}, file)
    assert torch.equal(Umt5TextEncoder.load(Place(str(copy))).encode(CAPTIONS).features_BLE, encoder.encode(CAPTIONS).features_BLE)


def set_config(field: str, value: object) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        path = folder / "text_encoder" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (set_config("model_type", "t5"), "model_type='t5' is not 'umt5'"),
        (set_config("num_layers", 10**9), "num_layers=1000000000"),
        (set_config("d_model", None), "d_model=None"),
        (set_config("feed_forward_proj", "gated-import"), "feed_forward_proj='gated-import'"),
        (set_config("layer_norm_epsilon", "small"), "its fields make no network"),
        (set_config("vocab_size", 32), "is .*, this network needs"),
        (lambda f: shutil.rmtree(f / "text_encoder"), "does not exist"),
        (lambda f: shutil.rmtree(f / "tokenizer"), r"tokenizer\.json cannot be read \(No such file"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").write_text("{}"), "is no tokenizer"),
        (lambda f: (f / "tokenizer" / "tokenizer.json").write_text("x"), "is not JSON"),
    ],
)
def test_a_stranger_folder_is_refused_in_one_line(folder: Path, tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy)
    with pytest.raises(ValueError, match=words) as refused:
        Umt5TextEncoder.load(Place(str(copy)))
    assert str(refused.value).startswith(f"folder='{copy}")
    assert "\n" not in str(refused.value)


def test_a_tokenizer_of_a_larger_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "pipeline", UMT5 | {"vocab_size": 8})
    with pytest.raises(ValueError, match=r"tokenizer\.json has 18 tokens, the network 8; they are not of one release"):
        Umt5TextEncoder.load(Place(str(folder)))


def test_no_captions_are_refused(encoder: Umt5TextEncoder) -> None:
    with pytest.raises(ValueError, match="captions: none"):
        encoder.encode([])


def test_without_transformers_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs the package transformers .*; pip install 'mutual-forcing\[pretrained\]'$"):
        Umt5TextEncoder.load(Place(str(folder)))
