"""Sources that end their worker, by a crash in a decoder or for want of memory: each may twice, then it is refused as any bad file.

    worker --begin NAME--> notes --(how many workers that began it before never said that it ended)--> go on, or refuse it
    worker --end NAME---->

Ray gives the work of a worker that has ended to another, again and again: without this, one file would stop a job for good. Notes lie
in Ray's own key-value store, beside what Ray knows of the cluster: an actor for them would take a worker that waits for work.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.experimental import internal_kv as store

from ..ffmpeg.ffmpeg_program import MediaError

MOST = 2  # workers that a source may end
WHY = "a crash, or more memory than there is"
REFUSED = "refused"
SPACE = "mutual-forcing-trials"


def _alive() -> frozenset[str]:
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


class Trials:
    """What was begun and has not ended: it travels to the processes that work. job: whose notes; empty: nothing is noted or asked.
    alive: the nodes that are there: what went away with its node was not the source's fault.

    A note is a key with no value, JOB/SOURCE/SCOPE/WORKER/NODE, or JOB/SOURCE/refused/COUNT. Scope: the task or the actor that the work is
    of, which stays the same when Ray gives it to another worker. What another task began does not count: it may still be at work, or have
    been cancelled. One worker at a time begins a source in a scope, so no two write beside each other.
    """

    def __init__(self, job: str = "", alive: Callable[[], frozenset[str]] = _alive) -> None:
        self._job, self._alive = job, alive

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """The block is a try at the source of this name; blocks of one name may follow each other, and may not lie in each other.

        Raises:
            MediaError: it has ended so many workers that it is not begun.
        """
        if not self._job:
            yield
            return
        here = ray.get_runtime_context()
        scope = here.get_actor_id() or here.get_task_id() or "driver"  # in an actor, tasks have no ids that stay
        trial = (scope, name, here.get_worker_id(), here.get_node_id())
        if ended := self.begin(*trial):
            raise MediaError("decode", name, f"ended its worker {ended} times: {WHY}")
        try:
            yield
        finally:
            if store._internal_kv_initialized():  # a generator may be closed while its worker ends
                self.end(*trial)

    def begin(self, scope: str, name: str, worker: str, node: str) -> int:
        """0: go on; else the source is refused, and has ended so many workers."""
        source = self._key(name)
        notes = [note.decode().removeprefix(f"{source}/").split("/") for note in store._internal_kv_list(f"{source}/", namespace=SPACE)]
        for first, *rest in notes:
            if first == REFUSED:
                return int(rest[0])
        ended = [place for its_scope, other, place in notes if its_scope == scope and other != worker]
        if len(ended) >= MOST and (count := self._at_fault(ended)) >= MOST:
            store._internal_kv_put(f"{source}/{REFUSED}/{count}", b"", namespace=SPACE)
            return count
        store._internal_kv_put(f"{source}/{scope}/{worker}/{node}", b"", namespace=SPACE)
        return 0

    def end(self, scope: str, name: str, worker: str, node: str) -> None:
        """This worker's try alone: what ended workers before it may come later in the same source, and end the next one too."""
        store._internal_kv_del(f"{self._key(name)}/{scope}/{worker}/{node}", namespace=SPACE)

    def _at_fault(self, ended: list[str]) -> int:
        alive = self._alive()
        return sum(node in alive for node in ended)

    def _key(self, name: str) -> str:
        return f"{self._job}/{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()}"


UNWATCHED = Trials()


@contextmanager
def trials() -> Iterator[Trials]:
    """For the time of the block; Ray must be running."""
    job = secrets.token_hex(8)
    try:
        yield Trials(job)
    finally:
        if store._internal_kv_initialized():
            store._internal_kv_del(f"{job}/", del_by_prefix=True, namespace=SPACE)
