"""cluster.yaml is what Ray's launcher accepts, and agrees with the pins."""

import copy
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
ROLES = ("trainer", "rollout", "data")


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_launcher_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_launcher_would_refuse_an_unknown_key(cluster: dict[str, Any]) -> None:
    cluster["available_node_types"]["trainer"]["min_worker"] = 1
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        validate_config(prepare_config(cluster))


def test_each_role_has_its_nodes_and_only_trainers_are_kept(cluster: dict[str, Any]) -> None:
    nodes = cluster["available_node_types"]
    assert set(nodes) == {cluster["head_node_type"], *ROLES}
    assert all(nodes[role]["resources"][role] > 0 for role in ROLES)
    assert sum(nodes[role]["max_workers"] for role in ROLES) == cluster["max_workers"]
    spot = {role for role in nodes if nodes[role]["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"}
    assert spot == {"rollout", "data"}


def test_image_holds_the_pinned_ray(cluster: dict[str, Any]) -> None:
    pinned = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert f":{pinned[1]}-py3" in cluster["docker"]["image"]
