"""A process dies at every write of a checkpoint, before it, half-way and after it: what is there afterwards is the old state or the new
one, whole, and the next attempt clears up.

The dying process is a fork of this one, and it dies as after `kill -9`: nothing of Python runs any more.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
import torch
from checkpoint_material import save_checkpoint, state_of
from torch import Tensor

from mutual_forcing.datasets.ledger import Update, head_of, read_chain
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.workers import checkpoint_writer
from mutual_forcing.workers.checkpoint import found_in, is_finished, newest
from mutual_forcing.workers.checkpoint_writer import CheckpointWriter, Share
from mutual_forcing.workers.pieces import shapes_of, whole_pieces
from mutual_forcing.workers.resume import resume_from
from mutual_forcing.workers.retention import CheckpointConfig, take_turn

NETWORK = {"model.depth": 2}
WORLD, STEPS = 2, 9
When = Literal["before", "half-way", "after"]

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")


class DyingStore(LocalStore):
    """A disk whose process dies at its n-th change."""

    def __init__(self, folder: Path, at: int, when: When) -> None:
        super().__init__(folder)
        self._left, self._when = at, when

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        dies = self._dies()
        if dies and self._when == "before":
            os._exit(9)
        with super().writing(name) as path:
            yield path
            if dies and self._when == "half-way":
                os.truncate(path, path.stat().st_size // 2)
                os._exit(9)
        if dies:
            os._exit(9)

    def remove(self, name: str) -> None:
        dies = self._dies()
        if dies and self._when == "before":
            os._exit(9)
        super().remove(name)
        if dies:
            os._exit(9)

    def _dies(self) -> bool:
        self._left -= 1
        return self._left == 0


def weights(step: int) -> dict[str, dict[str, Tensor]]:
    g = torch.Generator().manual_seed(step)
    return {role: {"a": torch.randn(4, 3, generator=g), "b": torch.randn(5, generator=g)} for role in ("live", "ema")}


def updates(first: int, end: int, rank: int) -> list[Update]:
    return [Update(step, (f"{step}-{rank}-0", f"{step}-{rank}-1"), True) for step in range(first, end)]


def save(store: LocalStore, step: int, first: int, attempt: str) -> None:
    """A checkpoint of two ranks, one after the other, so that the order of the writes is always the same."""
    before = newest(store, "joint")
    ledger = None if before is None else head_of(before.manifest["ledger"])
    take_turn(store, ["joint"], attempt)
    writers = []
    for rank in reversed(range(WORLD)):
        writer = CheckpointWriter(store, CheckpointConfig(keep_last=1), rank, WORLD, attempt, first, ledger, print)
        writers.append(writer)
        pieces = {role: whole_pieces(w.items(), rank, WORLD) for role, w in weights(step).items()}
        shapes = {role: shapes_of(w.items()) for role, w in weights(step).items()}
        writer.save(state_of("joint", step, STEPS, NETWORK, ("live", "ema")), Share(pieces, shapes, updates(first, step, rank)))
        assert writer._thread is not None
        writer._thread.join()
    for writer in reversed(writers):
        writer.finish()


def in_a_fork(work: Callable[[], None]) -> int:
    """Its exit status."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("when", ["before", "half-way", "after"])
