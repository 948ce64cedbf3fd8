"""The ledger: a chain that tells what was trained on, or says where it is broken."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets import ledger
from mutual_forcing.datasets.ledger import FOLD, Head, Update, faults, head_of, read_chain, write_segment
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.reading.order import Order, plain

TRAIN = [f"clip-{i}" for i in range(5)]
BATCH = 2
ORDER = Order(3, "joint", [plain(len(TRAIN))], BATCH)


def ordered(steps: int) -> list[Update]:
    """A stage as the order of training gives it."""
    clips = [TRAIN[ORDER.at(p)[0]] for p in range(steps * BATCH)]
    return [Update(s, tuple(clips[s * BATCH : (s + 1) * BATCH]), True) for s in range(steps)]


def told(updates: list[Update], steps: int, ordered_too: bool = True) -> list[str]:
    order = (TRAIN[ORDER.at(p)[0]] for p in range(steps * BATCH))
    return list(faults(updates, steps, BATCH, TRAIN, order if ordered_too else None))


@pytest.fixture
def segments(tmp_path: Path) -> tuple[LocalStore, list[Head]]:
    """Ten updates in three segments."""
    store, heads = LocalStore(tmp_path), list[Head]()
    for i, (first, end) in enumerate(((0, 4), (4, 5), (5, 10))):
        heads.append(write_segment(store, f"joint/ledger/{i}.jsonl", heads[-1] if heads else None, ordered(10)[first:end]))
    return store, heads


def test_a_chain_is_read_back_whole(segments: tuple[LocalStore, list[Head]]) -> None:
    store, heads = segments
    assert read_chain(store, heads[-1]) == ordered(10)
    assert read_chain(store, heads[0]) == ordered(10)[:4]
    assert read_chain(store, None) == []
    assert head_of(asdict(heads[1])) == heads[1]


@pytest.mark.parametrize("segment", [0, 1, 2])
def test_a_segment_that_is_missing_or_was_changed_breaks_the_chain(segments: tuple[LocalStore, list[Head]], segment: int) -> None:
    store, heads = segments
    path = Path(store.uri, heads[segment].name)
    content = path.read_text()
    path.write_text(content.replace("clip-1", "clip-2", 1) if "clip-1" in content else content + "\n")
    with pytest.raises(ValueError, match=rf"ledger .*/{segment}\.jsonl: damaged"):
        read_chain(store, heads[-1])
    path.unlink()
    with pytest.raises(ValueError, match=rf"ledger .*/{segment}\.jsonl: missing"):
        read_chain(store, heads[-1])


class Counted(LocalStore):
    """A disk that counts what is read."""

    read = 0

    def fetch(self, name: str) -> Path:
        self.read += 1
        return super().fetch(name)


def chained(folder: Path, count: int) -> list[Head]:
    """One update a segment."""
    heads: list[Head] = []
    for i, update in enumerate(ordered(count)):
        heads.append(write_segment(LocalStore(folder), f"joint/ledger/{i}.jsonl", heads[-1] if heads else None, [update]))
    return heads


def test_a_chain_stays_short_however_many_checkpoints_there_are(tmp_path: Path) -> None:
    heads = chained(tmp_path, 300)
    for i in range(2, 300, 9):  # also those that an older checkpoint names, after a later one covers what they cover
        store = Counted(tmp_path)
        assert read_chain(store, head_of(json.loads(json.dumps(asdict(heads[i]))))) == ordered(300)[: i + 1]
        assert store.read <= FOLD


def test_segments_that_are_full_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "FULL", 5000)
    heads = chained(tmp_path, 300)
    assert read_chain(LocalStore(tmp_path), heads[-1]) == ordered(300)
    assert max(path.stat().st_size for path in tmp_path.rglob("*.jsonl")) < 5400
    monkeypatch.setattr(ledger, "FULL", 0)
    heads = chained(tmp_path / "none-fits", 100)
    assert read_chain(LocalStore(tmp_path / "none-fits"), heads[-1]) == ordered(100)


def test_segments_that_cannot_be_read_back_are_not_covered_by_another(tmp_path: Path) -> None:
    head = chained(tmp_path, FOLD)[-1]
    (tmp_path / "joint/ledger/7.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"7\.jsonl: damaged"):
        write_segment(LocalStore(tmp_path), "joint/ledger/x.jsonl", head, ordered(FOLD + 1)[FOLD:])
    assert not (tmp_path / "joint/ledger/x.jsonl").exists()


def test_a_chain_from_before_segments_were_counted_is_taken_on(segments: tuple[LocalStore, list[Head]]) -> None:
    old = head_of({"name": segments[1][-1].name, "sha256": segments[1][-1].sha256})
    head = write_segment(segments[0], "joint/ledger/x.jsonl", old, ordered(11)[10:])
    assert read_chain(segments[0], head) == ordered(11)


@given(st.integers(0, 12))
def test_the_order_of_training_has_every_clip_of_every_epoch_once(steps: int) -> None:
    assert told(ordered(steps), steps) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda u: u[:3] + u[4:], "step 3 is expected, and step 4 follows"),
        (lambda u: [*u[:3], u[3], u[3], *u[4:]], "step 4 is expected, and step 3 follows"),
        (lambda u: u[:-1], "step 9 is expected, and the end follows"),
        (lambda u: [*u[:2], Update(2, u[2].clips[:1], True), *u[3:]], "step 2: 1 clips instead of 2"),
        (lambda u: [Update(0, (u[0].clips[0], u[0].clips[0]), True), *u[1:]], "was trained on 2 times"),
        (lambda u: [Update(0, (u[0].clips[0], u[0].clips[0]), True), *u[1:]], "was left out"),
        (lambda u: [Update(0, (u[0].clips[0], "stranger"), True), *u[1:]], "stranger is no training clip"),
        (lambda u: [Update(0, u[0].clips[::-1], True), *u[1:]], "the order of training gives"),
    ],
)
def test_whatever_is_wrong_is_told(change, words: str) -> None:
    assert any(words in fault for fault in told(change(ordered(10)), 10))


def test_an_epoch_that_is_not_over_may_leave_clips_out_and_not_repeat_them() -> None:
    part = ordered(3)  # six of five: one clip of the second epoch
    assert told(part, 3) == []
    seen = list(chain.from_iterable(u.clips for u in ordered(2)))
    twice = [*ordered(1), Update(1, (seen[0], seen[2]), True)]
    assert any("was trained on 2 times" in fault for fault in told(twice, 2, ordered_too=False))


def test_where_epochs_end_apart_the_order_alone_tells_what_was_due() -> None:
    """Clip 0 is of another dataset and comes twice as often: no epoch of all clips is one, and the account is right."""
    due = [TRAIN[i] for i in (0, 1, 0, 2, 0, 3, 0, 4)]
    updates = [Update(s, tuple(due[s * BATCH : (s + 1) * BATCH]), True) for s in range(4)]
    assert list(faults(updates, 4, BATCH, TRAIN, iter(due)))
    assert list(faults(updates, 4, BATCH, TRAIN, iter(due), epochs=False)) == []
    other = [*due[:-1], TRAIN[3]]
    (told,) = faults(updates, 4, BATCH, TRAIN, iter(other), epochs=False)
    assert told.startswith("position 7")
