"""The verbs for checkpoints: list, verify, prune, export, audit."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from checkpoint_material import ATTEMPT, save_checkpoint
from run_material import untrained_run
from safetensors import safe_open
from typer.testing import CliRunner

from mutual_forcing.datasets.ledger import Update
from mutual_forcing.datasets.places.lock import locked
from mutual_forcing.datasets.places.storage import write_json
from mutual_forcing.datasets.reading.loader import LatentDataset
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.run_record import loop_config, open_run
from mutual_forcing.workers.checkpoint import folder_of
from mutual_forcing.workers.standing import Standing, write_standing

STEPS = 6


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    untrained_run(folder)
    return folder


@pytest.fixture
def run(material: Path, tmp_path: Path) -> Path:
    """A run of one stage with two checkpoints and its ledger."""
    config = open_run(material)
    stage = replace(config.stages[-1], steps=STEPS)
    write_json(tmp_path / "run.json", {"config": asdict(replace(config, stages=(stage,)))})
    (tmp_path / "data").symlink_to(material / "data")
    loop = loop_config(open_run(tmp_path), tmp_path)
    order = LatentDataset(loop.data, loop.network.text).stage(config.seed, stage.name, stage.batch)
    clips = [order.at(p)[0] for p in range(STEPS * stage.batch)]
    updates = [Update(s, tuple(clips[s * stage.batch : (s + 1) * stage.batch]), s != 2, (max(0, s - 1), s)) for s in range(STEPS)]
    torch.manual_seed(0)
    weights = {"ema": AVTransformer(loop.network, loop.timeline).state_dict()}
    save_checkpoint(loop.checkpoints, stage.name, 4, STEPS, loop.architecture(), weights, updates=updates[:4])
    save_checkpoint(loop.checkpoints, stage.name, STEPS, STEPS, loop.architecture(), weights, "aaaaaaaa", updates)
    return tmp_path


def said(*words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.output


def test_what_is_there_is_listed(run: Path) -> None:
    records = json.loads(said("checkpoint", "list", str(run), "--json"))
    folder = run / "checkpoints" / "mutual"
    assert [{k: r[k] for k in ("path", "step", "stage", "complete")} for r in records] == [
        {"path": f"{folder}/00000004-{ATTEMPT}", "step": 4, "stage": "mutual", "complete": True},
        {"path": f"{folder}/00000006-aaaaaaaa", "step": 6, "stage": "mutual", "complete": True},
    ]
    assert records[0]["bytes"] > 1e5
    (folder / "00000006-aaaaaaaa" / "COMMIT").unlink()
    assert "not committed" in said("checkpoint", "list", str(run / "checkpoints"))


def test_damage_is_found_and_is_a_failure(run: Path) -> None:
    assert [r["damage"] for r in json.loads(said("checkpoint", "verify", str(run), "--json"))] == ["", ""]
    file = run / "checkpoints" / "mutual" / f"00000004-{ATTEMPT}" / "ema.00000.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    damage = [r["damage"] for r in json.loads(said("checkpoint", "verify", str(run), "--json", code=1))]
    assert ["its hash differs" in text for text in damage] == [True, False]


def test_a_ledger_that_is_gone_is_damage_too(run: Path) -> None:
    next((run / "checkpoints" / "mutual" / "ledger").glob("00000006-*")).unlink()
    damage = [r["damage"] for r in json.loads(said("checkpoint", "verify", str(run), "--json", code=1))]
    assert ["ledger" in text for text in damage] == [False, True]


def test_pruning_says_what_goes_and_then_does_it(run: Path) -> None:
    gone = [f"{run}/checkpoints/mutual/00000004-{ATTEMPT}"]
    assert json.loads(said("checkpoint", "prune", str(run), "--keep-last", "1", "--dry-run", "--json")) == {
        "removed": [],
        "would_remove": gone,
    }
    assert len(json.loads(said("checkpoint", "list", str(run), "--json"))) == 2
    assert json.loads(said("checkpoint", "prune", str(run), "--keep-last", "1", "--json"))["removed"] == gone
    assert [r["step"] for r in json.loads(said("checkpoint", "list", str(run), "--json"))] == [6]
    with locked("run folder", run):
        assert "is working in it" in said("checkpoint", "prune", str(run), code=1)


@pytest.mark.parametrize("folder", ["", "checkpoints"])
def test_pruning_leaves_what_may_still_be_written(run: Path, folder: str) -> None:
    half = run / "checkpoints" / "mutual" / "00000005-cccccccc"
    half.mkdir()
    for name in ("live.00000.safetensors", "rank.00000.json"):
        (half / name).write_bytes(b"x")
        os.utime(half / name, (0, 0))
    (half / "ema.00000.safetensors").write_bytes(b"x")
    words = ("checkpoint", "prune", str(run / folder), "--json")
    assert json.loads(said(*words))["removed"] == []
    os.utime(half / "ema.00000.safetensors", (time.time() - 3700, time.time() - 3700))
    assert json.loads(said(*words))["removed"] == [str(half)]


@pytest.mark.parametrize("branch", ["video", "both"])
def test_an_export_is_read_without_this_package(run: Path, tmp_path: Path, branch: str) -> None:
    out = tmp_path / "weights"
    record = json.loads(said("checkpoint", "export", str(run), "--out", str(out), "--branch", branch, "--json"))
    assert sorted(p.name for p in out.iterdir()) == sorted([*record["files"], "weights.json"])
    about = json.loads((out / "weights.json").read_text())
    assert (about["stage"], about["step"], about["weights"], about["network"]["model.depth"]) == ("mutual", 6, "ema", 2)
    torch.manual_seed(0)
    loop = loop_config(open_run(run), run)
    network = AVTransformer(loop.network, loop.timeline).branches["video"].state_dict()
    with safe_open(str(out / "video.safetensors"), "pt") as file:
        assert set(file.keys()) == set(network)
        assert all(torch.equal(file.get_tensor(name), x) for name, x in network.items())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--branch", "smell"], "--branch='smell': choose video, audio or both"),
        (["--weights", "fake"], "has no 'fake' weights; it has ['ema']"),
        (["--stage", "joint"], "no checkpoint of stage 'joint' in"),
        (["--step", "5"], "no checkpoint of a stage at step 5"),
    ],
)
def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path, words: list[str], told: str) -> None:
    assert told in said("checkpoint", "export", str(run), "--out", str(tmp_path / "w"), *words, code=1)


def test_the_best_is_that_of_the_last_stage_that_has_one(run: Path, tmp_path: Path) -> None:
    loop = loop_config(open_run(run), run)
    network = {"ema": AVTransformer(loop.network, loop.timeline).state_dict()}
    save_checkpoint(loop.checkpoints, "later", 2, 2, loop.architecture(), network)
    best = folder_of("mutual", 4, ATTEMPT)
    write_standing(loop.checkpoints, "mutual", Standing(2, "drift", path=best, step=4, value=1.0))
    words = ("checkpoint", "export", str(run), "--best", "--json", "--out")
    record = json.loads(said(*words, str(tmp_path / "weights")))
    assert (record["stage"], record["step"]) == ("mutual", 4)
    assert "none was evaluated" in said(*words, str(tmp_path / "none"), "--stage", "later", code=1)


def test_an_export_overwrites_nothing(run: Path) -> None:
    assert "is not empty; choose another folder" in said("checkpoint", "export", str(run), "--out", str(run), code=1)


def test_an_audit_accounts_for_every_clip(run: Path) -> None:
    (record,) = json.loads(said("audit", str(run), "--json"))
    assert (record["stage"], record["steps"], record["skipped"], record["faults"]) == ("mutual", STEPS, [2], [])
    assert record["epochs"] == record["clips"] / len(LatentDataset(run / "data", open_run(run).model.text).train)
    assert "every clip of every epoch was trained on exactly once" in said("audit", str(run))


@pytest.mark.parametrize(("rollout", "told"), [(None, "no rollout"), ((0, 1), "rollouts of the weights of steps 0 to 1"), ((3, 9), "9")])
def test_an_audit_knows_the_age_of_every_rollout(run: Path, rollout: tuple[int, int] | None, told: str) -> None:
    """`tiny` allows one step."""
    loop = loop_config(open_run(run), run)
    updates = [Update(s, ("x",) * 4, True, (s, s)) for s in range(STEPS - 1)] + [Update(STEPS - 1, ("x",) * 4, True, rollout)]
    save_checkpoint(loop.checkpoints, "mutual", STEPS, STEPS, loop.architecture(), {}, "bbbbbbbb", updates)
    (record,) = json.loads(said("audit", str(run), "--json", code=1))
    (fault,) = [fault for fault in record["faults"] if "rollout" in fault]
    assert fault.startswith(f"step {STEPS - 1}: ")
    assert told in fault


def test_an_audit_of_what_was_not_trained_in_order_fails(run: Path) -> None:
    loop = loop_config(open_run(run), run)
    updates = [Update(s, ("x",) * 4, True) for s in range(STEPS)]
    save_checkpoint(loop.checkpoints, "mutual", STEPS, STEPS, loop.architecture(), {}, "bbbbbbbb", updates)
    (record,) = json.loads(said("audit", str(run), "--json", code=1))
    assert any("x is no training clip" in fault for fault in record["faults"])


def test_a_run_without_checkpoints_has_nothing_to_audit(run: Path) -> None:
    for path in (run / "checkpoints").rglob("COMMIT"):
        path.unlink()
    assert "no stage has a checkpoint yet" in said("audit", str(run), code=1)
    assert "does not exist; give a run folder" in said("checkpoint", "list", str(run / "nothing"), code=1)
