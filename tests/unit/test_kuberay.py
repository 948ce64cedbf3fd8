"""deploy/kuberay holds what KubeRay and Kubernetes accept, the same nodes as cluster.yaml, and no secret."""

from __future__ import annotations

import copy
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kuberay_material import SCHEMAS
from typer.testing import CliRunner

from mutual_forcing import __version__
from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.nodes import spot_notice
from mutual_forcing.orchestration.recipes import recipe

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kuberay"
KUBERNETES = "1.33"


def documents(name: str) -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all((FOLDER / name).read_text())}


@pytest.fixture
def cluster() -> dict[str, Any]:
    return documents("raycluster.yaml")["RayCluster"]


@pytest.fixture
def job() -> dict[str, Any]:
    return documents("rayjob.yaml")["RayJob"]


def groups(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = cluster["spec"]
    return {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}


def test_kuberay_accepts_them(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    for document in (cluster, job):
        jsonschema.validate(document, SCHEMAS[document["kind"]])
    whole = copy.deepcopy(job)  # as the head of rayjob.yaml describes it
    del whole["spec"]["clusterSelector"]
    whole["spec"] |= {"rayClusterSpec": cluster["spec"], "shutdownAfterJobFinishes": True}
    jsonschema.validate(whole, SCHEMAS["RayJob"])


def test_a_job_that_is_deleted_has_time_for_a_checkpoint(job: dict[str, Any]) -> None:
    """Ray sends SIGTERM, and three seconds later SIGKILL where nobody gives it more."""
    assert int(yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 600


def test_kubernetes_accepts_pods_and_all_else(cluster: dict[str, Any]) -> None:
    for name, group in groups(cluster).items():
        pod = {"apiVersion": "v1", "kind": "Pod", **group["template"]}
        pod["metadata"] = {"name": name, **pod["metadata"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        mounted = {mount["name"] for mount in pod["spec"]["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
    others = [document for kind, document in documents("raycluster.yaml").items() if kind != "RayCluster"]
    assert [document["kind"] for document in others] == ["ServiceAccount", "NetworkPolicy"]
    for document in others:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("where", ["spec", "head", "worker", "pod"])
def test_a_field_that_there_is_not_would_be_refused(cluster: dict[str, Any], where: str) -> None:
    spec = cluster["spec"]
    places = {"spec": spec, "head": spec["headGroupSpec"], "worker": spec["workerGroupSpecs"][0]}
    if where == "pod":
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec["headGroupSpec"]["template"]["spec"]}
        pod["spec"]["containers"][0]["imagePullPolcy"] = "Always"
        with pytest.raises(jsonschema.ValidationError, match="imagePullPolcy"):
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        return
    places[where]["replica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(cluster, SCHEMAS["RayCluster"])


def test_nodes_are_those_of_the_launcher(cluster: dict[str, Any]) -> None:
    launcher = yaml.safe_load((ROOT / "cluster.yaml").read_text())["available_node_types"]
    assert set(groups(cluster)) == set(launcher)
    for name, group in groups(cluster).items():
        node = launcher[name]
        assert {kind: int(amount) for kind, amount in group["resources"].items()} == node["resources"]
        assert group.get("labels", {}) == node.get("labels", {})
        if name != "head":
            assert (group["minReplicas"], group["maxReplicas"]) == (node["min_workers"], node["max_workers"])
            selector = group["template"]["spec"]["nodeSelector"]
            assert selector["node.kubernetes.io/instance-type"] == node["node_config"]["InstanceType"]
            assert (selector["karpenter.sh/capacity-type"] == "spot") == ("InstanceMarketOptions" in node["node_config"])
        asked = group["template"]["spec"]["containers"][0]["resources"]["requests"]
        assert int(asked.get("nvidia.com/gpu", 0)) == node["resources"]["GPU"]


def test_versions_are_those_of_the_pins_and_of_this_package(cluster: dict[str, Any]) -> None:
    assert f"ray=={cluster['spec']['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    images = {group["template"]["spec"]["containers"][0]["image"] for group in groups(cluster).values()}
    assert {image.rpartition(":")[2] for image in images} == {f"{__version__}-cuda"}


def test_pods_have_few_rights_and_are_drained_before_they_go(cluster: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    for name, group in groups(cluster).items():
        spec = group["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        (container,) = spec["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        if name == "head":
            continue
        assert spec["automountServiceAccountToken"] is False
        python, dash_m, module, *words = container["lifecycle"]["preStop"]["exec"]["command"]
        assert (python, dash_m, module) == ("python", "-m", spot_notice.__name__)
        assert float(words[words.index("--now") + 1]) < spec["terminationGracePeriodSeconds"]
        with pytest.raises(SystemExit):  # by --help, after all other words were read
            spot_notice.main([*words, "--help"])
    assert "usage" in capsys.readouterr().out


def test_the_token_is_a_secret_that_stands_elsewhere(cluster: dict[str, Any]) -> None:
    assert cluster["spec"]["authOptions"] == {"mode": "token", "secretName": "mutual-forcing-ray"}
    for path in FOLDER.iterdir():
        assert "kind: Secret" not in path.read_text()
        assert not re.search(r"AKIA|aws_secret|AWS_(ACCESS|SECRET)|password|[0-9a-f]{32}", path.read_text(), re.IGNORECASE)


def test_the_job_is_a_command_that_there_is_for_nodes_that_there_are(cluster: dict[str, Any], job: dict[str, Any]) -> None:
    program, verb, name, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, verb) == ("mutual-forcing", "train")
    settings = [value for option, value in pairwise(words) if option == "--set"]
    config = with_settings(recipe(name), settings)
    roles = {config.workers.resource, config.rollouts.resource, config.data.pool.resource}
    assert roles == {group["groupName"] for group in cluster["spec"]["workerGroupSpecs"]}
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    known = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).output
    assert all(option in known for option in words if option.startswith("--"))
