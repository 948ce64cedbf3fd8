"""A checkpoint: it comes back whole, or it is refused with its cause named, and the one before is taken."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from checkpoint_material import ATTEMPT, save_checkpoint, save_stage

from mutual_forcing.datasets.ledger import Update
from mutual_forcing.datasets.places.store import LocalStore, write_bytes
from mutual_forcing.workers.checkpoint import (
    COMMIT,
    FORMAT,
    MANIFEST,
    Checkpoint,
    Found,
    Weights,
    finished,
    found_in,
    is_finished,
    newest,
    stage_record,
    stage_weights,
)
from mutual_forcing.workers.resume import resume_from
from mutual_forcing.workers.retention import CheckpointConfig, Superseded, prune, take_turn

NETWORK = {"model.depth": 2, "model.text": {"max_words": 4}, "timeline.fps": 24}
ROLES = ("live", "ema")


def weights(seed: int = 0) -> dict[str, Weights]:
    g = torch.Generator().manual_seed(seed)
    return {role: {"a.weight": torch.randn(4, 3, generator=g), "b": torch.randn(5, generator=g)} for role in ROLES}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """A stage `joint` of nine steps: checkpoints after six steps and at its end; the one after three is gone by then."""
    for step in (3, 6, 9):
        save_checkpoint(tmp_path, "joint", step, 9, NETWORK, weights(step))
    return LocalStore(tmp_path)


def files_of(store: LocalStore, step: int) -> dict[str, Path]:
    folder = Path(store.uri, f"joint/{step:08d}-{ATTEMPT}")
    return {path.name: path for path in folder.iterdir()}


def resumed(store: LocalStore) -> tuple[int | None, list[str]]:
    """The step that one process goes on from, and what it warns of."""
    said: list[str] = []
    found = resume_from(store, "joint", lambda word: [word], 0, 1, said.append)
    return (None if found is None else found.step), said


# --- whole ------------------------------------------------------------------------------------------------------------------


def test_everything_comes_back(store: LocalStore) -> None:
    last = finished(store, "joint")
    assert last is not None
    assert (last.stage, last.step, last.finished) == ("joint", 9, True)
    for role in ROLES:
        loaded, sent = last.weights(role), weights(9)[role]
        assert loaded.keys() == sent.keys()
        assert all(torch.equal(loaded[name], x) for name, x in sent.items())
        assert all(torch.equal(last.source(role).read(name), x) for name, x in sent.items())
    assert stage_record(store, "joint") == {"name": "joint", "steps": 9, "seconds": 1.25, "samples": 36}
    assert all(torch.equal(x, weights(9)["ema"][name]) for name, x in stage_weights(store, "joint", NETWORK, "ema").items())


def test_what_is_there_is_listed_and_what_is_not_committed_is_told_apart(store: LocalStore) -> None:
    files_of(store, 6)[COMMIT].unlink()
    assert [(f.stage, f.step, f.complete) for f in found_in(store)] == [("joint", 6, False), ("joint", 9, True)]
    assert found_in(store, "mutual") == []
    last = newest(store, "joint")
    assert last is not None
    assert last.path == f"joint/00000009-{ATTEMPT}"


def test_a_stage_that_was_never_trained_or_not_to_its_end_is_named(store: LocalStore) -> None:
    assert not is_finished(store, "mutual")
    with pytest.raises(ValueError, match=r"stage 'mutual': there is none of its last step in .*; train it first"):
        stage_weights(store, "mutual", NETWORK, "ema")
    save_checkpoint(Path(store.uri), "mutual", 3, 9, NETWORK, weights())
    assert not is_finished(store, "mutual")
    with pytest.raises(ValueError, match="stage 'mutual'"):
        stage_weights(store, "mutual", NETWORK, "ema")


def test_a_role_that_was_never_saved_is_named(store: LocalStore) -> None:
    with pytest.raises(ValueError, match=r"no 'fake' weights; it has \['ema', 'live'\]"):
        stage_weights(store, "joint", NETWORK, "fake")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model.depth": 3}, r"model\.depth=2, this run has model\.depth=3"),
        ({"model.text": {"max_words": 5}}, r"model\.text=\{'max_words': 4\}"),
        ({"model.window": 8}, r"model\.window=None, this run has model\.window=8"),
    ],
)
def test_another_architecture_is_refused_by_its_first_field(store: LocalStore, change: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        stage_weights(store, "joint", NETWORK | change, "ema")


# --- damaged ----------------------------------------------------------------------------------------------------------------

NAMES = ["live.00000.safetensors", "ema.00000.safetensors", MANIFEST, COMMIT]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["deleted", "cut", "emptied", "first bit", "middle bit", "last bit"])
def test_whatever_is_damaged_the_one_before_is_taken_and_said(store: LocalStore, name: str, damage: str) -> None:
    file = files_of(store, 9)[name]
    content = bytearray(file.read_bytes())
    if damage == "deleted":
        file.unlink()
    elif damage in ("cut", "emptied"):
        file.write_bytes(content[: -1 if damage == "cut" else 0])
    else:
        content[{"first bit": 0, "middle bit": len(content) // 2, "last bit": -1}[damage]] ^= 1
        file.write_bytes(content)
    step, said = resumed(store)
    assert step == 6
    if (name, damage) == (COMMIT, "deleted"):  # it was never one
        assert said == []
    else:
        (line,) = said
        assert name in line or (name == MANIFEST and COMMIT in line)
        assert "it no longer counts, and training goes on from the checkpoint before it" in line
        assert resumed(store) == (6, []), "and it does not"
        assert "\n" not in line


def by_ranks(*stores: LocalStore) -> list[int | Exception | None]:
    """What each of several ranks goes on from, or stops with."""
    barrier, words, ended = threading.Barrier(len(stores), timeout=30), [""] * len(stores), dict[int, int | Exception | None]()

    def run(rank: int) -> None:
        def agree(word: str) -> list[str]:
            words[rank] = word
            barrier.wait()
            heard = list(words)
            barrier.wait()
            return heard

        try:
            found = resume_from(stores[rank], "joint", agree, rank, len(stores), lambda _: None)
            ended[rank] = None if found is None else found.step
        except (OSError, ValueError) as error:
            ended[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [ended[rank] for rank in range(len(stores))]


def test_one_rank_that_finds_damage_is_enough(store: LocalStore) -> None:
    """The other ranks verify other files, and go on from the same checkpoint as it does."""
    file = files_of(store, 9)["live.00000.safetensors"]  # the second file: rank 1 verifies it
    file.write_bytes(file.read_bytes()[:-1])
    assert by_ranks(store, store) == [6, 6]
    assert [f.step for f in found_in(store, "joint") if f.complete] == [6]


@pytest.mark.parametrize(("late", "name"), [(0, None), (0, COMMIT), (1, None), (1, COMMIT), (1, MANIFEST), (1, "live.00000.safetensors")])
def test_a_folder_that_a_rank_does_not_see_costs_no_checkpoint(store: LocalStore, tmp_path: Path, late: int, name: str | None) -> None:
    """A machine whose mount comes late sees nothing, or some of it."""
    other = tmp_path / "not-shared"
    if name is not None:
        shutil.copytree(Path(store.uri, "joint"), other / "joint")
        for path in other.glob(f"joint/*/{name}"):
            path.unlink()
    before = store.names("joint/")
    ended = by_ranks(*((LocalStore(other), store) if late == 0 else (store, LocalStore(other))))
    for one in ended:
        assert isinstance(one, OSError)
        assert "not shared by" in str(one)
        assert "mount it there" in str(one)
    assert store.names("joint/") == before
    assert by_ranks(store, store) == [9, 9]


def test_where_all_are_damaged_nothing_begins_again_by_itself(store: LocalStore) -> None:
    for step in (6, 9):
        files_of(store, step)["ema.00000.safetensors"].unlink()
    before = store.names()
    for _ in range(2):  # a start after the other says the same
        with pytest.raises(ValueError, match=r"all 2 are damaged.*00000009.*00000006.*put back.*or remove .*/joint to train the stage"):
            resumed(store)
    assert store.names() == before
    shutil.rmtree(Path(store.uri, "joint"))
    assert resumed(store) == (None, []), "on purpose"


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_all_ranks_together_verify_every_file(store: LocalStore, world: int) -> None:
    last = newest(store, "joint")
    assert last is not None
    for name in NAMES[:2]:
        file = files_of(store, 9)[name]
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        found = 0
        for rank in range(world):
            try:
                last.verify(rank, world)
            except ValueError:
                found += 1
        assert found == 1
        file.write_bytes(content)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 99}', '{"format": 2}', '{"format": 2, "network": {}}'])
def test_a_manifest_that_was_never_whole_is_refused(store: LocalStore, damage: str) -> None:
    files_of(store, 9)[MANIFEST].write_text(damage)
    with pytest.raises(ValueError, match=r"joint.*damaged"):
        stage_weights(store, "joint", NETWORK, "ema")


def test_damage_to_weights_that_are_read_alone_is_found(store: LocalStore) -> None:
    file = files_of(store, 9)["ema.00000.safetensors"]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    stage_weights(store, "joint", NETWORK, "live")
    with pytest.raises(ValueError, match=r"ema\.00000\.safetensors: damaged \(its hash differs.*remove .* and train on from"):
        stage_weights(store, "joint", NETWORK, "ema")


# --- what stays -------------------------------------------------------------------------------------------------------------


def test_the_newest_every_nth_and_the_last_of_a_stage_stay() -> None:
    found = [Found("", "joint", step, "a", True, {}) for step in range(10, 101, 10)]
    found = [Found(f"joint/{f.step}", f.stage, f.step, f.attempt, True, {}) for f in found]

    def kept(config: CheckpointConfig, finished: int = 100) -> list[int]:
        return sorted(int(path.rpartition("/")[2]) for path in config.keeps(found, finished))

    assert kept(CheckpointConfig(keep_last=2)) == [90, 100]
    assert kept(CheckpointConfig(keep_last=1, keep_every=40)) == [40, 80, 100]
    assert kept(CheckpointConfig(keep_last=1), finished=30) == [30, 100]


def test_pruning_removes_old_ones_and_what_others_left_half_done(store: LocalStore) -> None:
    folder = Path(store.uri, "joint")
    shutil.copytree(folder / f"00000006-{ATTEMPT}", folder / "00000006-99999999")
    (folder / "00000006-99999999" / COMMIT).unlink()
    shutil.copytree(folder / f"00000006-{ATTEMPT}", folder / "00000007-aaaaaaaa")
    (folder / "00000007-aaaaaaaa" / COMMIT).unlink()
    before = store.names()
    take_turn(store, ["joint"], "bbbbbbbb")
    assert prune(store, CheckpointConfig(keep_last=1), "joint", 9, "aaaaaaaa", 7) == [], "it is another one's turn"
    assert before.keys() < store.names().keys()
    take_turn(store, ["joint"], "aaaaaaaa")
    gone = prune(store, CheckpointConfig(keep_last=1), "joint", 9, "aaaaaaaa", 7)
    assert gone == ["joint/00000006-99999999", f"joint/00000006-{ATTEMPT}"]
    assert sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "ledger") == ["00000007-aaaaaaaa", f"00000009-{ATTEMPT}"]
    assert is_finished(store, "joint")


class Meanwhile(LocalStore):
    """A disk on which something happens before a file is written."""

    def __init__(self, folder: Path, part: str, happens: Callable[[], object]) -> None:
        super().__init__(folder)
        self._part, self._happens = part, happens

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        if self._part in name:
            self._happens()
        with super().writing(name) as path:
            yield path


def test_an_attempt_that_was_left_behind_neither_commits_nor_removes(store: LocalStore) -> None:
    """The worker of a killed driver, while the next attempt has begun: also where both are about to commit the same step."""
    folder, before = Path(store.uri), store.names()
    take_turn(store, ["joint"], "aaaaaaaa")
    late = Meanwhile(folder, MANIFEST, lambda: take_turn(store, ["joint"], "bbbbbbbb"))
    with pytest.raises(Superseded, match=r"attempt 'bbbbbbbb' has begun since 'aaaaaaaa'.*let one command at a time"):
        save_checkpoint(late, "joint", 8, 9, NETWORK, weights(), "aaaaaaaa")
    assert before.items() <= store.names().items()
    assert [f.step for f in found_in(store) if f.complete] == [6, 9]
    save_checkpoint(store, "joint", 8, 9, NETWORK, weights(), "bbbbbbbb")
    assert [f.path for f in found_in(store)] == ["joint/00000008-bbbbbbbb", f"joint/00000009-{ATTEMPT}"], "and what it left is cleared up"


def test_nothing_half_written_is_pruned_by_who_does_not_know_whose_turn_it_is(store: LocalStore) -> None:
    rival = lambda: prune(store, CheckpointConfig(keep_last=1), "joint", 9, ATTEMPT, 9)  # noqa: E731
    path = save_checkpoint(Meanwhile(Path(store.uri), MANIFEST, rival), "joint", 8, 9, NETWORK, weights(), "bbbbbbbb")
    Checkpoint(store, path).verify()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_what_was_removed_while_it_was_written_is_not_committed(store: LocalStore, damage: Callable[[Path], object]) -> None:
    file = Path(store.uri, "joint/00000008-bbbbbbbb/ema.00000.safetensors")
    with pytest.raises(OSError, match=r"ema\.00000\.safetensors was removed, or is not what its rank has written"):
        save_checkpoint(Meanwhile(Path(store.uri), MANIFEST, lambda: damage(file)), "joint", 8, 9, NETWORK, weights(), "bbbbbbbb")
    assert [f.step for f in found_in(store) if f.complete] == [6, 9]


def test_the_manifest_accounts_for_every_file(store: LocalStore) -> None:
    last = Checkpoint(store, f"joint/00000009-{ATTEMPT}")
    sizes = {name: path.stat().st_size for name, path in files_of(store, 9).items() if name.endswith(".safetensors")}
    assert sizes == {name: about["bytes"] for name, about in last.manifest["files"].items()}
    assert json.loads(json.dumps(last.manifest)) == last.manifest


def test_no_pickle_is_written(store: LocalStore) -> None:
    assert {Path(name).suffix for name in store.names()} == {".safetensors", ".json", ".jsonl", ""}


def test_a_stage_saved_again_is_the_later_attempts(tmp_path: Path) -> None:
    """Whatever attempts are called: the first one's is damaged, and the second's takes its place."""
    store = LocalStore(tmp_path)
    for first, second in (("00000001", "00000002"), ("ffffffff", "00000003")):
        save_checkpoint(tmp_path, "joint", 6, 9, NETWORK, weights(6), first)
        save_stage(tmp_path, "joint", 9, NETWORK, weights(1), first)
        next(tmp_path.glob(f"joint/00000009-{first}/ema.*")).write_bytes(b"")
        found = resume_from(store, "joint", lambda word: [word], 0, 1, lambda _: None)
        assert found is not None
        assert found.step == 6
        save_stage(tmp_path, "joint", 9, NETWORK, weights(2), second)
        assert torch.equal(stage_weights(store, "joint", NETWORK, "ema")["b"], weights(2)["ema"]["b"])
        shutil.rmtree(tmp_path / "joint")


def test_updates_of_a_stage_are_in_its_ledger(tmp_path: Path) -> None:
    updates = [Update(step, ("a", "b"), True) for step in range(3)]
    save_checkpoint(tmp_path, "joint", 3, 9, NETWORK, weights(), updates=updates)
    (segment,) = (tmp_path / "joint" / "ledger").iterdir()
    assert len(segment.read_text().splitlines()) == 4


# --- what a stranger may have written ---------------------------------------------------------------------------------------


def edited(store: LocalStore, step: int, change: Callable[[dict], object]) -> None:
    """Another manifest, committed."""
    files = files_of(store, step)
    manifest = json.loads(files[MANIFEST].read_text())
    change(manifest)
    content = json.dumps(manifest).encode()
    files[MANIFEST].write_bytes(content)
    files[COMMIT].write_text(json.dumps({"manifest": hashlib.sha256(content).hexdigest()}))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["files"][NAMES[0]].update(tensors=[1, 2]),
        lambda m: m["files"][NAMES[0]]["tensors"].update({"a.weight@0/weight": 10**30}),
        lambda m: m["files"][NAMES[0]]["tensors"].update({"a.weight@12/weight": 1}),
        lambda m: m["files"].update({"../x": m["files"].pop(NAMES[0])}),
        lambda m: m["roles"]["live"].update(b=7),
        lambda m: m["roles"]["live"].update(b=[10**6, 10**6]),
        lambda m: m.update(step=3),
        lambda m: m.update(step="x"),
        lambda m: m.update(stage="mutual"),
        lambda m: m.update(network=3),
        lambda m: m.update(ledger={"name": "/etc/passwd", "sha256": "0"}),
        lambda m: m.update(ledger={"name": "joint/ledger/../../x.jsonl", "sha256": "0"}),
        lambda m: m.update(ledger=[1]),
    ],
)
def test_a_manifest_that_does_not_fit_is_damage(store: LocalStore, change: Callable[[dict], object]) -> None:
    edited(store, 9, change)
    step, said = resumed(store)
    assert step == 6
    assert len(said) == 1
    assert "\n" not in said[0]


def test_one_of_a_newer_release_is_no_damage_and_nothing_is_trained_again_or_removed(store: LocalStore) -> None:
    """A run that a newer release has gone on with, and the older one's command is given again."""
    edited(store, 9, lambda m: m.update(format=FORMAT + 1))
    before = store.names()
    newer = f"is of format {FORMAT + 1}, and this release reads format {FORMAT}; go on with the release that wrote it"
    for act in (resumed, lambda s: is_finished(s, "joint"), lambda s: stage_weights(s, "joint", NETWORK, "ema")):
        with pytest.raises(ValueError, match=newer) as refused:
            act(store)
        assert "\n" not in str(refused.value)
    assert store.names() == before


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "a//b", "", "."])
def test_a_name_that_leads_out_of_a_store_is_refused(tmp_path: Path, name: str) -> None:
    store = LocalStore(tmp_path)
    for act in (store.fetch, store.remove, lambda n: write_bytes(store, n, b"")):
        with pytest.raises(ValueError, match="leads out of its folder"):
            act(name)


def test_a_missing_segment_of_the_ledger_is_damage(store: LocalStore) -> None:
    """Or the run would go on for days without an account that can be proved."""
    next(Path(store.uri).glob("joint/ledger/00000009-*")).unlink()
    step, said = resumed(store)
    assert step == 6
    assert "ledger" in said[0]


def test_a_store_that_does_not_answer_is_no_reason_to_take_an_older_state(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Checkpoint, "verify", away)
    with pytest.raises(OSError, match="Input/output error"):
        resumed(store)
    monkeypatch.undo()
    assert resumed(store) == (9, [])
