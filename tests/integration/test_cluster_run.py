"""`cluster.yaml` at work: Ray's autoscaler starts its node types on this machine, without GPUs, and the recipe `tiny` is trained there.

Each kind of process comes to nodes of its own, which come when they are asked for, and nobody enters without the token.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from command_material import Running
from launcher_material import HEAD, LaunchedCluster, Places

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PLACED = ("workers.resource=trainer", "rollouts.resource=rollout", "data.pool.resource=data", "data.pool.max_workers=1")
KINDS = {"trainer": "RayTrainWorker", "rollout": "RolloutActor", "data": "Map("}  # in names of processes


def test_each_kind_of_process_comes_to_its_nodes(tmp_path: Path) -> None:
    words = ["train", "tiny", "--out", str(tmp_path / "run"), *(word for setting in PLACED for word in ("--set", setting))]
    with LaunchedCluster() as cluster:
        places = Places(cluster)
        assert [visit(cluster, token) for token in (os.environ["RAY_AUTH_TOKEN"], secrets.token_hex(32))] == ["in", "refused"]
        with Running(*words, environment=cluster.environment) as running:
            running.until(lambda: places.look() or bool(places.on("data")), 300)
            assert not places.most["rollout"], "nobody has asked for these nodes yet"
            running.until(lambda: places.look() or bool(places.on("trainer") and places.on("rollout")), 600)
            while running.ended is None:
                places.look()
            answer = running.said()
    assert answer.code == 0, answer.error
    found = {kind: {role for role, names in places.seen.items() if any(kind in name for name in names)} for kind in KINDS.values()}
    assert found == {kind: {role} for role, kind in KINDS.items()}, places.seen
    assert (places.most[HEAD], places.most["trainer"], places.most["rollout"]) == (1, 2, 2), "as many as were asked for"
    assert places.most["data"] in (1, 2), "there may be two, and two processes are asked for at once in the beginning"


COME = """
import ray
try:
    ray.init(log_to_driver=False)
except Exception as error:
    print("refused", type(error).__name__)
else:
    print("in")
"""


def visit(cluster: LaunchedCluster, token: str) -> str:
    """What happens to one who comes with this token."""
    environment = os.environ | cluster.environment | {"RAY_AUTH_TOKEN": token}
    done = subprocess.run([sys.executable, "-c", COME], env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.stdout, done.stderr
    return done.stdout.split()[0]
