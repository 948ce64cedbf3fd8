"""The driver's other eye while `fit()` blocks: nodes that come and go, and what becomes of the rollout pool's actors."""

from __future__ import annotations

import threading
import time
from typing import Protocol

import ray
from ray.exceptions import RayError

from .change import ACTORS, NODES, Change, merged, node_change
from .events import Events

LOOK = 2.0  # seconds between two looks
RECENT = 60.0  # seconds in which Ray finds out that a node is gone, and a smaller training begins


class Pool(Protocol):
    """Who knows of rollout actors."""

    def changes(self, since: int) -> tuple[int, list[Change], int]:
        """The number of the next change, those from `since` on, and how many actors there are."""
        ...


class ChangeWatcher:
    """A context with a thread that tells `events` of all that happens beside the training itself."""

    def __init__(self, events: Events) -> None:
        self._events, self._lock = events, threading.Lock()
        self._pool: Pool | None = None
        self._seen, self._left = 0, float("-inf")
        self._nodes: dict[str, str] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="changes")

    def __enter__(self) -> ChangeWatcher:
        self.look()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * LOOK)
        if kind is None:
            self.look()

    def follow(self, pool: Pool) -> None:
        """Watch this pool from now on."""
        with self._lock:
            self._pool, self._seen = pool, 0

    def lost(self) -> bool:
        """Whether a node has left within the last minute; it looks at once."""
        self.look()
        return time.monotonic() - self._left < RECENT

    def look(self) -> None:
        with self._lock:
            if not ray.is_initialized():  # asking would begin a cluster
                return
            self._look_at_nodes()
            self._ask()
            self._events.refresh()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK):
            self.look()

    def _look_at_nodes(self) -> None:
        try:
            alive = {node["NodeID"]: node.get("NodeName") or node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        except (RayError, ConnectionError):  # the head is gone, of which `fit` tells
            return
        before, self._nodes = self._nodes, alive
        if before is not None and (change := node_change(before, alive)):
            if before.keys() - alive.keys():
                self._left = time.monotonic()
            self._events.tell(change)
        self._events.show(NODES, len(alive))

    def _ask(self) -> None:
        if self._pool is None:
            return
        try:
            self._seen, news, actors = self._pool.changes(self._seen)
        except RayError:  # its coordinator is gone, of which `fit` tells
            return
        for change in merged(news):
            self._events.tell(change)
        self._events.show(ACTORS, actors)
