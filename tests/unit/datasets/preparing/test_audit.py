"""The audit of a dataset: silent where the account adds up, and of each way in which it may not, one that names what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dataset_material
import pytest
from dataset_material import make_dataset

from mutual_forcing.datasets.format.account import SourceLine, read_account, write_account
from mutual_forcing.datasets.format.clip_table import ClipRow, read_clips, write_clips
from mutual_forcing.datasets.format.manifest import Manifest, read_manifest
from mutual_forcing.datasets.intake.sources import Source
from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.datasets.preparing.audit import Audit, audit

Change = Callable[[Path, Manifest], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_dataset(tmp_path, clips=3, shards=2, sources=("a.mp4", "b.mp4"))
    return tmp_path


def audited(folder: Path, listed: list[Source] | None = None) -> Audit:
    return audit(LocalStore(folder), listed)


def test_an_account_that_adds_up(folder: Path) -> None:
    assert audited(folder) == Audit(sources=2, used=2, clips=6, left_out=0, shards=2, compared=False, faults=())


def lines(change: Callable[[list[SourceLine]], list[SourceLine]]) -> Change:
    def apply(folder: Path, manifest: Manifest) -> None:
        path = folder / manifest.account
        write_account(LocalStore(folder), manifest.account, change(read_account(path)))

    return apply


def rows(change: Callable[[list[ClipRow]], list[ClipRow]]) -> Change:
    def apply(folder: Path, manifest: Manifest) -> None:
        write_clips(LocalStore(folder), manifest.table, change(read_clips(folder / manifest.table)))

    return apply


def told(**fields: object) -> Change:
    return lambda folder, manifest: replace(manifest, **fields).write(folder)


def damaged(folder: Path, manifest: Manifest) -> None:
    path = folder / manifest.shards[1].file
    path.write_bytes(path.read_bytes()[:-1] + b"x")


CHANGES: dict[str, tuple[Change, str]] = {
    "a shard is damaged": (damaged, r"shard-1.arrow: is not what the manifest says"),
    "a shard is gone": (lambda folder, m: (folder / m.shards[1].file).unlink(), "shard-1.arrow: "),
    "a shard stands there twice": (
        lambda folder, m: replace(m, shards=(*m.shards, m.shards[0])).write(folder),
        "stands in the shards 2 times",
    ),
    "a shard is forgotten": (lambda folder, m: replace(m, shards=m.shards[:1]).write(folder), "in the table, and in no shard"),
    "a source is forgotten": (lines(lambda found: found[:1]), "its source 'b.mp4' stands in no account"),
    "a source stands there twice": (lines(lambda found: [*found, found[0]]), "source 'a.mp4': stands in the account 2 times"),
    "a source is refused": (lines(lambda f: [replace(f[0], status="refused", reason="black"), f[1]]), r"'a.mp4' is refused \(black\)"),
    "a refusal has no reason": (lines(lambda f: [*f, SourceLine("c.mp4", "refused")]), "source 'c.mp4': is refused without a reason"),
    "a source is other bytes": (lines(lambda f: [replace(f[0], content="x"), f[1]]), "is of other bytes than its source 'a.mp4'"),
    "a source is said to have more clips": (lines(lambda f: [replace(f[0], clips=9), f[1]]), "has 3 clips in the shards, 9 in the account"),
    "a used source has no clips": (lines(lambda f: [*f, SourceLine("c.mp4", "used")]), "source 'c.mp4': is used, and has 0 clips"),
    "a clip is missing in the table": (rows(lambda found: found[1:]), "and not in the table"),
    "a clip is elsewhere": (rows(lambda f: [replace(f[0], row=7), *f[1:]]), "in the shards, .*7"),
    "a held-out clip is none": (told(held_out=("0123",)), "clip 0123: is held out, and stands in no shard"),
    "a dropped clip is none": (told(dropped={"0123": "a twin"}), "clip 0123: is dropped, and stands in no shard"),
    "all is held out": (lambda folder, m: replace(m, held_out=()).write(folder), "2 to train on, 0 held out"),
    "a held-out source is trained on": (
        lambda folder, m: replace(m, held_out=m.held_out[1:]).write(folder),
        "held out, but for its clip",
    ),
    "clips are counted wrong": (told(clips=7), "clips: 6 are found, the manifest says 7"),
    "sources are counted wrong": (told(sources_refused=1), "refused sources: 0 are found, the manifest says 1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_not_add_up_is_named(folder: Path, name: str) -> None:
    change, words = CHANGES[name]
    change(folder, read_manifest(folder))
    found = audited(folder)
    assert any(re.search(words, fault) for fault in found.faults), found.faults


def test_an_id_that_does_not_follow_from_source_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(dataset_material, "clip_id", lambda content, start, chunks: f"{start:016.0f}")
        make_dataset(tmp_path, clips=2, sources=("a.mp4", "b.mp4"))
    assert "its id does not follow from its source and place" in audited(tmp_path).faults[0]


def test_sources_that_are_there_now_are_held_against_the_account(folder: Path) -> None:
    same = [Source("a.mp4", "/media/a.mp4", "1"), Source("b.mp4", "/media/b.mp4", "1")]
    assert audited(folder, same) == replace(audited(folder), compared=True)
    assert not audited(folder, same[:1]).faults, "a source may go when its clips are made"
    changed = [Source("a.mp4", "/media/a.mp4", "2"), Source("b.mp4", "/media/b.mp4", "1"), Source("c.mp4", "/media/c.mp4", "1")]
    assert list(audited(folder, changed).faults) == [
        "source 'c.mp4': was added since, or changed; give `data prepare` again",
        "source 'a.mp4': is not what it was when its clips were made",
    ]


def test_no_dataset_is_no_account(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        audited(tmp_path)
