"""What the driver sees beside the training: nodes that come and go, and what the rollout pool says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from mutual_forcing.orchestration.elastic import watch
from mutual_forcing.orchestration.elastic.change import ACTORS, Change, Noted
from mutual_forcing.orchestration.elastic.events import EVENTS, Events
from mutual_forcing.orchestration.elastic.watch import ChangeWatcher

LOST = Change(ACTORS, 2, 2, "one was lost, another takes its place")


class Pool:
    """Says what it noted."""

    def __init__(self, *changes: Change) -> None:
        self.noted = Noted()
        for change in changes:
            self.noted.add(change)

    def changes(self, since: int) -> tuple[int, list[Change], int]:
        return *self.noted.since(since), 2


class Gone:
    def changes(self, since: int) -> Any:
        raise ActorDiedError


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """A cluster's nodes, by name, and whether they live."""
    there = {"head": True, "a": True, "b": True}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"NodeID": n, "NodeName": n, "NodeManagerAddress": "", "Alive": alive} for n, alive in there.items()]
    )
    return there


def told(folder: Path) -> list[str]:
    lines = [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()] if (folder / EVENTS).is_file() else []
    return [f"{e['kind']} {e['before']} -> {e['after']}: {e['why']}" for e in lines]


def test_nodes_and_pools_are_told_once_each(tmp_path: Path, nodes: dict[str, bool]) -> None:
    watcher = ChangeWatcher(Events(tmp_path, lambda _: None))
    watcher.look()
    assert told(tmp_path) == [], "those that are there at the start have not joined"
    assert not watcher.lost()
    pool = Pool(LOST, LOST)
    watcher.follow(pool)
    nodes["a"] = False
    assert watcher.lost()
    watcher.look()
    pool.noted.add(LOST)
    nodes["c"] = True
    watcher.look()
    lines = [
        "nodes 3 -> 2: a left",
        f"{LOST.told()} (2 times)",
        "nodes 2 -> 3: c joined",
        LOST.told(),
    ]
    assert told(tmp_path) == lines
    watcher.follow(Gone())
    watcher.look()
    watcher.follow(Pool(LOST))  # another coordinator counts from 0
    watcher.look()
    assert told(tmp_path) == [*lines, LOST.told()]


def test_its_thread_looks_by_itself_and_once_more_at_the_end(
    tmp_path: Path, nodes: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK", 0.05)
    pool = Pool()
    with ChangeWatcher(Events(tmp_path, lambda _: None)) as watcher:
        watcher.follow(pool)
        nodes["a"] = False
        end = time.monotonic() + 20
        while not told(tmp_path):
            assert time.monotonic() < end
            time.sleep(0.01)
        monkeypatch.setattr(watch, "LOOK", 60.0)
        time.sleep(0.2)
        pool.noted.add(LOST)
    assert told(tmp_path) == ["nodes 3 -> 2: a left", LOST.told()]


def test_without_a_cluster_it_begins_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "nodes", lambda: pytest.fail("that would begin one"))
    watcher = ChangeWatcher(Events(tmp_path, lambda _: None))
    watcher.follow(Pool(LOST))
    watcher.look()
    assert told(tmp_path) == []
