"""A run starts from the pretrained weights that its configuration names."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_material import save_stage
from processes_material import run_processes
from run_material import untrained_run
from torch import Tensor
from wan_material import TINY, State, random_state, wan_folder

from mutual_forcing.datasets.places.store import store_of
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.orchestration.config import RunConfig, with_settings
from mutual_forcing.orchestration.launch import train
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.rollout_pool import NoRollouts
from mutual_forcing.orchestration.run_record import loop_config
from mutual_forcing.orchestration.runs import configured
from mutual_forcing.workers.checkpoint import stage_weights
from mutual_forcing.workers.loop_config import Process, TrainLoopConfig
from mutual_forcing.workers.pretrained import InitConfig
from mutual_forcing.workers.train_loop import first_weights, train_stages

# --- a stage of another run ---------------------------------------------------------------------------------------------------


def trained(config: TrainLoopConfig, seed: int = 5) -> State:
    """Weights as a stage leaves them: no output is zero any more."""
    g = torch.Generator().manual_seed(seed)
    weights = AVTransformer(config.network, config.timeline).state_dict()
    return {name: torch.randn(x.shape, generator=g) for name, x in weights.items()}


def saved_stage(run: Path, config: RunConfig, stage: str, weights: State | None = None) -> Path:
    loop = loop_config(config, run)
    save_stage(loop.checkpoints, stage, 3, loop.architecture(), {"ema": weights or trained(loop)})
    return run / "checkpoints" / stage


def started(settings: list[str], run: Path, base: RunConfig | None = None) -> dict[str, Tensor]:
    """The weights that the first stage of a run with these settings starts from."""
    return first_weights(loop_config(with_settings(base or recipe("tiny"), settings), run))


@pytest.mark.parametrize("given", [("video",), ("audio",), ("video", "audio")], ids="+".join)
def test_the_branches_start_from_the_stages_that_the_configuration_names(tmp_path: Path, given: tuple[str, ...]) -> None:
    tiny = recipe("tiny")
    weights = {m: trained(loop_config(tiny, tmp_path), seed) for seed, m in enumerate(("video", "audio"))}
    folders = {m: saved_stage(tmp_path / m, tiny, f"pretrain-{m}", weights[m]) for m in given}
    made, fresh = started([f"init.{m}={folder}" for m, folder in folders.items()], tmp_path), started([], tmp_path)
    assert made.keys() == fresh.keys()
    for name, x in made.items():
        modality = name.split(".")[1]
        assert torch.equal(x, weights[modality][name] if modality in given else fresh[name]), name


def test_clock_window_and_the_other_branch_may_differ(tmp_path: Path) -> None:
    tiny = recipe("tiny")
    folder = saved_stage(tmp_path, tiny, "pretrain-video")
    settings = [
        f"init.video={folder}",
        "model.audio_width=24",
        "model.word_lookahead_s=0.1",
        "data.timeline.fps=12",
        "model.text.max_words=9",
    ]
    assert torch.equal(
        started(settings, tmp_path)["branches.video.embed.weight"], trained(loop_config(tiny, tmp_path))["branches.video.embed.weight"]
    )


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.video_width=64"], "a network with model.video_width=32, this run has model.video_width=64"),
        (["model.depth=3"], "model.depth=2, this run has model.depth=3; give it what it needs: --set model.depth=2"),
        (["model.heads=4", "model.head_dim=8"], "--set model.head_dim=16 --set model.heads=2"),
        (["model.video.prediction=velocity"], "model.video.prediction='preconditioned'"),
        (["model.rope.time_share=0.25"], r"model\.rope\.time_share=0\.5"),
        (["model.text.max_bytes=9"], r"words\.place' is \[12, 32\], this network needs \[9, 32\]"),
    ],
)
def test_a_stage_of_another_network_is_refused_with_what_to_set(tmp_path: Path, settings: list[str], words: str) -> None:
    folder = saved_stage(tmp_path, recipe("tiny"), "pretrain-video")
    with pytest.raises(ValueError, match=words) as refused:
        started([f"init.video={folder}", *settings], tmp_path)
    assert str(refused.value).startswith(f"init.video='{folder}': ")
    assert "\n" not in str(refused.value)


def test_a_branch_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    loop = loop_config(recipe("tiny"), tmp_path)
    weights = trained(loop) | {
        f"branches.audio.out.{kind}": torch.zeros(shape) for kind, shape in (("weight", (128, 32)), ("bias", (128,)))
    }
    folder = saved_stage(tmp_path, recipe("tiny"), "pretrain-video", weights)
    with pytest.raises(ValueError, match=r"^init\.audio=.*audio branch was never trained"):
        started([f"init.audio={folder}"], tmp_path)


def test_a_value_that_is_not_finite_is_refused_by_its_tensor(tmp_path: Path) -> None:
    weights = trained(loop_config(recipe("tiny"), tmp_path))
    weights["branches.video.blocks.1.ffn.0.bias"][3] = torch.nan
    folder = saved_stage(tmp_path, recipe("tiny"), "pretrain-video", weights)
    with pytest.raises(ValueError, match=r"blocks\.1\.ffn\.0\.bias.*not all values are finite"):
        started([f"init.video={folder}"], tmp_path)


def flip(folder: Path) -> None:
    (file,) = folder.glob("*/ema.*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def edit(**changes: object) -> Callable[[Path], None]:
    """Other values in the manifest."""

    def apply(folder: Path) -> None:
        (file,) = folder.glob("*/manifest.json")
        content = json.dumps(json.loads(file.read_text()) | changes).encode()
        file.write_bytes(content)
        (file.parent / "COMMIT").write_text(json.dumps({"manifest": hashlib.sha256(content).hexdigest()}))

    return apply


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (flip, "damaged"),
        (lambda f: next(f.glob("*/ema.*.safetensors")).unlink(), "damaged"),
        (lambda f: next(f.glob("*/manifest.json")).write_text("[" * 100_000), "its hash is not the one in COMMIT"),
        (lambda f: next(f.glob("*/COMMIT")).write_text("[" * 100_000), "not JSON"),
        (lambda f: next(f.glob("*/COMMIT")).write_text('{"format": ' + "1" * 5000 + "}"), "not JSON"),
        (edit(format=1), "is of format 1, and this release reads format 2"),
        (edit(files=3), "not of format 2"),
        (edit(files={"ema": 3}), "not of format 2"),
        (edit(roles={}), "no 'ema' weights; it has"),
        (edit(steps=4), "is a stage that is not finished"),
        (edit(network=3), "not of format 2"),
        (edit(network={"model.depth": {"a": 1, "b": 2}}), "other settings"),
    ],
)
def test_a_damaged_stage_is_refused(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    folder = saved_stage(tmp_path, recipe("tiny"), "pretrain-video")
    damage(folder)
    with pytest.raises(ValueError, match=words) as refused:
        started([f"init.video={folder}"], tmp_path)
    assert str(refused.value).startswith("init.video=")
    assert "\n" not in str(refused.value)


def test_the_record_of_a_run_names_absolute_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert configured("tiny", None, ["init.audio=runs/a"]).init == InitConfig(audio=str(tmp_path / "runs" / "a"))


def test_a_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"init\.video='s3://bucket/x': only local paths"):
        started(["init.video=s3://bucket/x"], tmp_path)


def test_a_run_is_refused_before_it_makes_anything(tmp_path: Path) -> None:
    config = with_settings(recipe("tiny"), [f"init.video={tmp_path / 'none'}"])
    with pytest.raises(ValueError, match=r"init\.video=.*does not exist"):
        train(config, tmp_path / "run", [], lambda *_: None, lambda _: None)
    assert list(tmp_path.iterdir()) == []


# --- the folder of a Wan network ---


def test_the_settings_that_a_refusal_names_are_all_that_a_run_needs(tmp_path: Path) -> None:
    folder, tiny = wan_folder(tmp_path / "wan"), recipe("tiny")
    with pytest.raises(ValueError, match=r"is a network with model\.depth|is a network with model\.head_dim") as refused:
        started([f"init.video={folder}"], tmp_path)
    words = shlex.split(str(refused.value).split("what it needs: ")[1])
    settings = [word for word in words if word != "--set"]
    assert words == [w for setting in settings for w in ("--set", setting)]
    channels = f"data.video_codec.channels={TINY['in_channels']}"
    made = started([f"init.video={folder}", channels, *settings], tmp_path, replace(tiny, workers=replace(tiny.workers, count=1)))
    assert torch.equal(made["branches.video.blocks.1.ffn.0.bias"], random_state(TINY, torch.float32)["blocks.1.ffn.net.0.proj.bias"])


# --- end to end -----------------------------------------------------------------------------------------------------------------


def one_worker(rank: int, folder: str) -> None:
    """A stage `pretrain-video` in one run, then a run that starts from it with a rate too small to move a weight."""
    root = Path(folder)
    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=1)
    config = untrained_run(root / "one")
    shutil.copytree(root / "one" / "data", root / "two" / "data")
    for run, stage, more in (("one", "pretrain-video", []), ("two", "joint", [f"init.video={root / 'one/checkpoints/pretrain-video'}"])):
        rate = ["stages.joint.optimizer.lr=1e-30"] if run == "two" else []
        settled = with_settings(config, ["workers.count=1", *more, *rate])
        only = replace(settled, stages=tuple(replace(s, steps=1) for s in settled.stages if s.name == stage))
        train_stages(loop_config(only, root / run), NoRollouts(), Process(0, 1))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_a_run_trains_on_from_the_stage_of_another(tmp_path: Path) -> None:
    run_processes(one_worker, (str(tmp_path),), 1)
    loop = loop_config(recipe("tiny"), tmp_path)
    first, second = (
        {role: stage_weights(store_of(tmp_path / run / "checkpoints"), stage, loop.architecture(), role) for role in ("ema", "live")}
        for run, stage in (("one", "pretrain-video"), ("two", "joint"))
    )
    fresh = started([], tmp_path)
    for role in ("ema", "live"):
        for name, x in second[role].items():
            expected = first["ema"][name] if name.startswith("branches.video") else fresh[name]
            assert torch.allclose(x, expected, rtol=0, atol=1e-7), name
    moved = [n for n, x in first["ema"].items() if n.startswith("branches.video") and not torch.allclose(x, fresh[n], rtol=0, atol=1e-5)]
    assert moved, "the first run trained its video branch"