def test_at_every_write_the_state_is_the_old_or_the_new_one(tmp_path: Path, when: When) -> None:
    at, codes, seen = 0, [], []
    while not codes or codes[-1] == 9:
        at += 1
        folder = tmp_path / str(at)
        save(LocalStore(folder), 3, 0, "00000001")
        codes.append(in_a_fork(lambda folder=folder, at=at: save(DyingStore(folder, at, when), 6, 3, "00000002")))
        store = LocalStore(folder)
        said: list[str] = []
        found = resume_from(store, "joint", lambda word: [word], 0, 1, said.append)
        assert found is not None
        assert said == [], "what was torn is not even taken for a checkpoint"
        assert found.step in (3, 6)
        seen.append(found.step)
        for role, whole in weights(found.step).items():
            assert all(torch.equal(found.weights(role)[name], x) for name, x in whole.items())
        chain = read_chain(store, head_of(found.manifest["ledger"]))
        assert [u.step for u in chain] == list(range(found.step))
        assert chain[-1].clips == tuple(f"{found.step - 1}-{rank}-{i}" for rank in range(WORLD) for i in range(2))
        # the next attempt goes on, and leaves nothing of the torn one
        save(store, STEPS, found.step, "00000003")
        assert [(f.step, f.attempt) for f in found_in(store)] == [(STEPS, "00000003")]
        chain = read_chain(store, head_of(newest(store, "joint").manifest["ledger"]))  # type: ignore[union-attr]
        assert [u.step for u in chain] == list(range(STEPS))
        if when != "half-way":
            assert not [p for p in folder.rglob("*") if p.is_file() and p.name.endswith(".tmp")]
    assert codes == [9] * (at - 1) + [0]
    assert at - 1 >= 1 + 2 * 3 + 3 + 7, "whose turn it is, files of two ranks, ledger, manifest, COMMIT, and the removal of the one before"
    assert seen == sorted(seen), "once committed, it stays"
    assert set(seen) == {3, 6}


def test_a_rank_that_never_writes_leaves_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mutual_forcing.workers.checkpoint_writer.PATIENCE", 0.3)
    store = LocalStore(tmp_path)
    writer = CheckpointWriter(store, CheckpointConfig(patience_s=0), 0, WORLD, "00000001", 0, None, print)
    pieces = {role: whole_pieces(w.items(), 0, WORLD) for role, w in weights(3).items()}
    shapes = {role: shapes_of(w.items()) for role, w in weights(3).items()}
    writer.save(state_of("joint", 3, STEPS, NETWORK, ("live", "ema")), Share(pieces, shapes, updates(0, 3, 0)))
    with pytest.raises(OSError, match=r"rank\.00001\.json did not appear in 0\.3 s; a rank cannot write, or checkpoint\.uri"):
        writer.finish()
    assert found_in(store) == [], "its own files do not fill the disk"


def test_a_full_disk_is_warned_of_and_the_next_checkpoint_accounts_for_all(tmp_path: Path) -> None:
    class Full(LocalStore):
        full = True

        @contextmanager
        def writing(self, name: str) -> Iterator[Path]:
            with super().writing(name) as path:
                yield path
                if self.full:
                    raise OSError(28, "No space left on device", str(path))

    store, said = Full(tmp_path), []
    writer = CheckpointWriter(store, CheckpointConfig(patience_s=0), 0, 1, "00000001", 0, None, said.append)
    shapes = {role: shapes_of(w.items()) for role, w in weights(3).items()}

    def saved(first: int, step: int) -> None:
        pieces = {role: whole_pieces(w.items(), 0, 1) for role, w in weights(step).items()}
        writer.save(state_of("joint", step, STEPS, NETWORK, ("live", "ema")), Share(pieces, shapes, updates(first, step, 0)))

    saved(0, 3)
    saved(3, 6)
    assert writer._thread is not None
    writer._thread.join()
    assert ["No space left on device" in line and "training goes on" in line for line in said] == [True]
    store.full = False
    saved(6, STEPS)
    writer.finish()
    assert len(said) == 2
    last = newest(store, "joint")
    assert last is not None
    assert [u.step for u in read_chain(store, head_of(last.manifest["ledger"]))] == list(range(STEPS))
    assert [f.path for f in found_in(store)] == [last.path], "what the full disk had room for is gone"


def test_the_last_checkpoint_of_a_stage_must_be_written(tmp_path: Path) -> None:
    class Broken(LocalStore):
        @contextmanager
        def writing(self, name: str) -> Iterator[Path]:
            raise OSError(5, "Input/output error", name)
            yield

    with pytest.raises(OSError, match="Input/output error"):
        save_checkpoint(Broken(tmp_path), "joint", 9, 9, NETWORK, weights(9))


