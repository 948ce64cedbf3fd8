"""A Ray cluster of several machines on this one: each a raylet and its processes, which can be lost, taken back or replaced."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

# A machine that is gone is noticed within seconds, not within half a minute.
NOTICED = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}
START = 300.0  # seconds for a machine to start
STORE = 200 * 2**20  # bytes of a machine's object store


class Machines:
    """A context: a head without cores, where the driver is, and machines of one core each."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._patch = pytest.MonkeyPatch()
        self._folder = tempfile.TemporaryDirectory(prefix="mf-", ignore_cleanup_errors=True)  # short: sockets lie in it
        self._cluster: Any = None
        self._others: set[psutil.Process] = set()

    def __enter__(self) -> Machines:
        from ray._private import services  # slow to import, as the next
        from ray.cluster_utils import Cluster

        self._patch.setattr(services, "get_node", patient(services.get_node))
        self._others = set(psutil.Process().children(recursive=True))
        self._patch.setenv("RAY_TMPDIR", self._folder.name)  # or others on this machine would find this cluster
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE, "_system_config": NOTICED}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(self._count):
            self.add()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            shut_down(self._cluster, self._others)
        finally:
            self._patch.undo()
            self._folder.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to find the cluster."""
        return {"RAY_ADDRESS": self._cluster.address, "RAY_TMPDIR": self._folder.name}

    @property
    def nodes(self) -> list[Any]:
        """The machines but the head."""
        return sorted(self._cluster.worker_nodes, key=lambda node: node.node_id)

    def add(self) -> None:
        self._cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def add_with(self, resource: str) -> Any:
        """A machine that has something of its own."""
        return self._cluster.add_node(num_cpus=1, resources={resource: 100}, object_store_memory=STORE)

    def processes(self, name: str) -> dict[psutil.Process, Any]:
        """Processes of Ray with this in their names, oldest first, each with its machine."""
        found = {}
        for node in self._cluster.worker_nodes:
            for process in _children(node):
                try:
                    if name in process.name():
                        found[process] = node
                except psutil.NoSuchProcess:
                    pass  # it has ended between the list and the question
        return dict(sorted(found.items(), key=lambda item: item[0].create_time()))

    def lose(self, node: Any) -> None:
        """Its raylet is killed with SIGKILL, if it still lives; what it started ends when it sees that."""
        if _children(node):
            node.kill_raylet()
        self._cluster.remove_node(node, allow_graceful=False)

    def take_back(self, node: Any, seconds: float) -> float:
        """The cloud takes it back in so many seconds; returns when that is."""
        from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]  compiled
        from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # pyright: ignore[reportAttributeAccessIssue]  made at run time

        end = time.time() + seconds
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = GcsClient(address=self._cluster.address).drain_node(node.node_id, reason, "spot", int(end * 1000))
        assert accepted, why
        return end


def patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Ray gives a machine half a minute to start, which a busy one needs more of."""

    def get(*given: Any) -> Any:
        deadline = time.monotonic() + START
        while True:
            try:
                return get_node(*given)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    return get


def shut_down(cluster: Any, others: set[psutil.Process]) -> None:
    """End a cluster of this process with all that it has started; others: children of this process from before it."""
    started = set(psutil.Process().children(recursive=True)) - others
    try:
        cluster.shutdown()
    finally:
        for process in psutil.wait_procs(started, 10)[1]:
            process.kill()


def _children(node: Any) -> list[psutil.Process]:
    """What a living raylet has started."""
    try:
        return psutil.Process(node.all_processes["raylet"][0].process.pid).children(recursive=True)
    except (KeyError, psutil.NoSuchProcess):  # a drained machine ends by itself when nothing is left to do
        return []
