"""A stage's checkpoint: it comes back whole, or it is refused with its cause named."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from mutual_forcing.workers.checkpoint import StageCheckpoint, discard_unfinished, is_finished, load_stage, save_stage, stage_record

NETWORK = {"model.depth": 2, "model.text": {"max_words": 4}, "timeline.fps": 24}
ROLES = ("live", "ema")


def checkpoint(seed: int = 0, steps: int = 9) -> StageCheckpoint:
    g = torch.Generator().manual_seed(seed)
    weights = {role: {"a.weight": torch.randn(4, 3, generator=g), "b": torch.randn(5, generator=g)} for role in ROLES}
    return StageCheckpoint("joint", steps, NETWORK, weights, seconds=1.25, samples=36)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_stage(tmp_path, checkpoint())
    return tmp_path


def test_everything_comes_back(saved: Path) -> None:
    assert is_finished(saved, "joint")
    loaded, sent = load_stage(saved, "joint", NETWORK, ROLES), checkpoint()
    assert (loaded.stage, loaded.steps, loaded.network) == (sent.stage, sent.steps, sent.network)
    assert (loaded.seconds, loaded.samples) == (sent.seconds, sent.samples)
    for role in ROLES:
        assert loaded.weights[role].keys() == sent.weights[role].keys()
        assert all(torch.equal(loaded.weights[role][name], x) for name, x in sent.weights[role].items())


def test_the_record_of_a_stage_is_read_without_its_weights(saved: Path) -> None:
    for role in ROLES:
        (saved / "joint" / f"{role}.safetensors").unlink()
    assert stage_record(saved, "joint") == {"name": "joint", "steps": 9, "seconds": 1.25, "samples": 36}
    with pytest.raises(ValueError, match="checkpoint of stage 'mutual'"):
        stage_record(saved, "mutual")


def test_only_the_roles_asked_for_are_read(saved: Path) -> None:
    (saved / "joint" / "live.safetensors").unlink()
    assert load_stage(saved, "joint", NETWORK, ("ema",)).weights.keys() == {"ema"}


def test_a_later_checkpoint_replaces_an_earlier_one(saved: Path) -> None:
    save_stage(saved, checkpoint(seed=1, steps=10))
    loaded = load_stage(saved, "joint", NETWORK, ("ema",))
    assert loaded.steps == 10
    assert torch.equal(loaded.weights["ema"]["b"], checkpoint(seed=1).weights["ema"]["b"])
    assert [p.name for p in saved.iterdir()] == ["joint"]


@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_a_flipped_bit_is_found(saved: Path, where: float) -> None:
    file = saved / "joint" / "ema.safetensors"
    content = bytearray(file.read_bytes())
    content[round(where * (len(content) - 1))] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"ema\.safetensors: damaged.*train the stage again"):
        load_stage(saved, "joint", NETWORK, ("ema",))


def test_a_truncated_file_is_found(saved: Path) -> None:
    file = saved / "joint" / "ema.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"ema\.safetensors: damaged"):
        load_stage(saved, "joint", NETWORK, ("ema",))


def test_a_missing_file_is_named(saved: Path) -> None:
    (saved / "joint" / "ema.safetensors").unlink()
    with pytest.raises(ValueError, match="'ema'"):
        load_stage(saved, "joint", NETWORK, ("ema",))


def test_a_role_that_was_never_saved_is_named(saved: Path) -> None:
    with pytest.raises(ValueError, match=r"no 'fake' weights; it has \['ema', 'live'\]"):
        load_stage(saved, "joint", NETWORK, ("fake",))


def test_a_stage_that_was_never_trained_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stage 'mutual' \(train it first\)"):
        load_stage(tmp_path, "mutual", NETWORK, ("ema",))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model.depth": 3}, r"model\.depth=2, this run has model\.depth=3"),
        ({"model.text": {"max_words": 5}}, r"model\.text=\{'max_words': 4\}"),
        ({"model.window": 8}, r"model\.window=None, this run has model\.window=8"),
    ],
)
def test_another_architecture_is_refused_by_its_first_field(saved: Path, change: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        load_stage(saved, "joint", NETWORK | change, ("ema",))


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 99}', '{"format": 1}', '{"format": 1, "network": {}}'])
def test_a_damaged_manifest_is_refused(saved: Path, damage: str) -> None:
    (saved / "joint" / "manifest.json").write_text(damage)
    with pytest.raises(ValueError, match=r"joint.*again"):
        load_stage(saved, "joint", NETWORK, ("ema",))


def test_an_interrupted_write_is_not_trusted(saved: Path) -> None:
    """Until the rename, the folder has another name; a folder without its manifest, the last file, does not count either."""
    whole = saved / "joint"
    shutil.copytree(whole, saved / ".late.123.tmp")
    shutil.copytree(whole, saved / "early")
    (saved / "early" / "manifest.json").unlink()
    for stage in ("late", "early"):
        assert not is_finished(saved, stage)
        with pytest.raises(ValueError, match=f"stage '{stage}'"):
            load_stage(saved, stage, NETWORK, ("ema",))


def test_a_write_that_fails_leaves_the_earlier_checkpoint(saved: Path) -> None:
    broken = StageCheckpoint("joint", 11, {"model.depth": {1, 2}}, checkpoint(seed=1).weights)  # a set is not JSON
    with pytest.raises(TypeError, match="JSON"):
        save_stage(saved, broken)
    assert load_stage(saved, "joint", NETWORK, ("ema",)).steps == 9


def test_the_manifest_accounts_for_every_file(saved: Path) -> None:
    manifest = json.loads((saved / "joint" / "manifest.json").read_text())
    sizes = {p.stem: p.stat().st_size for p in (saved / "joint").glob("*.safetensors")}
    assert sizes == {role: entry["bytes"] for role, entry in manifest["files"].items()}


def test_what_killed_writers_left_goes_when_the_stage_is_saved_or_begun(saved: Path) -> None:
    """Of any process number, and of that stage alone."""
    others = [".joint-2.41.tmp", ".mutual.41.tmp", ".joint.tmp"]
    for name in (".joint.41.tmp", ".joint.42.tmp", *others):
        shutil.copytree(saved / "joint", saved / name)
    save_stage(saved, checkpoint(seed=1))
    assert sorted(p.name for p in saved.iterdir()) == sorted(["joint", *others])
    discard_unfinished(saved, "mutual")
    assert sorted(p.name for p in saved.iterdir()) == sorted(["joint", ".joint-2.41.tmp", ".joint.tmp"])
    assert is_finished(saved, "joint")


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc which file a descriptor is of")
def test_everything_is_on_the_disk_before_the_rename_commits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def committed(source: Path, target: Path) -> None:
        synced.append(f"{Path(source).name} -> {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "replace", committed)
    save_stage(tmp_path, checkpoint())
    folder, manifest = f".joint.{os.getpid()}.tmp", f".manifest.json.{os.getpid()}.tmp"
    weights = [f"{role}.safetensors" for role in ROLES]
    assert synced == [*weights, manifest, f"{manifest} -> manifest.json", folder, f"{folder} -> joint", tmp_path.name]
