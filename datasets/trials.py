"""Sources that end their worker, by a crash in a decoder or for want of memory: each may twice, then it is refused as any bad file.

    worker --begin NAME--> Desk --(how many workers that began it before never said that it ended)--> go on, or refuse it
    worker --end NAME---->

Ray gives the work of a worker that has ended to another, again and again: without this, one file would stop a job for good.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .ffmpeg_program import MediaError

MOST = 2  # workers that a source may end
WHY = "a crash, or more memory than there is"


class Desk:
    """Knows what was begun and has not ended. alive: the nodes that are there: what went away with its node was not the source's fault.

    scope: the task or the actor that the work is of, which stays the same when Ray gives it to another worker. What another task began
    does not count: it may still be at work, or have been cancelled.
    """

    def __init__(self, alive: Callable[[], frozenset[str]]) -> None:
        self._alive = alive
        self._begun = defaultdict[tuple[str, str], dict[str, str]](dict)  # (scope, name) -> worker -> its node
        self._refused = dict[str, int]()

    def begin(self, scope: str, name: str, worker: str, node: str) -> int:
        """0: go on; else the source is refused, and has ended so many workers."""
        if name in self._refused:
            return self._refused[name]
        begun = self._begun[scope, name]
        ended = [place for other, place in begun.items() if other != worker]
        if len(ended) >= MOST and (count := len([place for place in ended if place in self._alive()])) >= MOST:
            self._refused[name] = count
            del self._begun[scope, name]
            return count
        begun[worker] = node
        return 0

    def end(self, scope: str, name: str, worker: str) -> None:
        begun = self._begun[scope, name]
        begun.pop(worker, None)
        if not begun:
            del self._begun[scope, name]


class Trials:
    """What work has of the desk: it travels to other processes. desk: None where Ray does not run; nobody is asked then."""

    def __init__(self, desk: Any = None) -> None:
        self._desk = desk

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """The block is a try at the source of this name; blocks of one name may follow each other, and may not lie in each other.

        Raises:
            MediaError: it has ended so many workers that it is not begun.
        """
        if self._desk is None:
            yield
            return
        here = ray.get_runtime_context()
        scope, worker = here.get_actor_id() or here.get_task_id() or "", here.get_worker_id()  # in an actor, tasks have no ids that stay
        if ended := ray.get(self._desk.begin.remote(scope, name, worker, here.get_node_id())):
            raise MediaError("decode", name, f"ended its worker {ended} times: {WHY}")
        try:
            yield
        finally:
            self._desk.end.remote(scope, name, worker)  # nobody waits for it: a generator may be closed while its worker ends


UNWATCHED = Trials()


@contextmanager
def trials() -> Iterator[Trials]:
    """For the time of the block; Ray must be running."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # on no machine that a cloud takes back
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    remote: Any = ray.remote(Desk).options(**options)
    desk = remote.remote(_alive)
    try:
        yield Trials(desk)
    finally:
        with suppress(RayError, ValueError):  # it may be gone already
            ray.kill(desk)


def _alive() -> frozenset[str]:
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
