"""What a checkpoint is: a folder that counts from the moment its last file is there, or not at all.

    STAGE/00000120-1f0c9a3e/            stage, step, and the attempt that wrote it: two attempts never write the same file
        live.00000.safetensors ...      pieces of a network and of its optimizer's state, a file a role and rank
        rollouts.00000.safetensors ...  finished rollouts that wait for later steps, in a mutual stage
        rank.00000.json ...             sizes and hashes of a rank's files, written after them
        manifest.json                   what the whole is: written when all ranks' records are there
        COMMIT                          the hash of the manifest, written last
    STAGE/attempt                       the attempt that began last: no other one commits (retention)
    STAGE/ledger/00000120-1f0c9a3e.jsonl    which clips the updates since the checkpoint before were made of (datasets.ledger)

A reader trusts COMMIT, then the manifest of that hash, then files of those hashes. Nothing is a pickle. Pieces can be read by any number of
processes, at any ZeRO stage. A stage is finished when there is a checkpoint of its last step; that one has no optimizer state.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..datasets.ledger import head_of, read_chain
from ..datasets.places.storage import sha256_file
from ..datasets.places.store import Store
from .pieces import Source

FORMAT = 2
MANIFEST, COMMIT = "manifest.json", "COMMIT"
ROLLOUTS = "rollouts"  # the role of files with rollouts that wait, which are no network
NAME = re.compile(r"(?P<stage>[a-z0-9-]+)/(?P<step>\d{8,})-(?P<attempt>[0-9a-f]{8})/(?P<file>[^/]+)")
FIELDS = {"stage", "step", "steps", "network", "roles", "files", "updates", "seconds", "samples", "row", "ledger"}
LIMIT = 64 * 2**20  # bytes of a manifest that is read at all

Weights = dict[str, Tensor]


def folder_of(stage: str, step: int, attempt: str) -> str:
    return f"{stage}/{step:08d}-{attempt}"


@dataclass(frozen=True)
class Found:
    """A checkpoint in a store, as its name tells it; complete: it was committed, and may be damaged since. files: names and sizes."""

    path: str
    stage: str
    step: int
    attempt: str
    complete: bool
    files: dict[str, int]


def found_in(store: Store, stage: str = "") -> list[Found]:
    """All checkpoints of a stage, or of all stages, complete or not: later steps last, and of one step the complete ones last."""
    files: dict[tuple[str, int, str], dict[str, int]] = {}
    for name, size in store.names(f"{stage}/" if stage else "").items():
        if match := NAME.fullmatch(name):
            files.setdefault((match["stage"], int(match["step"]), match["attempt"]), {})[match["file"]] = size
    found = [Found(folder_of(*key), *key, COMMIT in names, names) for key, names in files.items()]
    return sorted(found, key=lambda f: (f.stage, f.step, f.complete, f.attempt))


class Missing(ValueError):
    """A file that a complete checkpoint must have is not there, seen from this process. name: its path in the store."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


class OtherFormat(ValueError):
    """A checkpoint that another release wrote, whole as far as this one can tell: no damage, and nothing to remove."""


