"""A folder of weights becomes a branch, or is refused in one line that says why: it is a stranger's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_material import FILE, INDEX, TINY, State, random_state, wan_folder

from mutual_forcing.model.timeline import Timeline
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.model.wan import wan_shape
from mutual_forcing.workers.pretrained import InitConfig, find_pretrained, initialise

CLOCK = Timeline()
WIDE = wan_shape(TINY).adapted(TransformerConfig(audio_width=16), CLOCK)


def import_wan(folder: Path, config: TransformerConfig = WIDE) -> AVTransformer:
    torch.manual_seed(0)
    net = AVTransformer(config, CLOCK)
    initialise(net, InitConfig(video=str(folder)))
    return net


# --- folders of neither kind --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: None, "does not exist; give the folder RUN/checkpoints/STAGE"),
        (lambda f: f.write_text("x"), "is a file"),
        (lambda f: f.mkdir(), r"neither a stage of another run nor config\.json"),
        (lambda f: (f / "transformer").mkdir(parents=True), "give its transformer/"),
        (lambda f: (f / "checkpoints").mkdir(parents=True), "give a folder below its checkpoints/"),
    ],
)
def test_a_folder_that_is_no_network_is_refused(tmp_path: Path, make: Callable[[Path], object], words: str) -> None:
    make(tmp_path / "given")
    with pytest.raises(ValueError, match=words):
        import_wan(tmp_path / "given")


# --- the folder of a Wan network ------------------------------------------------------------------------------------------------


def test_one_file_and_several_give_the_same_branch(tmp_path: Path) -> None:
    one, three = import_wan(wan_folder(tmp_path / "one")), import_wan(wan_folder(tmp_path / "three", 3))
    weights = one.state_dict()
    assert all(torch.equal(x, weights[name]) for name, x in three.state_dict().items())
    assert torch.equal(weights["branches.video.blocks.1.ffn.2.weight"], random_state(TINY, torch.float32)["blocks.1.ffn.net.2.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_widened(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: x.to(dtype) for name, x in random_state(TINY, torch.float32).items()}
    x = import_wan(wan_folder(tmp_path / "wan", state=state)).state_dict()["branches.video.blocks.0.cross_norm.weight"]
    assert x.dtype == torch.float32
    assert torch.equal(x, state["blocks.0.norm2.weight"].float())


def test_wan_is_no_audio_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^init\.audio=.*only video networks"):
        find_pretrained(InitConfig(audio=str(wan_folder(tmp_path / "wan"))), WIDE, CLOCK)


def edit(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        made = change(content)
        (folder / name).write_text(json.dumps(made if isinstance(made, dict | list) else content))

    return apply


def save_again(file: str, change: Callable[[State], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        state = load_file(str(folder / file))
        change(state)
        save_file(state, str(folder / file))

    return apply


def outside(folder: Path, name: str = "../elsewhere.safetensors") -> None:
    shutil.copy(folder / SHARDS[0], folder.parent / "elsewhere.safetensors")
    edit(INDEX, lambda m: m["weight_map"].update(dict.fromkeys(m["weight_map"], name)))(folder)


def as_pickle(folder: Path) -> None:
    (folder / FILE).unlink()
    torch.save({}, folder / "diffusion_pytorch_model.bin")


SHARDS = [f"diffusion_pytorch_model-{i:05}-of-00002.safetensors" for i in (1, 2)]
OUT = ("proj_out.bias", "proj_out.weight")
OVERLAP = save_again(SHARDS[0], lambda s: s.update({name: torch.zeros(12) for name in OUT}))


@pytest.mark.parametrize(
    ("shards", "damage", "words"),
    [
        (1, as_pickle, r"holds a pickle \(diffusion_pytorch_model\.bin\).*as safetensors"),
        (1, lambda f: (f / FILE).unlink(), f"{FILE} is missing"),
        (1, lambda f: os.truncate(f / FILE, 1000), "cut short, damaged"),
        (1, lambda f: (f / FILE).write_bytes(b"\xff" * 100), "cut short, damaged"),
        (1, lambda f: (f / FILE).write_bytes(b""), "cut short, damaged|cannot be read"),
        (1, save_again(FILE, lambda s: s.pop("proj_out.bias")), r"lacks tensor 'proj_out\.bias'"),
        (1, save_again(FILE, lambda s: s.update({"blocks.0.attn2.add_k_proj.bias": torch.zeros(3)})), "add_k.*which nothing"),
        (1, save_again(FILE, lambda s: s.update({"proj_out.bias": torch.zeros(12, dtype=torch.int32)})), "of type I32"),
        (1, save_again(FILE, lambda s: s["proj_out.bias"].fill_(torch.inf)), r"'proj_out\.bias': not all values are finite"),
        (1, lambda f: (f / "config.json").write_text("[" * 100_000), r"config\.json is not JSON"),
        (1, lambda f: (f / "config.json").write_bytes(b" " * (16 * 2**20 + 1)), "bytes; at most"),
        (1, edit("config.json", lambda c: c | {"num_layers": 10**9}), r"model\.depth=1000000000, this run has model\.depth=2"),
        (1, edit("config.json", lambda c: c | {"ffn_dim": 51}), r"--set model\.video\.ffn_width=51$"),
        (1, edit("config.json", lambda c: c | {"image_dim": 1280}), "image_dim=1280"),
        (2, lambda f: (f / SHARDS[1]).unlink(), f"{SHARDS[1]} is missing"),
        (2, outside, "'../elsewhere.safetensors' is no safetensors file of this folder"),
        (2, lambda f: outside(f, str(f.parent / "elsewhere.safetensors")), "is no safetensors file of this folder"),
        (2, edit(INDEX, lambda m: m["weight_map"].update({"proj_out.bias": "x.bin"})), "'x.bin' is no safetensors file"),
        (2, edit(INDEX, lambda m: m["weight_map"].update({"proj_out.bias": 3})), "does not say where tensors are"),
        (2, edit(INDEX, lambda m: []), "does not say where tensors are"),
        (2, edit(INDEX, lambda m: m["weight_map"].pop("proj_out.bias")), r"do not agree on tensor 'proj_out\.bias'"),
        (2, edit(INDEX, lambda m: m["weight_map"].update({"more": SHARDS[0]})), "do not agree on tensor 'more'"),
        (2, edit(INDEX, lambda m: m["weight_map"].update(dict.fromkeys(OUT, SHARDS[0]))), "do not agree on tensor 'proj_out"),
        (2, OVERLAP, f"is in {SHARDS[0]} and in {SHARDS[1]}"),
    ],
)  # fmt: skip
def test_a_stranger_folder_is_refused_in_one_line(tmp_path: Path, shards: int, damage: Callable[[Path], object], words: str) -> None:
    folder = wan_folder(tmp_path / "wan", shards)
    damage(folder)
    with pytest.raises(ValueError, match=words) as refused:
        import_wan(folder)
    assert str(refused.value).startswith(f"init.video='{folder}': ")
    assert "\n" not in str(refused.value)
