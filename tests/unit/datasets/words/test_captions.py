"""Captions from folders in the real formats: the same for the same pictures, of bounded length; strangers' folders run nothing."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from captioner_material import POSITIONS, blip_folder, llava_folder
from safetensors.torch import load_file, save_file

from mutual_forcing.datasets.words import captions
from mutual_forcing.datasets.words.captions import CaptionConfig, Captioner, one_line, open_captioner, pictures

ASK = "USER : {image} a man ASSISTANT :"


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blip_folder(tmp_path_factory.mktemp("nets") / "blip")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava_folder(tmp_path_factory.mktemp("nets") / "llava")


@pytest.fixture
def copy(blip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(blip, tmp_path / "copy"))


def clips(count: int) -> list[np.ndarray]:
    """Of different length and size, each of a colour and a pattern of its own."""
    made = []
    for i in range(count):
        random = np.random.default_rng(i)
        noise = random.integers(0, 120, (5 + i, 40, 48 + 8 * i, 3))
        made.append((noise + random.integers(0, 120, 3)).astype(np.uint8))
    return made


@pytest.mark.parametrize("kind", ["blip", "llava"])
def test_the_same_pictures_get_the_same_caption_alone_and_in_a_batch(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("a network was asked")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    config = CaptionConfig(str(request.getfixturevalue(kind)), prompt=ASK if kind == "llava" else "", max_tokens=8)
    captioner = Captioner(config)
    alone = [captioner.caption(clip) for clip in clips(5)]
    assert alone == captioner.captions(clips(5)), "in batches of four"
    assert alone == [Captioner(config).caption(clip) for clip in clips(5)]
    assert len(set(alone)) > 1, "they are of the pictures"
    assert all(len(caption.split()) <= 8 for caption in alone)
    assert all("<" not in caption and "USER" not in caption[:4] for caption in alone), "neither special tokens nor the question"


def test_a_caption_is_of_the_middle_or_of_pictures_evenly_spread(blip: Path, llava: Path) -> None:
    clip = np.repeat(np.arange(12, dtype=np.uint8), 3 * 4).reshape(12, 2, 2, 3)
    for count, wanted in ((1, [6]), (2, [3, 9]), (3, [2, 6, 10]), (12, [*range(12)])):
        assert [int(np.asarray(picture)[0, 0, 0]) for picture in pictures(clip, count)] == wanted
    assert [int(np.asarray(picture)[0, 0, 0]) for picture in pictures(clip[:1], 2)] == [0, 0]
    film = clips(1)[0]
    other = film.copy()
    other[[0, 4]] = 255
    captioner = Captioner(CaptionConfig(str(blip), max_tokens=8))
    assert captioner.caption(film) == captioner.caption(other) == captioner.caption(film[2:3])
    several = Captioner(CaptionConfig(str(llava), prompt=ASK, frames=3, max_tokens=16))
    assert several.caption(film) != several.caption(other), "the others are seen too"


def test_a_caption_may_begin_with_words(blip: Path) -> None:
    assert Captioner(CaptionConfig(str(blip), prompt="a woman", max_tokens=6)).caption(clips(1)[0]).startswith("a woman")


def test_identity_is_the_content_and_what_is_asked(blip: Path, copy: Path) -> None:
    config = CaptionConfig(str(blip), max_tokens=8)
    same = replace(config, folder=str(copy), batch=1)
    others = [replace(config, prompt="a"), replace(config, max_tokens=9), replace(config, dtype="bfloat16")]
    identities = [Captioner(c).identity for c in (config, same, *others)]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 4
    blip_folder(copy, seed=1)
    assert Captioner(same).identity != identities[0]


def edit(folder: Path, name: str, change: Callable[[dict], object]) -> None:
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def without(folder: Path, tensor: str | None, value: float | None = None) -> None:
    weights = load_file(folder / "model.safetensors")
    name = tensor or next(iter(weights))
    if value is None:
        del weights[name]
    else:
        weights[name].view(-1)[0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


CODE = {"AutoModelForImageTextToText": "run_me.Network"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shutil.rmtree, "does not exist"),
        (pickled, "holds a pickle"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12345678"), "cut short, damaged"),
        (lambda f: (f / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda f: edit(f, "config.json", lambda d: d.update(auto_map=CODE)), "has auto_map: networks that bring their own code"),
        (lambda f: edit(f, "processor_config.json", lambda d: d.update(auto_map=CODE)), "networks that bring their own code"),
        (lambda f: edit(f, "config.json", lambda d: d["text_config"].update(quantization_config={"x": 1})), r"text_config\.quantization"),
        (lambda f: edit(f, "config.json", lambda d: d["text_config"].update(num_hidden_layers=10**9)), "num_hidden_layers=1000000000"),
        (lambda f: edit(f, "config.json", lambda d: d["text_config"].update(vocab_size=10**7)), "config.json is of a network of"),
        (lambda f: edit(f, "config.json", lambda d: d.update(model_type="bert")), "transformers makes nothing of it"),
        (lambda f: (f / "processor_config.json").unlink(), "transformers makes nothing of it"),
        (lambda f: without(f, None), "the weights hold"),
        (lambda f: without(f, None, float("nan")), "not all values are finite"),
    ],
)
def test_a_strangers_folder_is_refused_in_one_line_and_runs_nothing(copy: Path, damage: Callable[[Path], object], words: str) -> None:
    (copy / "run_me.py").write_text("raise SystemExit('code of a folder ran')")
    damage(copy)
    with pytest.raises(ValueError, match=words) as refused:
        Captioner(CaptionConfig(str(copy)))
    assert str(refused.value).startswith(f"data.caption.folder={str(copy)!r}: ")
    assert "\n" not in str(refused.value)


def test_a_tensor_that_is_missing_beside_one_too_many_is_named(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    name = "text_decoder.bert.encoder.layer.0.attention.self.query.weight"
    weights["another"] = weights.pop(name)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks tensor '{name}'"):
        Captioner(CaptionConfig(str(copy)))


def test_the_prompt_must_suit_the_network(blip: Path, llava: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.caption\.prompt='': this network is asked; write \{image\} once"):
        Captioner(CaptionConfig(str(llava)))
    with pytest.raises(ValueError, match=r"captions by itself; leave \{image\} out"):
        Captioner(CaptionConfig(str(blip), prompt=ASK))
    with pytest.raises(ValueError, match=r"data\.caption\.frames=2: this network sees one picture"):
        Captioner(CaptionConfig(str(blip), frames=2))


@pytest.mark.parametrize(("kind", "prompt", "positions"), [("blip", "", POSITIONS), ("llava", ASK, 2048)])
def test_a_caption_finds_room_in_the_networks_positions(request: pytest.FixtureRequest, kind: str, prompt: str, positions: int) -> None:
    """The longest that is let in is really written, and one token more fails."""
    folder = request.getfixturevalue(kind)
    if kind == "llava":
        folder, positions = shutil.copytree(folder, folder.parent / "short"), 24
        edit(folder, "config.json", lambda config: config["text_config"].update(max_position_embeddings=positions))
    words = rf"^data\.caption\.max_tokens=1000: the network has {positions} positions, .*; set data\.caption\.max_tokens=\d+ or less"
    with pytest.raises(ValueError, match=words) as refused:
        Captioner(CaptionConfig(str(folder), prompt=prompt, max_tokens=1000))
    room = int(re.findall(r"max_tokens=(\d+) or less", str(refused.value))[0])
    taken = len(ASK.split()) + 3 if kind == "llava" else 1  # a picture is four tokens
    assert room == positions - taken + 1
    captioner = Captioner(CaptionConfig(str(folder), prompt=prompt, max_tokens=room))
    captioner._network.generation_config.eos_token_id = None
    captioner.caption(clips(1)[0])
    with pytest.raises(ValueError, match=rf"max_tokens={room + 1}: "):
        Captioner(CaptionConfig(str(folder), prompt=prompt, max_tokens=room + 1))


@pytest.mark.parametrize(
    "clip",
    [np.zeros((0, 4, 4, 3), np.uint8), np.zeros((1, 4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8), np.zeros((1, 4, 4, 3), np.float32)],
)
def test_what_is_no_clip_is_refused(clip: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \[N,H,W,3\], not empty"):
        pictures(clip, 1)


def test_what_a_network_writes_is_one_line_of_bounded_length() -> None:
    assert one_line("  a\nred\x00fox\u200e \ufffd\t speaks ") == "a red fox speaks"
    assert len(one_line("fox " * 10_000)) < captions.MAX_CHARACTERS
    assert one_line("\ufffd\n") == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"folder": "a", "plugin": "b"}, "give one of them"),
        ({"dtype": "int8"}, "data.caption.dtype='int8': is not one of"),
        ({"frames": 0}, "data.caption.frames=0: must be from 1 to 64"),
        ({"max_tokens": 10**6}, "data.caption.max_tokens=1000000: must be from 1 to 1024"),
    ],
)
def test_settings_that_make_no_captions_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CaptionConfig(**change)
    assert open_captioner(CaptionConfig()) is None