class Checkpoint:
    """A complete checkpoint, its manifest read and verified.

    Raises:
        ValueError: COMMIT or the manifest is missing, damaged, or of another format (OtherFormat).
    """

    def __init__(self, store: Store, path: str) -> None:
        self._store, self.path = store, path
        self.uri = f"{store.uri}/{path}"
        commit = _json(self._read(COMMIT), f"{self.uri}/{COMMIT}")
        content = self._read(MANIFEST)
        if not isinstance(commit, dict) or commit.get("manifest") != hashlib.sha256(content).hexdigest():
            raise self._damaged(MANIFEST, f"its hash is not the one in {COMMIT}")
        self.manifest = _json(content, f"{self.uri}/{MANIFEST}")
        form = self.manifest.get("format") if isinstance(self.manifest, dict) else None
        if isinstance(form, int) and form != FORMAT:
            raise OtherFormat(
                f"checkpoint {self.uri}: is of format {form}, and this release reads format {FORMAT}; go on with the release "
                "that wrote it, or start another run"
            )
        match = NAME.fullmatch(f"{path}/{MANIFEST}")
        if not _sound(self.manifest) or match is None or (match["stage"], int(match["step"])) != (self.stage, self.step):
            raise ValueError(
                f"checkpoint {self.uri}: its {MANIFEST} is not of format {FORMAT}; remove {self.uri} and train the stage again"
            )

    @property
    def stage(self) -> str:
        return self.manifest["stage"]

    @property
    def step(self) -> int:
        """Updates of the stage that it has seen."""
        return self.manifest["step"]

    @property
    def finished(self) -> bool:
        return self.step == self.manifest["steps"]

    def verify(self, rank: int = 0, world: int = 1) -> None:
        """Compare sizes and hashes of this rank's share of all files; all ranks together verify all of them.

        Raises:
            ValueError: a file is missing or damaged.
        """
        if rank == 0 and (absent := absent_from(self._store, self.path, self.manifest["files"])):
            raise self._damaged(absent[0], "it is missing or cut short")
        for i, name in enumerate(sorted(self.manifest["files"])):
            if i % world == rank:
                self._opened(name)
        for role in sorted(self.manifest["roles"]):
            self._checked(role, ())
        if rank == 0:
            read_chain(self._store, head_of(self.manifest["ledger"]))

    def source(self, role: str) -> Source:
        """The pieces of one network, their files verified.

        Raises:
            ValueError: it has no such network, or a file is missing or damaged.
        """
        return self._checked(role, [(name, self._verified(name)) for name in self._files(role)])

    def weights(self, role: str) -> Weights:
        """Weights of one network, whole. Raises as `source`."""
        return self.source(role).weights()

    def rollouts(self) -> dict[int, dict[str, np.ndarray]]:
        """Rollouts that waited for later steps, by the position of their first clip, their files verified.

        Raises:
            ValueError: a file is missing or damaged.
        """
        found: dict[int, dict[str, np.ndarray]] = {}
        for name, about in self.manifest["files"].items():
            if about["role"] == ROLLOUTS:
                with safe_open(str(self._verified(name)), "np") as file:
                    for key in about["tensors"]:
                        at, _, array = key.partition("/")
                        found.setdefault(int(at), {})[array] = file.get_tensor(key)
        return found

    def require(self, network: dict[str, Any]) -> None:
        """Raises ValueError unless it is of this architecture, with the first field that differs."""
        theirs = self.manifest["network"]
        for key in sorted(theirs.keys() | network.keys()):
            if theirs.get(key) != network.get(key):
                raise ValueError(
                    f"checkpoint {self.uri}: made with {key}={theirs.get(key)!r}, this run has {key}={network.get(key)!r}; "
                    "use the recipe it was made with, or another run folder"
                )

    def _files(self, role: str) -> list[str]:
        if role not in self.manifest["roles"]:
            raise ValueError(f"checkpoint {self.uri}: has no {role!r} weights; it has {sorted(self.manifest['roles'])}")
        return [name for name, about in self.manifest["files"].items() if about["role"] == role]

    def _checked(self, role: str, paths: Iterable[tuple[str, Path]]) -> Source:
        shapes = {name: tuple(shape) for name, shape in self.manifest["roles"][role].items()}
        lengths = {key: n for name in self._files(role) for key, n in self.manifest["files"][name]["tensors"].items()}
        of = {key: path for name, path in paths for key in self.manifest["files"][name]["tensors"]}

        def read(key: str) -> Tensor:
            try:
                with safe_open(str(of[key]), "pt") as file:
                    return file.get_tensor(key)
            except SafetensorError as error:
                raise self._damaged(of[key].name, str(error)) from error

        source = Source(shapes, lengths, read)
        try:
            source.check()
        except ValueError as error:
            raise ValueError(f"checkpoint {self.uri}: {role}: {error}; remove {self.uri} and train the stage again") from error
        return source

    def _opened(self, name: str) -> None:
        """Verify a file, and that it holds what the manifest says."""
        path = self._verified(name)
        try:
            with safe_open(str(path), "pt") as file:
                held = {key: prod(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  it is no mapping
        except SafetensorError as error:
            raise self._damaged(name, str(error)) from error
        if held != self.manifest["files"][name]["tensors"]:
            raise self._damaged(name, "its tensors are not those of the manifest")

    def _verified(self, name: str) -> Path:
        about = self.manifest["files"][name]
        try:
            path = self._store.fetch(f"{self.path}/{name}")
        except FileNotFoundError as error:
            raise self._missing(name) from error
        if path.stat().st_size != about["bytes"] or sha256_file(path) != about["sha256"]:
            raise self._damaged(name, "its hash differs from the manifest")
        return path

    def _read(self, name: str) -> bytes:
        try:
            path = self._store.fetch(f"{self.path}/{name}")
        except FileNotFoundError as error:
            raise self._missing(name) from error
        if path.stat().st_size > LIMIT:
            raise self._damaged(name, f"it has more than {LIMIT} bytes")
        return path.read_bytes()

    def _damaged(self, name: str, why: str) -> ValueError:
        return ValueError(self._damage(name, why))

    def _missing(self, name: str) -> Missing:
        return Missing(self._damage(name, "it is missing"), f"{self.path}/{name}")

    def _damage(self, name: str, why: str) -> str:
        return f"checkpoint {self.uri}/{name}: damaged ({why}); remove {self.uri} and train on from the one before"


def absent_from(store: Store, path: str, files: dict[str, dict[str, Any]]) -> list[str]:
    """Files of a manifest that are not there, or not in their size, as the store lists them now."""
    there = store.names(f"{path}/")
    return sorted(name for name, about in files.items() if there.get(f"{path}/{name}") != about["bytes"])


def newest(store: Store, stage: str) -> Checkpoint | None:
    """The last complete checkpoint of a stage, whatever its files hold now.

    Raises:
        ValueError: its manifest is damaged.
    """
    complete = [f for f in found_in(store, stage) if f.complete]
    return Checkpoint(store, complete[-1].path) if complete else None


def finished(store: Store, stage: str) -> Checkpoint | None:
    """The checkpoint that a finished stage left."""
    last = newest(store, stage)
    return last if last is not None and last.finished else None


def is_finished(store: Store, stage: str) -> bool:
    """Whether a stage has a checkpoint of its last step; one whose manifest is damaged does not count.

    Raises:
        OtherFormat: that of another release does: it may be the end of the stage.
    """
    try:
        return finished(store, stage) is not None
    except OtherFormat:
        raise
    except ValueError:
        return False


def stage_record(store: Store, stage: str) -> dict[str, Any]:
    """What a finished stage was: name, steps, seconds, samples."""
    last = finished(store, stage)
    assert last is not None, f"stage {stage!r} is finished"
    return {"name": stage} | {name: last.manifest[name] for name in ("steps", "seconds", "samples")}


def stage_weights(store: Store, stage: str, network: dict[str, Any], role: str) -> Weights:
    """Weights of a finished stage.

    Raises:
        ValueError: the stage is not finished, or its checkpoint is damaged or of another architecture.
    """
    last = finished(store, stage)
    if last is None:
        raise ValueError(f"checkpoint of stage {stage!r}: there is none of its last step in {store.uri}; train it first")
    last.require(network)
    return last.weights(role)


def _sound(manifest: Any) -> bool:
    """Whether a manifest has the fields that are read, in the form that they are read in."""
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not manifest.keys() >= FIELDS:
        return False
    files, roles = manifest["files"], manifest["roles"]
    return (
        isinstance(manifest["stage"], str)
        and isinstance(manifest["network"], dict)
        and isinstance(manifest["updates"], dict)
        and all(_count(manifest[name]) for name in ("step", "steps", "samples", "row"))
        and isinstance(files, dict)
        and isinstance(roles, dict)
        and all(isinstance(about, dict) and about.keys() >= {"role", "bytes", "sha256", "tensors"} for about in files.values())
        and all(isinstance(about["tensors"], dict) and all(map(_count, about["tensors"].values())) for about in files.values())
        and all(isinstance(shapes, dict) and all(_shape(shape) for shape in shapes.values()) for shapes in roles.values())
        and not any("/" in name for name in files)
    )


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _shape(value: Any) -> bool:
    return isinstance(value, list) and all(map(_count, value))


def _json(content: bytes, what: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"checkpoint {what}: damaged (not JSON: {error}); remove its folder and train on from the one before") from error
