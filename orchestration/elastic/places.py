"""Which number of workers the machines have room for: Ray is asked to keep places for them, and says which it has.

A place is a bundle of a placement group, so a free one is free for certain, on machines that live and are not about to go; and one that is
not there yet is a demand, for which an autoscaler brings machines. Groups are made of increments, from one size to the next:

    sizes 2, 4, 8    before a start: [2] [+2] [+4]    the first that are placed say the size; then the places go to Ray Train
                     while 4 train:  [+4]             placed: more could train
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import ray
from ray.exceptions import RayError
from ray.util import get_placement_group
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from .sizes import increments, reached

SETTLE = 10.0  # seconds in which no more places came: those of workers that have just ended come back within them
PATIENCE = 30.0  # seconds without enough of them, before that is told
LOOK = 0.5  # seconds between two looks before a start
WATCH = 5.0  # and while it trains
log = logging.getLogger(__name__)


class Places:
    """A context that keeps places, of `bundle` each, for workers beyond `have`, up to the last of the sizes. name: by which another process
    can end them (`end_places`); empty: none.
    """

    def __init__(self, bundle: Mapping[str, float], sizes: Sequence[int], have: int = 0, name: str = "") -> None:
        self._bundle, self._have, self._added, self._name = dict(bundle), have, increments(sizes, have), name
        self._groups: list[PlacementGroup] = []

    def __enter__(self) -> Places:
        names = [_numbered(self._name, i) if self._name else "" for i in range(len(self._added))]
        self._groups = [placement_group([self._bundle] * n, name=name) for n, name in zip(self._added, names, strict=True)]
        return self

    def __exit__(self, *_: object) -> None:
        for group in self._groups:
            with suppress(RayError, ConnectionError):  # of a cluster that is gone
                remove_placement_group(group)

    def size(self) -> int:
        """How many workers have places now, those beside them included."""
        return reached(self._added, [placement_group_table(group).get("state") == "CREATED" for group in self._groups], self._have)


def end_places(name: str, sizes: Sequence[int], have: int) -> None:
    """End those of this name: a process that was killed leaves them to Ray, which keeps them as long as the driver lives."""
    for i in range(len(increments(sizes, have))) if ray.is_initialized() else ():  # or it would begin a cluster
        with suppress(ValueError, RayError, ConnectionError):  # they are gone already, or the cluster is
            remove_placement_group(get_placement_group(_numbered(name, i)))


def room_for(bundle: Mapping[str, float], sizes: Sequence[int], warn: Callable[[str], None], settle: float = SETTLE) -> int:
    """The largest of the sizes that has room, when no more has come for `settle` seconds. Waits for the smallest as long as it takes."""
    with Places(bundle, sizes) as places:
        found, begin = 0, time.monotonic()
        since, told = begin, False
        while (size := places.size()) < sizes[-1]:
            now = time.monotonic()
            if size != found:
                found, since = size, now
            if found and now - since >= settle:
                break
            if not found and not told and now - begin >= PATIENCE:
                told = True
                warn(f"workers.min_count: places for {sizes[0]} workers ({_told(bundle)} each) are not there; training waits for machines")
            time.sleep(LOOK)
        return size


class Vacancy:
    """A context of rank 0: called at every step, it says whether more workers than the `have` that train would have room, and never waits
    for the answer. It is no earlier than `every_s` seconds after the start. name: of its places.
    """

    def __init__(self, bundle: Mapping[str, float], sizes: Sequence[int], have: int, every_s: float, name: str) -> None:
        self._places, self._have, self._every_s = Places(bundle, sizes, have, name), have, every_s
        self._wanted = have < sizes[-1]
        self._found, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="vacancy")

    def __enter__(self) -> Vacancy:
        if self._wanted:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._wanted:
            self._thread.join(WATCH)

    def __call__(self) -> bool:
        return self._found.is_set()

    def _watch(self) -> None:
        """Places are asked for from the start: machines take minutes to come."""
        begin = time.monotonic()
        with self._places as places:
            while not self._stop.wait(max(LOOK, min(WATCH, begin + self._every_s - time.monotonic()))):
                if time.monotonic() - begin < self._every_s:
                    continue
                try:
                    if places.size() > self._have:
                        self._found.set()
                        self._stop.wait()  # until the rank has left: nobody else may have them meanwhile
                except (RayError, ConnectionError) as error:
                    log.warning("whether more workers have room is not known (%s)", error)


def _numbered(name: str, number: int) -> str:
    return f"{name}-places-{number}"


def _told(bundle: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {amount:g}" for kind, amount in sorted(bundle.items()))