@pytest.mark.parametrize("part", ["ema.00000", "live.00001", "rank.00001", "manifest", "/COMMIT"])
def test_the_last_checkpoint_is_tried_again_until_the_store_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Whichever rank could not write; and no rank leaves before the commit."""
    monkeypatch.setattr(checkpoint_writer, "PAUSE", 0.05)

    class Away(LocalStore):
        failures = 0

        @contextmanager
        def writing(self, name: str) -> Iterator[Path]:
            if part in name and self.failures < 2:
                self.failures += 1
                raise OSError(5, "Input/output error", name)
            with super().writing(name) as path:
                yield path

    said: list[str] = []
    stores = [Away(tmp_path) for _ in range(WORLD)]
    config = CheckpointConfig(patience_s=60)
    writers = [CheckpointWriter(stores[r], config, r, WORLD, "00000001", 0, None, said.append) for r in range(WORLD)]
    committed: list[bool] = []

    def ends(rank: int) -> None:
        writers[rank].finish()
        committed.append(is_finished(LocalStore(tmp_path), "joint"))

    for rank in range(WORLD):
        pieces = {role: whole_pieces(w.items(), rank, WORLD) for role, w in weights(STEPS).items()}
        shapes = {role: shapes_of(w.items()) for role, w in weights(STEPS).items()}
        writers[rank].save(state_of("joint", STEPS, STEPS, NETWORK, ("live", "ema")), Share(pieces, shapes, updates(0, STEPS, rank)))
    threads = [threading.Thread(target=ends, args=(rank,)) for rank in range(WORLD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert committed == [True] * WORLD
    assert sum(store.failures for store in stores) == 2
    assert said, "it is no secret"
    assert all("the last checkpoint could not be written" in line and "tried again" in line for line in said)
    last = newest(LocalStore(tmp_path), "joint")
    assert last is not None
    last.verify()
    assert [u.step for u in read_chain(LocalStore(tmp_path), head_of(last.manifest["ledger"]))] == list(range(STEPS))
    assert not [name for name in LocalStore(tmp_path).names() if name.endswith(".failed")]


def test_a_last_commit_whose_answer_was_lost_is_not_made_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_writer, "PAUSE", 0.05)
    store = Trouble(tmp_path, "write", "/COMMIT", after=True)
    writer = CheckpointWriter(store, CheckpointConfig(), 0, 1, "00000001", 0, None, print)
    pieces = {role: whole_pieces(w.items(), 0, 1) for role, w in weights(STEPS).items()}
    shapes = {role: shapes_of(w.items()) for role, w in weights(STEPS).items()}
    writer.save(state_of("joint", STEPS, STEPS, NETWORK, ("live", "ema")), Share(pieces, shapes, updates(0, STEPS, 0)))
    writer.finish()
    last = newest(store, "joint")
    assert last is not None
    assert [u.step for u in read_chain(store, head_of(last.manifest["ledger"]))] == list(range(STEPS))


class Trouble(LocalStore):
    """A disk on which some change fails once: `part` of the name, `after` it was made or instead."""

    def __init__(self, folder: Path, change: str, part: str, after: bool) -> None:
        super().__init__(folder)
        self._change, self._part, self._after, self.met = change, part, after, 0

    def _due(self, change: str, name: str) -> bool:
        due = not self.met and change == self._change and self._part in name
        self.met += due
        return due

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        due = self._due("write", name)
        if due and not self._after:
            raise OSError(5, "Input/output error", name)
        with super().writing(name) as path:
            yield path
        if due:
            raise OSError(5, "Input/output error", name)

    def remove(self, name: str) -> None:
        if self._due("remove", name):
            raise OSError(5, "Input/output error", name)
        super().remove(name)


@pytest.mark.parametrize(
    ("change", "part", "after"),
    [
        ("write", "00000006-00000001/COMMIT", True),  # it landed, and its answer was lost
        ("write", "00000006-00000001/COMMIT", False),
        ("write", "00000006-00000001/manifest", True),
        ("write", "ledger/00000006", True),
        ("remove", "00000003-00000001/COMMIT", False),
        ("remove", "00000003-00000001/ema", False),
        ("remove", "00000003-00000001/rank", False),
    ],
)
def test_what_goes_wrong_around_a_commit_costs_at_most_that_checkpoint(tmp_path: Path, change: str, part: str, after: bool) -> None:
    """Two ranks, three checkpoints, the trouble at the second: the state is never lost, and the account is whole in the end."""
    store, said = Trouble(tmp_path, change, part, after), []
    writers = [CheckpointWriter(store, CheckpointConfig(keep_last=1), r, WORLD, "00000001", 0, None, said.append) for r in range(WORLD)]
    for first, step in ((0, 3), (3, 6), (6, STEPS)):
        for rank in reversed(range(WORLD)):
            pieces = {role: whole_pieces(w.items(), rank, WORLD) for role, w in weights(step).items()}
            shapes = {role: shapes_of(w.items()) for role, w in weights(step).items()}
            writers[rank].save(state_of("joint", step, STEPS, NETWORK, ("live", "ema")), Share(pieces, shapes, updates(first, step, rank)))
            if (writing := writers[rank]._thread) is not None:
                writing.join()
        found = resume_from(LocalStore(tmp_path), "joint", lambda word: [word], 0, 1, said.append)
        assert found is not None
        assert found.step in (step, step - 3)
    for writer in writers:
        writer.finish()
    assert store.met == 1
    assert len(said) == 1, "told once"
    last = newest(LocalStore(tmp_path), "joint")
    assert last is not None
    assert last.step == STEPS
    assert [u.step for u in read_chain(LocalStore(tmp_path), head_of(last.manifest["ledger"]))] == list(range(STEPS))


def test_a_read_that_fails_between_two_checkpoints_takes_nothing_from_the_account(tmp_path: Path) -> None:
    """What the first one accounts for is looked up at the second, when the store is away, and again at the third."""

    class Away(LocalStore):
        away = False

        def fetch(self, name: str) -> Path:
            if self.away and "00000003-" in name:
                raise OSError(5, "Input/output error", name)
            return super().fetch(name)

    store, said = Away(tmp_path), list[str]()
    writer = CheckpointWriter(store, CheckpointConfig(), 0, 1, "00000001", 0, None, said.append)
    for first, step in ((0, 3), (3, 6), (6, STEPS)):
        store.away = step == 6
        pieces = {role: whole_pieces(w.items(), 0, 1) for role, w in weights(step).items()}
        shapes = {role: shapes_of(w.items()) for role, w in weights(step).items()}
        writer.save(state_of("joint", step, STEPS, NETWORK, ("live", "ema")), Share(pieces, shapes, updates(first, step, 0)))
        assert writer._thread is not None
        writer._thread.join()
    writer.finish()
    assert ["Input/output error" in line for line in said] == [True]
    last = newest(store, "joint")
    assert last is not None
    assert [u.step for u in read_chain(store, head_of(last.manifest["ledger"]))] == list(range(STEPS))


def test_a_rank_whose_disk_is_full_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    said: list[str] = []
    stores = [LocalStore(tmp_path), Trouble(tmp_path, "write", "live.00001", after=False)]
    writers = [
        CheckpointWriter(stores[r], CheckpointConfig(patience_s=0), r, WORLD, "00000001", 0, None, said.append) for r in range(WORLD)
    ]
    start = time.monotonic()
    for rank in range(WORLD):
        pieces = {role: whole_pieces(w.items(), rank, WORLD) for role, w in weights(3).items()}
        shapes = {role: shapes_of(w.items()) for role, w in weights(3).items()}
        writers[rank].save(state_of("joint", 3, STEPS, NETWORK, ("live", "ema")), Share(pieces, shapes, updates(0, 3, rank)))
    with pytest.raises(OSError, match=r"rank\.00001\.failed: OSError: .*Input/output error"):
        writers[0].finish()
    assert time.monotonic() - start < 30, "not for the patience of ten minutes"
