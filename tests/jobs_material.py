"""A Ray cluster with its dashboard and a token, as `submit` finds one: a head without cores, and machines of two."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_material import NOTICED, STORE, patient, shut_down
from command_material import Said, command


class JobCluster:
    """A context. environment: of the cluster's machines, beside that of the tests; resources: of each machine.

    Raylets are children of this process, as in `cluster_material.Machines`; the driver of a job is a process of its own on the head.
    """

    def __init__(self, machines: list[dict[str, float]], environment: Mapping[str, str] | None = None) -> None:
        self._machines, self._environment = machines, environment or {}
        self._patch = pytest.MonkeyPatch()
        self._folder = tempfile.TemporaryDirectory(prefix="mf-", ignore_cleanup_errors=True)  # short: sockets lie in it
        self._cluster: Any = None
        self._others: set[psutil.Process] = set()
        self.address = ""

    def __enter__(self) -> JobCluster:
        from ray._private import services  # slow to import, as the next
        from ray.cluster_utils import Cluster

        self._patch.setattr(services, "get_node", patient(services.get_node))
        self._others = set(psutil.Process().children(recursive=True))
        token = Path(self._folder.name) / "token"
        token.write_text(secrets.token_hex(32))
        # `python` is the one of the tests, as on a machine whose environment is active; the token is in a file, as on real ones.
        active = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for name, value in {
            "PATH": active,
            "RAY_TMPDIR": self._folder.name,
            "RAY_AUTH_TOKEN_PATH": str(token),
            **self._environment,
        }.items():
            self._patch.setenv(name, value)
        self._patch.delenv("RAY_AUTH_TOKEN", raising=False)
        _token_again()
        port, agent = free_port(), free_port()
        head = {
            "num_cpus": 0,
            "include_dashboard": True,
            "dashboard_port": port,
            "dashboard_agent_listen_port": agent,  # clusters of other tests may have the usual one
            "object_store_memory": STORE,
            "_system_config": NOTICED,
        }
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address = f"http://127.0.0.1:{port}"
        for resources in self._machines:
            self._cluster.add_node(num_cpus=2, resources=resources, object_store_memory=STORE)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            shut_down(self._cluster, self._others)
        finally:
            self._patch.undo()
            _token_again()
            self._folder.cleanup()

    @property
    def gcs(self) -> str:
        """What RAY_ADDRESS is on the cluster."""
        return self._cluster.address

    @property
    def inside(self) -> dict[str, str]:
        """The environment of a command on the cluster's own machines."""
        return {"RAY_ADDRESS": self.gcs, "RAY_TMPDIR": self._folder.name}

    @property
    def folder(self) -> Path:
        """Where Ray's logs are."""
        return Path(self._folder.name)

    def verb(self, *words: str, seconds: float = 600, environment: dict[str, str] | None = None) -> Said:
        """A command of this package against the cluster, from outside."""
        return command(*words, "--address", self.address, seconds=seconds, environment=environment)


def _token_again() -> None:
    """Ray keeps the token that it has read once."""
    from ray._raylet import AuthenticationTokenLoader  # pyright: ignore[reportAttributeAccessIssue]  compiled

    AuthenticationTokenLoader.instance().reset_cache()


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
