"""What is told of a change: once, in one line, by who saw it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.orchestration.elastic import change
from mutual_forcing.orchestration.elastic.change import ACTORS, NODES, WORKERS, Change, Noted, merged, node_change
from mutual_forcing.orchestration.elastic.events import EVENTS, Events
from mutual_forcing.orchestration.exporter import ChangeExporter

LOST = Change(ACTORS, 2, 2, "one was lost, another takes its place")
NAMES = st.dictionaries(st.text("abc", min_size=1, max_size=2), st.text("xyz", max_size=3), max_size=6)


def test_repetitions_are_one_line_with_a_count() -> None:
    grown = Change(ACTORS, 2, 5, "so many keep the trainers busy")
    assert merged([LOST, grown, LOST, LOST]) == [Change(ACTORS, 2, 2, f"{LOST.why} (3 times)"), grown]
    assert merged([]) == []
    assert grown.told() == "rollout actors 2 -> 5: so many keep the trainers busy"


@given(NAMES, NAMES)
def test_nodes_that_come_and_go_are_told_together(before: dict[str, str], now: dict[str, str]) -> None:
    found = node_change(before, now)
    assert (found is None) == (before.keys() == now.keys())
    if found is not None:
        assert (found.kind, found.before, found.after) == (NODES, len(before), len(now))
        assert ("left" in found.why) == bool(before.keys() - now.keys())
        assert ("joined" in found.why) == bool(now.keys() - before.keys())


def test_many_nodes_are_one_short_line() -> None:
    told = node_change({}, {str(i): f"10.0.0.{i}" for i in range(64)})
    assert told is not None
    assert told.told() == "nodes 0 -> 64: 10.0.0.0, 10.0.0.1, 10.0.0.2 and 61 more joined"


def test_each_change_is_heard_once_and_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "KEPT", 3)
    noted, seen = Noted(), 0
    seen, news = noted.since(seen)
    assert (seen, news) == (0, [])
    numbers = [Change(ACTORS, i, i, "") for i in range(6)]
    noted.add(numbers[0])
    seen, news = noted.since(seen)
    assert (seen, news) == (1, numbers[:1])
    for each in numbers[1:]:
        noted.add(each)
    seen, news = noted.since(seen)
    assert (seen, news) == (6, numbers[3:])
    assert noted.since(seen) == (6, [])


def test_a_change_is_a_line_on_the_terminal_and_a_line_in_the_folder(tmp_path: Path) -> None:
    said: list[list[str]] = []
    events = Events(tmp_path, said.append)
    events.tell(Change(WORKERS, 4, 3, "a machine was lost"))
    events.tell(LOST)
    events.show(NODES, 3)
    assert said == [["workers 4 -> 3: a machine was lost"], [LOST.told()]]
    lines = [json.loads(line) for line in (tmp_path / EVENTS).read_text().splitlines()]
    assert all(line.pop("time") > 1.7e9 for line in lines)
    assert lines == [{"kind": WORKERS, "before": 4, "after": 3, "why": "a machine was lost"}, LOST.__dict__]


def test_the_metric_has_the_newest_numbers_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, int]] = []
    monkeypatch.setattr(ChangeExporter, "show", lambda _, kind, count: shown.append((kind, count)))
    events = Events(tmp_path, lambda _: None)
    events.show(WORKERS, 4)
    events.show(NODES, 3)
    events.tell(Change(WORKERS, 4, 2, "a machine was lost"))
    shown.clear()
    events.refresh()
    assert sorted(shown) == [(NODES, 3), (WORKERS, 2)]


def test_a_folder_that_cannot_be_written_costs_the_line_alone(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    said: list[list[str]] = []
    events = Events(tmp_path, said.append)
    events.tell(LOST)
    events.tell(LOST)
    assert len(said) == 2
