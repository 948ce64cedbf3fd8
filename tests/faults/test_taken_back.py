"""A cloud's notice reaches Ray: the node is drained."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import ray
from cluster_material import Machines
from metadata_service import MetadataService
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from mutual_forcing.orchestration.nodes import spot_notice

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_node_whose_machine_is_taken_back_is_drained() -> None:
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]  compiled

    with Machines(2) as machines, MetadataService() as cloud:
        address = machines.environment["RAY_ADDRESS"]
        victim, other = (node.node_id for node in machines.nodes)
        words = ["--cloud", "aws", "--address", address, "--node-id", victim, "--service", cloud.address]
        watcher = subprocess.Popen([sys.executable, "-m", spot_notice.__name__, *words], stdout=subprocess.PIPE, text=True)
        try:
            while cloud.asked < 2:
                time.sleep(0.1)
            assert watcher.poll() is None, "it watches as long as nothing is said"
            cloud.take_back(120)
            out, _ = watcher.communicate(timeout=200)
        finally:
            watcher.kill()
        assert (watcher.returncode, "Ray has been told" in out) == (0, True), out
        client, deadline = GcsClient(address=address), time.monotonic() + 120
        while alive(client) != {other} and time.monotonic() < deadline:  # an idle one ends when it is drained
            time.sleep(0.5)
        assert alive(client) == {other}


def test_a_pod_that_ends_is_waited_for_only_while_something_runs_in_it() -> None:
    with Machines(2) as machines:
        address = machines.environment["RAY_ADDRESS"]
        idle, busy = (node.node_id for node in machines.nodes)
        ray.init(address, log_to_driver=False)
        try:
            there = NodeAffinitySchedulingStrategy(busy, soft=False)
            actor = Busy.options(num_cpus=0, scheduling_strategy=there).remote()  # one that reserves nothing is something, too
            ray.get(actor.here.remote())
            assert not spot_notice.end_idle(address, busy, 100)
            begun = time.monotonic()
            assert spot_notice.main(["--now", "100", "--address", address, "--node-id", idle]) == 0
            assert time.monotonic() - begun < 60, "not the 100 s that it has"
            assert ray.get(actor.here.remote())
        finally:
            ray.shutdown()


@ray.remote
class Busy:
    def here(self) -> bool:
        return True


def alive(client: object) -> set[str]:
    """Living nodes without the head, which the machines follow."""
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # pyright: ignore[reportAttributeAccessIssue]  made at run time

    nodes = client.get_all_node_info(timeout=30)  # type: ignore[attr-defined]
    return {i.hex() for i, node in nodes.items() if node.state == GcsNodeInfo.ALIVE and not node.is_head_node}
