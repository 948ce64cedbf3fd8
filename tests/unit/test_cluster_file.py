"""cluster.yaml is what Ray's launcher accepts, agrees with the pins and with the settings it names, and holds no secret.

`tests/integration/test_cluster_run.py` trains on its node types.
"""

import copy
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.nodes import spot_notice
from mutual_forcing.orchestration.preflight import reserved
from mutual_forcing.orchestration.recipes import recipe

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


def test_nodes_have_what_the_image_has(cluster: dict[str, Any]) -> None:
    """The wheel with the extras of deploy/Dockerfile, and a compiler."""
    image = (ROOT / "deploy" / "Dockerfile").read_text()
    extras = re.search(r"^ARG EXTRAS=(\S+)$", image, re.MULTILINE)
    assert extras is not None
    compiler, install = cluster["setup_commands"]
    assert f'mutual_forcing-*.whl)[{extras[1]}]"' in install
    assert "--constraint ~/mutual-forcing/constraints.txt" in install
    assert "g++" in compiler
    assert "g++" in image


def ray_starts(cluster: dict[str, Any], kind: str) -> dict[str, Any]:
    """Options of the one `ray start` among a kind of node's commands, as Ray's own command line reads them."""
    from ray.scripts.scripts import start  # slow to import

    (line,) = (line for line in cluster[f"{kind}_start_ray_commands"] if "ray start" in line)
    words = shlex.split(line[line.index("ray start") :])[2:]
    return start.make_context("ray start", words, resilient_parsing=False).params


def test_nodes_are_started_with_options_that_this_ray_has(cluster: dict[str, Any]) -> None:
    head, worker = ray_starts(cluster, "head"), ray_starts(cluster, "worker")
    assert head["dashboard_host"] == "127.0.0.1", "the dashboard runs what it is sent: it answers on the head alone"
    assert head["head"]
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"
    for options in (head, worker):
        assert options["metrics_export_port"] == 8080
        assert [options["temp_dir"], options["object_spilling_directory"]] == ["/mnt/ray", "/mnt/ray/spill"]


def commands(cluster: dict[str, Any]) -> list[str]:
    return [line for key, lines in cluster.items() if key.endswith("_commands") for line in lines]


def test_commands_are_what_a_shell_can_read(cluster: dict[str, Any]) -> None:
    assert len(commands(cluster)) >= 8
    for line in commands(cluster):
        subprocess.run(["bash", "-n", "-c", f"true && ({line})"], check=True)  # as the launcher wraps it


def test_spot_machines_pass_their_notice_on(cluster: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = (line for line in cluster["worker_start_ray_commands"] if "--cloud" in line)
    module, words = re.search(r"python -m (\S+) (.*?)>>", line, re.DOTALL).groups()  # type: ignore[union-attr]
    assert module == spot_notice.__name__
    with pytest.raises(SystemExit):  # by --help, after all other words were read
        spot_notice.main([*shlex.split(words), "--help"])
    assert "usage" in capsys.readouterr().out
    assert f"--cloud {cluster['provider']['type']}" in line


def test_the_token_reaches_all_nodes_and_stands_nowhere(cluster: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token", "where Ray looks for it, and where it writes it"
    text = (ROOT / "cluster.yaml").read_text()
    assert not re.search(r"RAY_AUTH_TOKEN|AKIA|aws_secret|AWS_(ACCESS|SECRET)|password|[0-9a-f]{32}", text, re.IGNORECASE)
    assert all(node["node_config"]["IamInstanceProfile"]["Name"] for node in cluster["available_node_types"].values())


def test_what_the_head_of_the_file_says_to_set_fits_the_nodes(cluster: dict[str, Any]) -> None:
    settings = re.findall(r"--set (\S+)", (ROOT / "cluster.yaml").read_text())
    config = with_settings(recipe("tiny"), settings)
    nodes = {name: node["resources"] for name, node in cluster["available_node_types"].items()}
    for role, one in (
        ("trainer", reserved(config.workers)),
        ("rollout", {"GPU": config.rollouts.gpus, config.rollouts.resource: 1}),
        ("data", {"CPU": 1, config.data.pool.resource: 1}),
    ):
        places = nodes[role][role]
        assert all(places * amount <= nodes[role].get(kind, 0) for kind, amount in one.items()), (role, one)
        assert [name for name, has in nodes.items() if role in has] == [role]
    assert nodes["head"] == {"CPU": 0, "GPU": 0}, "no task comes to the head"
    assert config.data.pool.max_workers <= nodes["data"]["data"] * cluster["available_node_types"]["data"]["max_workers"]
