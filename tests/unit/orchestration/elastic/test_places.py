"""Places that Ray keeps for workers: those that are free, those that come, and what rank 0 hears of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group_table

from mutual_forcing.orchestration.elastic import places
from mutual_forcing.orchestration.elastic.places import Places, Vacancy, end_places, room_for

PATIENCE = 60.0  # seconds
CORE, NONE = {"CPU": 1.0}, {"CPU": 1.0, "nowhere": 1.0}  # of the session's cluster, which has four


@ray.remote(num_cpus=1)
class Holder:
    """Somebody else who has a core."""

    def there(self) -> bool:
        return True


@pytest.fixture
def taken(ray_cluster: str) -> Iterator[list[Any]]:
    """Three of the four cores."""
    holders: list[Any] = [Holder.remote() for _ in range(3)]
    ray.get([holder.there.remote() for holder in holders])
    yield holders
    for holder in holders:
        ray.kill(holder)


def until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_size_follows_what_is_free_and_nothing_stays_behind(taken: list[Any]) -> None:
    with Places(CORE, (1, 2, 4)) as kept:
        until(lambda: kept.size() == 1)
        ray.kill(taken.pop())
        until(lambda: kept.size() == 2)
        ray.kill(taken.pop())
        ray.kill(taken.pop())
        until(lambda: kept.size() == 4)
    until(lambda: ray.available_resources().get("CPU") == 4.0)
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())


@ray.remote(num_cpus=0)
class Rank:
    """Looks out for more workers, in a process that can be killed."""

    def watch(self, name: str) -> bool:
        self._room = Vacancy(CORE, (1, 2, 4, 6), 1, 0.0, name).__enter__()
        return True


@pytest.mark.slow
def test_a_killed_rank_leaves_no_places(ray_cluster: str) -> None:
    rank: Any = Rank.remote()
    assert ray.get(rank.watch.remote("fit-1"))
    until(lambda: ray.available_resources().get("CPU", 0.0) == 1.0)  # of four: one more and two more have places, two more wait
    ray.kill(rank)
    time.sleep(1.0)
    end_places("fit-1", (1, 2, 4, 6), 1)
    until(lambda: ray.available_resources().get("CPU") == 4.0)
    assert all(group["state"] == "REMOVED" for group in placement_group_table().values())
    end_places("fit-1", (1, 2, 4, 6), 1)  # and nothing to end is no trouble


def test_a_start_takes_what_there_is_when_no_more_has_come(taken: list[Any]) -> None:
    said: list[str] = []
    assert room_for(CORE, (1, 2, 4), said.append, settle=1.0) == 1
    assert said == []
    for holder in taken:
        ray.kill(holder)
    begin = time.monotonic()
    assert room_for(CORE, (1, 2, 4), said.append, settle=PATIENCE) == 4
    assert time.monotonic() - begin < PATIENCE, "the largest need not settle"
    taken.clear()


def test_who_waits_for_machines_says_so_once(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PATIENCE", 0.1)
    monkeypatch.setattr(places, "LOOK", 0.01)
    said: list[str] = []

    def warn(text: str) -> None:
        said.append(text)
        monkeypatch.setattr(Places, "size", lambda _: 2)  # they come

    assert room_for(NONE, (2,), warn) == 2
    assert said == ["workers.min_count: places for 2 workers (CPU 1, nowhere 1 each) are not there; training waits for machines"]


@pytest.mark.slow
def test_rank_0_hears_of_room_when_it_is_there_and_not_too_often(taken: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "WATCH", 0.1)
    ray.kill(taken.pop())  # two are free: one trains, and two more would be three, which is no size
    with Vacancy(CORE, (1, 4), have=1, every_s=0.0, name="") as room:
        time.sleep(2.0)
        assert not room()
        for holder in taken:
            ray.kill(holder)
        until(room)
    with Vacancy(CORE, (1, 2), have=1, every_s=3.0, name="") as room:
        begin = time.monotonic()
        until(room)
        assert time.monotonic() - begin >= 2.5
    with Vacancy(CORE, (1, 2), have=2, every_s=0.0, name="") as room:
        time.sleep(0.5)
        assert not room(), "all train"
    taken.clear()
