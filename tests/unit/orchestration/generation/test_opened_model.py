"""A model is opened from any of its folders, and what was exported needs no run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_material import ATTEMPT
from run_material import untrained_run

from mutual_forcing.datasets.format.account import read_account, write_account
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.orchestration.checkpoints import exported
from mutual_forcing.orchestration.generation.opened_model import open_model
from mutual_forcing.orchestration.generation.playing import Playing, Prompt


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return folder


@pytest.fixture(scope="module")
def weights(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "weights"
    exported(str(run), str(folder), "", -1, "ema", "both")
    return folder


def test_every_folder_of_a_model_opens_the_same(run: Path, weights: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(weights, tmp_path / "elsewhere")
    (stage,) = (run / "checkpoints").iterdir()
    (checkpoint,) = stage.glob(f"*-{ATTEMPT}")
    models = [open_model(str(path), device="cpu") for path in (run, stage, checkpoint, alone)]
    assert len({m.identity for m in models}) == 1
    first = torch.from_numpy(models[0].held_out(0).get("video")[:1].astype("float32"))
    frames = [next(Playing(m, [Prompt(first)], m.sampler("few", None, None)))[0].frames for m in models]
    assert all(np.array_equal(f, frames[0]) for f in frames[1:])
    assert all(m.controls == ("caption", "transcript") for m in models)
    assert models[3].record.licences == {"drawn by mutual-forcing": 3}
    with pytest.raises(ValueError, match="exported weights come without clips; give --first-frame, or the run folder"):
        models[3].held_out(0)


def test_an_export_lists_the_licences_of_its_sources(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (manifest,) = (folder / "data").glob("manifest.json")
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(told | {"synthetic": False}))
    lines = read_account(folder / "data" / told["account"])
    marked = [
        *(replace(line, tags=(("licence", "CC-BY-4.0"), ("consent", "training"))) for line in lines[:2]),
        *lines[2:],
    ]
    write_account(LocalStore(folder / "data"), told["account"], marked)
    record = exported(str(folder), str(tmp_path / "weights"), "", -1, "ema", "both")
    assert record["model"]["licences"] == {"CC-BY-4.0": 2, "unknown": 1}
    assert record["model"]["consents"] == {"training": 2, "unknown": 1}


def damaged(weights: Path, folder: Path, damage: str) -> Path:
    shutil.copytree(weights, folder)
    about = json.loads((folder / "weights.json").read_text())
    if damage == "flipped":
        content = bytearray((folder / "video.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "video.safetensors").write_bytes(content)
    elif damage == "half":
        (folder / "audio.safetensors").unlink()
    elif damage == "old":
        about["format"] = "mutual-forcing weights 1"
    elif damage == "bare":
        about["model"] = None
    elif damage == "wrong":
        about["model"]["network"]["depth"] = "deep"
    elif damage == "other":
        about["model"]["network"]["depth"] = 3
    (folder / "weights.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("flipped", "damaged (its hash is not the one in weights.json); export them again"),
        ("half", "have no audio.safetensors; export both branches to make clips"),
        ("old", "are not of the format 'mutual-forcing weights 2'; export them again"),
        ("bare", "were exported without a run; export them from the run folder to make clips"),
        ("wrong", "weights.json: network.depth: Input should be a valid integer"),
        ("other", "do not fit the network of their record"),
    ],
)
def test_a_damaged_export_is_refused_by_name(weights: Path, tmp_path: Path, damage: str, told: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  the text is looked at
        open_model(str(damaged(weights, tmp_path / "weights", damage)), device="cpu")
    assert told in str(refused.value)


def test_what_is_no_model_is_refused_by_name(run: Path, weights: Path, tmp_path: Path) -> None:
    for path, settings, told in (
        (tmp_path, [], "holds neither a run nor exported weights; give a run folder"),
        (tmp_path / "gone", [], "is no folder; give a run folder"),
        (run / "checkpoints", [], "holds no complete checkpoint"),
        (run, ["model.dept=3"], "did you mean 'depth'"),
        (weights, ["model.depth=3"], "of exported weights data.pretrained.video and .audio can be set alone"),
    ):
        with pytest.raises(ValueError, match=told):
            open_model(str(path), settings, "cpu")
    with pytest.raises(ValueError, match="--device='tpu': there is none here; choose auto or cpu"):
        open_model(str(run), device="tpu")
