"""What a stage leaves behind: weights as safetensors with hashes, in a folder that appears whole or not at all.

The folder is written under a temporary name, its manifest last, and is on the disk before it is renamed: the rename is the commit. A
reader verifies sizes and hashes before it trusts a file.
"""

from __future__ import annotations

import glob
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..datasets.storage import read_json, sha256_file, sync, write_json

FORMAT = 1
MANIFEST = "manifest.json"
FIELDS = {"stage", "steps", "network", "files"}

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class StageCheckpoint:
    """A finished stage: `weights` by role ("live", "ema", and "fake" after a mutual stage), what it was made with, and what it took."""

    stage: str
    steps: int
    network: dict[str, Any]
    weights: dict[str, Weights]
    seconds: float = 0.0
    samples: int = 0


def save_stage(folder: Path, checkpoint: StageCheckpoint) -> Path:
    """Write `folder`/<stage> atomically, replacing an older one. Nobody else may write that stage meanwhile: a run locks its folder."""
    final = folder / checkpoint.stage
    discard_unfinished(folder, checkpoint.stage)
    temporary = folder / f".{checkpoint.stage}.{os.getpid()}.tmp"
    temporary.mkdir(parents=True)
    files = {}
    for role, weights in checkpoint.weights.items():
        path = temporary / f"{role}.safetensors"
        save_file({name: x.detach().cpu().contiguous() for name, x in weights.items()}, str(path))
        sync(path)
        files[role] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    about = {name: getattr(checkpoint, name) for name in ("stage", "steps", "seconds", "samples", "network")}
    write_json(temporary / MANIFEST, {"format": FORMAT, **about, "files": files})
    sync(temporary)
    if final.exists():
        shutil.rmtree(final)
    os.replace(temporary, final)
    sync(folder)
    return final


def discard_unfinished(folder: Path, stage: str) -> None:
    """Remove what killed writers of the stage, of whatever process number, have left: each is a whole set of weights."""
    for leftover in folder.glob(f".{glob.escape(stage)}.[0-9]*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def is_finished(folder: Path, stage: str) -> bool:
    """Whether the stage has a committed checkpoint."""
    return (folder / stage / MANIFEST).is_file()


def stage_record(folder: Path, stage: str) -> dict[str, Any]:
    """What a finished stage was: name, steps, seconds, samples.

    Raises:
        ValueError: missing or damaged.
    """
    manifest = _manifest(folder / stage, stage)
    return {"name": manifest["stage"], "steps": manifest["steps"]} | {k: manifest.get(k, 0) for k in ("seconds", "samples")}


def load_stage(folder: Path, stage: str, network: dict[str, Any], roles: tuple[str, ...]) -> StageCheckpoint:
    """Load the weights of the named roles, verified.

    Raises:
        ValueError: missing, damaged, or of another architecture than `network` (the first field that differs is named).
    """
    path = folder / stage
    manifest = _manifest(path, stage)
    _same_network(path, manifest["network"], network)
    weights = {}
    for role in roles:
        file = _verified(path, manifest, role)
        try:
            weights[role] = load_file(str(file))
        except SafetensorError as error:
            raise ValueError(f"checkpoint {file}: not a safetensors file ({error}); train the stage again") from error
    about = {name: manifest[name] for name in ("stage", "steps", "network")}
    return StageCheckpoint(**about, weights=weights, seconds=manifest.get("seconds", 0.0), samples=manifest.get("samples", 0))


def stage_file(path: Path, role: str) -> tuple[dict[str, Any], Path]:
    """The manifest of a finished stage in the folder `path`, of whatever network, and its verified file of the named role.

    Raises:
        ValueError: missing or damaged.
    """
    manifest = _manifest(path, path.name)
    return manifest, _verified(path, manifest, role)


def _verified(path: Path, manifest: dict[str, Any], role: str) -> Path:
    files = manifest["files"]
    entry, file = files.get(role) if isinstance(files, dict) else None, path / f"{role}.safetensors"
    if not isinstance(entry, dict) or not entry.keys() >= {"bytes", "sha256"} or not file.is_file():
        raise ValueError(f"checkpoint {path}: has no {role!r} weights; it has {sorted(files) if isinstance(files, dict) else 'none'}")
    if file.stat().st_size != entry["bytes"] or sha256_file(file) != entry["sha256"]:
        raise ValueError(f"checkpoint {file}: damaged (its hash differs from the manifest); remove {path} and train the stage again")
    return file


def _manifest(path: Path, stage: str) -> dict[str, Any]:
    manifest = read_json(path / MANIFEST, f"checkpoint of stage {stage!r} (train it first)")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not manifest.keys() >= FIELDS:
        raise ValueError(f"checkpoint {path}: its {MANIFEST} is not of format {FORMAT}; remove {path} and train the stage again")
    return manifest


def _same_network(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"checkpoint {path}: made with {key}={found.get(key)!r}, this run has {key}={wanted.get(key)!r}; "
                "use the recipe it was made with, or another run folder"
            )
