"""The cluster of `cluster.yaml` on this machine, scaled down and without GPUs: the autoscaler of Ray starts its node types.

cluster.yaml --fewer cores, fewer places--> autoscaler --fake provider--> a raylet a node, with the type's resources and labels
"""

from __future__ import annotations

import json
import re
import socket
import tempfile
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from cluster_material import shut_down

FILE = Path(__file__).parents[1] / "cluster.yaml"
STORE = 200 * 2**20  # bytes of a node's object store
HEAD, FAKE_HEAD = "head", "ray.head.default"  # the latter: what the fake provider calls it, whatever the file says


def scaled(cluster: dict[str, Any], address: str, most: int = 2) -> dict[str, Any]:
    """What Ray's autoscaler is given. A type keeps name, kinds of resources, labels and fewest nodes; a node has one place of each kind."""
    types, head = {}, cluster["head_node_type"]
    for name, node in cluster["available_node_types"].items():
        resources = {kind: 0 if kind == "GPU" else min(1, amount) for kind, amount in node["resources"].items()}
        types[FAKE_HEAD if name == head else name] = {
            "node_config": {},
            "resources": resources | {"object_store_memory": STORE},
            "labels": node.get("labels", {}),
            "min_workers": node.get("min_workers", 0),
            "max_workers": min(most, node.get("max_workers", 0)),
        }
    return {
        "cluster_name": cluster["cluster_name"],
        "max_workers": sum(node["max_workers"] for node in types.values()),
        "upscaling_speed": cluster["upscaling_speed"],
        "idle_timeout_minutes": cluster["idle_timeout_minutes"],
        # The fake provider's nodes share an address, and there is nothing to install on them.
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": FAKE_HEAD,
        "available_node_types": types,
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": [],
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "auth": {},
    }


class LaunchedCluster:
    """A context: the head, without cores, and what the autoscaler starts as it is asked for."""

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()
        self._folder = tempfile.TemporaryDirectory(prefix="mf-", ignore_cleanup_errors=True)  # short: sockets lie in it
        self._cluster: Any = None
        self._others: set[psutil.Process] = set()

    def __enter__(self) -> LaunchedCluster:
        from ray._private.services import get_node_ip_address  # slow to import
        from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
        from ray.cluster_utils import Cluster

        self._others = set(psutil.Process().children(recursive=True))
        for name, value in {"RAY_TMPDIR": self._folder.name, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}.items():
            self._patch.setenv(name, value)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = scaled(yaml.safe_load(FILE.read_text()), f"{get_node_ip_address()}:{port}")
        path = Path(self._folder.name) / "autoscaling.yaml"
        path.write_text(json.dumps(config))
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "gcs_server_port": port,
                "include_dashboard": False,
                "object_store_memory": STORE,
                "autoscaling_config": str(path),
                "env_vars": {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID, "RAY_NODE_TYPE_NAME": FAKE_HEAD},
            },
        )
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

    def nodes(self) -> list[tuple[str, psutil.Process]]:
        """Each raylet, with the type of its node: of its label, or the head."""
        found = {}
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it has ended between the list and the question
                words = process.cmdline()
                if words and Path(words[0]).name == "raylet":
                    role = re.search(r'"mutual-forcing/role": ?"(\w+)"', " ".join(words))
                    found[process.pid] = (role[1] if role else HEAD, process, process.ppid())
        # What a raylet forks looks like itself until it is another program.
        return [(role, process) for role, process, parent in found.values() if parent not in found]


class Places:
    """Which processes of Ray were seen on nodes of which type. most: nodes of a type at one time."""

    def __init__(self, cluster: LaunchedCluster) -> None:
        self._cluster = cluster
        self.seen: dict[str, set[str]] = defaultdict(set)
        self.most: Counter[str] = Counter()

    def look(self) -> bool:
        """Always False: what waits asks again."""
        nodes = self._cluster.nodes()
        self.most |= Counter(role for role, _ in nodes)
        for role, raylet in nodes:
            for process in _children(raylet):
                with suppress(psutil.Error):  # it has ended between the list and the question
                    if (name := process.name()).startswith("ray::"):
                        self.seen[role].add(name)
        return False

    def on(self, role: str) -> set[str]:
        """Names of processes that do something."""
        return {name for name in self.seen[role] if name != "ray::IDLE"}


def _children(raylet: psutil.Process) -> list[psutil.Process]:
    try:
        return raylet.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
