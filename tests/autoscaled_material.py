"""A Ray cluster whose autoscaler brings machines: each a raylet on this one, started by Ray's provider for tests when there is a demand."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import ray

STORE = 200 * 2**20  # bytes of a machine's object store


class AutoscaledMachines:
    """A context: a head without cores, and machines of the type `trainer`, `most` of them at most, that the autoscaler starts and ends.
    resources: of a machine. `ray.cluster_utils.AutoscalingCluster` would end every Ray process of this machine first.
    """

    def __init__(self, most: int, resources: dict[str, float], idle_minutes: float = 60.0) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._folder = tempfile.TemporaryDirectory(prefix="mf-", ignore_cleanup_errors=True)  # short: sockets lie in it
        self._address = f"{ray.util.get_node_ip_address()}:{port}"
        kinds = {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "trainer": {"resources": resources | {"object_store_memory": STORE}, "node_config": {}, "min_workers": 0, "max_workers": most},
        }
        self._config: dict[str, Any] = {
            "cluster_name": "autoscaled",
            "max_workers": most,
            "upscaling_speed": 100.0,
            "idle_timeout_minutes": idle_minutes,
            # Nodes share an address, and nothing is to be installed on them.
            "provider": {"type": "fake_multinode", "gcs_address": self._address}
            | dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True),
            "available_node_types": kinds,
            "head_node_type": "ray.head.default",
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            **{f"{which}_commands": [] for which in ("initialization", "setup", "head_setup", "worker_setup")},
            **{f"{which}_start_ray_commands": [] for which in ("head", "worker")},
        }
        self._head: subprocess.Popen | None = None

    def __enter__(self) -> AutoscaledMachines:
        config = Path(self._folder.name) / "autoscaler.json"
        config.write_text(json.dumps(self._config))
        ip, _, port = self._address.rpartition(":")
        words = ["ray", "start", "--head", "--block", "--num-cpus=0", "--include-dashboard=false", f"--object-store-memory={STORE}"]
        words += [f"--node-ip-address={ip}", f"--port={port}", f"--autoscaling-config={config}", f"--temp-dir={self._folder.name}"]
        more = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_TMPDIR": self._folder.name}
        environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | more
        words[0] = str(Path(sys.executable).with_name("ray"))
        self._log = (Path(self._folder.name) / "head.txt").open("wb")
        self._head = subprocess.Popen(words, env=environment, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True)
        self._until_it_answers()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._head is not None
        mine = [p for p in psutil.process_iter() if _session(p.pid) == self._head.pid]
        for process in mine:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(mine, 10)
        self._head.wait()
        self._log.close()
        self._folder.cleanup()

    @property
    def environment(self) -> dict[str, str]:
        """What a command needs to find the cluster."""
        return {"RAY_ADDRESS": self._address, "RAY_TMPDIR": self._folder.name}

    def _until_it_answers(self) -> None:
        host, _, port = self._address.rpartition(":")
        end = time.monotonic() + 120
        while True:
            assert self._head is not None
            assert self._head.poll() is None, (Path(self._folder.name) / "head.txt").read_text()
            try:
                return socket.create_connection((host, int(port)), 1).close()
            except OSError:
                assert time.monotonic() < end, (Path(self._folder.name) / "head.txt").read_text()
                time.sleep(0.2)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1
