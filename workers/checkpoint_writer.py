"""Writes checkpoints while training goes on, as one transaction over all ranks.

    every rank, between two steps   copies its pieces                                         (the only time that training waits)
    every rank, in the background   role.RANK.safetensors ..., then rank.RANK.json with their hashes
    rank 0, in the background       waits for all ranks' records -> ledger segment -> manifest.json -> COMMIT -> removes old ones

Ranks meet in the store and nowhere else, so a background thread never takes part in a collective of the training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..datasets.ledger import Head, Update, head_of, write_segment
from ..datasets.places.storage import sha256_file
from ..datasets.places.store import Store, write_bytes
from ..datasets.redaction import without_secrets
from .checkpoint import COMMIT, FORMAT, MANIFEST, ROLLOUTS, Checkpoint, absent_from, folder_of, found_in
from .pieces import Piece, Shapes
from .retention import CheckpointConfig, Superseded, prune, require_turn

PATIENCE = 600.0  # seconds that rank 0 waits for the other ranks' files
LOOK = 0.1  # seconds between two looks, at first
PAUSE = 5.0  # seconds before the last checkpoint is tried again, at first
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """What all ranks know alike: the fields of the manifest besides files and shapes. about: the run: its configuration, code, tracking."""

    stage: str
    step: int
    steps: int
    batch: int
    network: dict[str, Any]
    updates: dict[str, int]
    seconds: float
    samples: int
    row: int
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def final(self) -> bool:
        return self.step == self.steps


@dataclass(frozen=True)
class Share:
    """This rank's part: its pieces and the shapes of all parameters, by role, what it trained on since the checkpoint before, and rollouts
    that wait for later steps, by the position of their first clip.
    """

    pieces: dict[str, list[Piece]]
    shapes: dict[str, Shapes]
    updates: list[Update] = field(default_factory=list)
    rollouts: Mapping[int, Mapping[str, np.ndarray]] = field(default_factory=dict)


class CheckpointWriter:
    """One a rank and stage. attempt: eight hex digits, the same on all ranks and new with every start of the training; first, ledger: the
    step that it starts from, and the account of the updates before it.
    """

    def __init__(
        self,
        store: Store,
        config: CheckpointConfig,
        rank: int,
        world: int,
        attempt: str,
        first: int,
        ledger: Head | None,
        warn: Callable[[str], None],
    ) -> None:
        self._store, self._config, self._rank, self._world, self._attempt = store, config, rank, world, attempt
        self._ledger, self._accounted, self._warn = ledger, first, warn
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._told: list[str] = []
        self._gave_up = False  # and told rank 0 so
        self._updates: list[Update] = []  # all that no checkpoint is known to account for
        self._last: tuple[State, Share] | None = None
        self._uncommitted: tuple[str, State, bytes] | None = None  # whole but for its COMMIT, which may have landed

    def save(self, state: State, share: Share) -> None:
        """Copy the share and write it in the background; waits for the checkpoint before, if it is still being written.

        What failed in the background is warned of, and training goes on: the next checkpoint is another chance.

        Raises:
            Superseded: another attempt has begun: what this one trains counts for nothing.
        """
        self._join()
        self._updates += share.updates
        self._last = state, replace(share, rollouts={})  # what is tried again is the last state, which has none
        self._start(state, share)

    def finish(self) -> None:
        """Wait for the last checkpoint of the stage; its weights, which no step changes meanwhile, are tried again for `patience_s`. A rank
        that has written its share waits for the commit here, and in no collective: that would not wait so long.

        Raises:
            OSError: it could not be written.
            Superseded: another attempt has begun.
        """
        if self._last is None:
            return
        state, share = self._last
        end, pause = time.monotonic() + self._config.patience_s, PAUSE
        self._wait()
        while self._error is not None and not isinstance(self._error, Superseded) and (left := end - time.monotonic()) > 0:
            self._warn(f"the last checkpoint could not be written ({one_line(self._error)}); it is tried again for {left:.0f} s")
            time.sleep(min(pause, left))
            self._error, pause = None, min(2 * pause, 60.0)
            if self._uncommitted is None:
                self._start(state, share)
            else:
                self._commit(*self._uncommitted)
            self._wait()
        if self._error is not None:
            raise self._error
        if self._rank:
            self._await_commit(folder_of(state.stage, state.step, self._attempt), end + PATIENCE)
        self._last = None

    def _start(self, state: State, share: Share) -> None:
        self._uncommitted = None
        tensors = {role: _copied(pieces, with_moments=not state.final) for role, pieces in share.pieces.items()}
        if share.rollouts:
            tensors[ROLLOUTS] = {f"{at}/{name}": torch.tensor(x) for at, of in share.rollouts.items() for name, x in of.items()}
        self._thread = threading.Thread(target=self._write, args=(state, share.shapes, tensors), daemon=True, name="checkpoint")
        self._thread.start()

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._store.close()  # the records of other ranks have been read
        while self._told:
            self._warn(self._told.pop(0))

    def _await_commit(self, folder: str, end: float) -> None:
        pause, why = LOOK, "rank 0 did not commit it in time"
        while time.monotonic() < end:
            try:
                if f"{folder}/{COMMIT}" in self._store.names(f"{folder}/"):
                    return
            except OSError as error:
                why = one_line(error)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        raise OSError(f"checkpoint {self._store.uri}/{folder}: not seen to be complete ({why})")

    def _join(self) -> None:
        self._wait()
        if isinstance(self._error, Superseded):
            raise self._error
        if self._error is not None:
            self._warn(
                f"a checkpoint could not be written ({one_line(self._error)}); training goes on, and the next one is tried as planned"
            )
            self._error = None

    def _write(self, state: State, shapes: dict[str, Shapes], tensors: dict[str, dict[str, Tensor]]) -> None:
        folder = folder_of(state.stage, state.step, self._attempt)
        try:
            self._account(state.stage)
            files = {}
            for role in list(tensors):
                name = f"{role}.{self._rank:05d}.safetensors"
                files[name] = self._put(f"{folder}/{name}", tensors.pop(role)) | {"role": role}
            updates = [[u.step, u.clips, int(u.applied), u.rollout, u.passes] for u in self._updates]
            if self._gave_up:
                self._store.remove(f"{folder}/{_failed(self._rank)}")
                self._gave_up = False
            write_bytes(self._store, f"{folder}/{_record(self._rank)}", json.dumps({"files": files, "updates": updates}).encode())
            manifest = self._manifest(folder, state, shapes) if self._rank == 0 else None
        except Exception as error:  # noqa: BLE001  told at the next checkpoint, or raised by `finish`
            self._error = error
            self._give_up(folder, error)
            return
        if manifest is not None:
            self._commit(folder, state, manifest)

    def _account(self, stage: str) -> None:
        """Forget the updates that a commit of this attempt accounts for: also one whose answer was lost on the way."""
        own = [f for f in found_in(self._store, stage) if f.complete and f.attempt == self._attempt]
        if own and own[-1].step > self._accounted:
            self._ledger = head_of(Checkpoint(self._store, own[-1].path).manifest["ledger"])
            self._accounted = own[-1].step  # last: where the reading fails, nothing is accounted for yet
        self._updates = [u for u in self._updates if u.step >= self._accounted]

    def _give_up(self, folder: str, error: Exception) -> None:
        """Give back the room that this rank's files took of a checkpoint that was not committed, and say so: rank 0 need not wait."""
        with suppress(OSError):
            for name in self._store.names(f"{folder}/"):
                if f".{self._rank:05d}." in name:
                    self._store.remove(name)
        with suppress(OSError):
            if self._rank:
                self._gave_up = True
                write_bytes(self._store, f"{folder}/{_failed(self._rank)}", one_line(error).encode())

    def _put(self, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
        with self._store.writing(name) as path:
            save_file(tensors, str(path))
            about = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        return about | {"tensors": {key: x.numel() for key, x in tensors.items()}}

    def _manifest(self, folder: str, state: State, shapes: dict[str, Shapes]) -> bytes:
        """Write the ledger's segment and the manifest of what all ranks have written; returns the manifest."""
        records = self._records(folder)
        files = {name: about for record in records for name, about in record["files"].items()}
        updates = _merged([record["updates"] for record in records], self._accounted, state.step)
        name = f"{state.stage}/ledger/{folder.rpartition('/')[2]}.jsonl"
        ledger = write_segment(self._store, name, self._ledger, updates)
        about = {name: getattr(state, name) for name in State.__dataclass_fields__}
        roles = {role: {name: list(shape) for name, shape in of.items()} for role, of in shapes.items()}
        whole = {"format": FORMAT, "time": time.time(), **about, "roles": roles, "files": files, "ledger": asdict(ledger)}
        content = json.dumps(whole).encode()
        write_bytes(self._store, f"{folder}/{MANIFEST}", content)
        if absent := absent_from(self._store, folder, files):
            raise OSError(f"checkpoint {self._store.uri}/{folder}: {absent[0]} was removed, or is not what its rank has written")
        return content

    def _commit(self, folder: str, state: State, manifest: bytes) -> None:
        """Make it count, then remove what is not kept. From here on nothing of it is ever taken back: the commit may stand even where its
        answer was lost.
        """
        self._uncommitted = folder, state, manifest
        try:
            require_turn(self._store, state.stage, self._attempt)
            write_bytes(self._store, f"{folder}/{COMMIT}", json.dumps({"manifest": hashlib.sha256(manifest).hexdigest()}).encode())
        except Exception as error:  # noqa: BLE001  told at the next checkpoint, or raised by `finish`
            self._error = error
            return
        log.info("checkpoint %s is complete", folder)
        try:
            prune(self._store, self._config, state.stage, state.steps, self._attempt, state.step)
        except Exception as error:  # noqa: BLE001  old ones are in the way of nothing but the disk
            self._told.append(f"old checkpoints could not be removed ({one_line(error)}); the next checkpoint tries again")

    def _records(self, folder: str) -> list[dict[str, Any]]:
        """The records of all ranks, as soon as all are there."""
        wanted = {_record(rank) for rank in range(self._world)}
        end, pause = time.monotonic() + PATIENCE, LOOK
        while missing := wanted - (there := {name.rpartition("/")[2] for name in self._store.names(f"{folder}/")}):
            if gave_up := sorted(there & {_failed(rank) for rank in range(self._world)}):
                raise OSError(f"{gave_up[0]}: {self._store.fetch(f'{folder}/{gave_up[0]}').read_text()[:500]}")
            if time.monotonic() > end:
                raise OSError(
                    f"checkpoint {self._store.uri}/{folder}: {sorted(missing)[0]} did not appear in {PATIENCE:g} s; a rank cannot write, "
                    "or checkpoint.uri is not a folder that all nodes share"
                )
            time.sleep(pause)
            pause = min(2 * pause, 5.0)
        return [json.loads(self._store.fetch(f"{folder}/{name}").read_bytes()) for name in sorted(wanted)]


def _copied(pieces: Sequence[Piece], with_moments: bool) -> dict[str, Tensor]:
    return {
        key: x.detach().to("cpu", torch.float32, copy=True).contiguous()
        for piece in pieces
        for key, x in piece.tensors()
        if with_moments or key.endswith("/weight")
    }


def _merged(ranks: Sequence[Sequence[tuple[int, list[str], int, list[int] | None, list[int]]]], first: int, end: int) -> list[Update]:
    """Updates `first` to `end` of all ranks: a step's clips in the order of the ranks, which is that of their positions."""
    parts: dict[int, list[Update]] = {step: [] for step in range(first, end)}
    for updates in ranks:
        for step, clips, applied, rollout, passes in updates:
            if step in parts:
                versions = None if rollout is None else (rollout[0], rollout[1])
                parts[step].append(Update(step, tuple(clips), bool(applied), versions, tuple(passes)))
    assert all(len(of) == len(ranks) for of in parts.values()), "every rank tells of every update since the last commit"
    return [_whole(step, of) for step, of in parts.items()]


def _whole(step: int, of: Sequence[Update]) -> Update:
    """One update of the parts that the ranks tell of."""
    versions = [u.rollout for u in of if u.rollout is not None]
    rollout = (min(low for low, _ in versions), max(high for _, high in versions)) if versions else None
    clips, passes = tuple(clip for u in of for clip in u.clips), tuple(n for u in of for n in u.passes)
    return Update(step, clips, all(u.applied for u in of), rollout, passes)


def _failed(rank: int) -> str:
    return f"rank.{rank:05d}.failed"


def _record(rank: int) -> str:
    return f"rank.{rank:05d}.json"


def one_line(error: BaseException) -> str:
    """What failed, and how, without secrets: it goes into files of the run."""
    return " ".join(without_secrets(f"{type(error).__name__}: {error}").split())
