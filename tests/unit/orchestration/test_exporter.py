"""What Prometheus gets, and the dashboard that asks for it: both name the same metrics, and Ray's agent serves them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter as Counted
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ray.util.metrics import Counter, Histogram

from mutual_forcing.orchestration import exporter
from mutual_forcing.orchestration.exporter import GAUGES, ChangeExporter, Exporter

DASHBOARD = json.loads((Path(exporter.__file__).parent / "grafana.json").read_text(encoding="utf-8"))
STEP = {
    **dict.fromkeys(GAUGES, 2.0),
    **{"loss": 1.0, "loss/fm_video": 0.5, "dmd": 0.1, "loss/fake": 0.2, "share/fm": 0.4, "age/0": 3.0, "age/2": 1.0, "skipped": 0.5},
    **{"step_s": 0.25, "data_wait_s": 0.01, "rollout_wait_s": 0.02, "checkpoint_s": 0.0},
}
SUFFIXES = {Counter: ("_total",), Histogram: ("_bucket", "_sum", "_count")}
AGENT = ("opencensus", "prometheus_client", "aiohttp_cors", "grpc")  # what ray[default] brings


def served(*metrics: Exporter | ChangeExporter) -> dict[str, set[str]]:
    """The names under which Ray's agent serves them, with their labels."""
    info = [(type(m), m.info) for each in metrics for m in each.metrics()]
    return {f"ray_{i['name']}{suffix}": {*i["tag_keys"], "le"} for kind, i in info for suffix in SUFFIXES.get(kind, ("",))}


def queries(node: Any) -> list[str]:
    """All that the dashboard asks, of panels and of variables."""
    if isinstance(node, dict):
        own = [node[key] for key in ("expr", "definition") if key in node]
        return own + [q for value in node.values() for q in queries(value)]
    return [q for value in node for q in queries(value)] if isinstance(node, list) else []


def test_the_dashboard_asks_for_what_is_exported_and_for_all_of_it() -> None:
    names = served(Exporter("demo", 0), ChangeExporter("demo"))
    asked = {name for query in queries(DASHBOARD) for name in re.findall(r"ray_\w+", query)}
    assert asked == set(names)


def test_every_label_that_the_dashboard_asks_for_is_there() -> None:
    names = served(Exporter("demo", 0), ChangeExporter("demo"))
    for query in queries(DASHBOARD):
        labels = {label for inside in re.findall(r"\{(.*?)\}", query) for label in re.findall(r'(\w+)(?:=~|!=|=)"', inside)}
        labels |= {label.strip() for inside in re.findall(r"by \((.*?)\)", query) for label in inside.split(",")}
        for name in re.findall(r"ray_\w+", query):
            assert labels <= names[name], query
        assert query.count("(") == query.count(")")


def test_the_parts_that_the_dashboard_names_are_those_of_the_counter() -> None:
    named = {part for query in queries(DASHBOARD) if "spent" in query for part in re.findall(r'part="(\w+)"', query)}
    assert named == set(exporter.SPENT.values())


def test_grafana_can_import_it() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["title"]
    assert "id" not in DASHBOARD, "an id is Grafana's to give"
    variables = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    used = {name for query in queries(DASHBOARD["panels"]) for name in re.findall(r"\$(\w+)", query)} - {"__rate_interval"}
    assert used <= set(variables)
    taken: Counted[tuple[int, int]] = Counted()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        taken.update((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"]))
        assert at["x"] + at["w"] <= 24
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
    assert max(taken.values()) == 1, "no panel lies on another"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


class Records:
    """What a metric of Ray was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: list[float]) -> None:
        self.given: list[tuple[str, float, dict[str, str]]] = []
        monkeypatch.setattr(exporter.Metric, "_record", lambda m, value, tags: self.given.append((m.info["name"], value, tags)))
        monkeypatch.setattr(exporter.time, "monotonic", lambda: now[0])

    def of(self, name: str, **tags: str) -> list[float]:
        return [v for n, v, t in self.given if n == f"mutual_forcing_{name}" and tags.items() <= t.items()]


def test_counters_miss_no_step_and_gauges_are_set_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    records = Records(monkeypatch, now)
    export = Exporter("demo", 2)
    plain = {name: value for name, value in STEP.items() if name != "comm_s" and not name.startswith("share/")}
    for step in range(4):
        export("joint", step, plain | {"grad_norm": float("nan")})
        now[0] += 0.4
    assert records.of("step_seconds") == [0.25] * 4
    assert records.of("spent_seconds", part="data_wait") == [0.01] * 4
    assert records.of("spent_seconds", part="checkpoint") == [], "nothing was spent"
    assert records.of("skipped_steps") == [1.0] * 4, "a step that any rank skipped is one"
    assert records.of("step") == [1.0, 4.0]
    assert records.of("restarts", run="demo", stage="joint") == [2.0, 2.0]
    assert records.of("rollout_age_steps", bound="lowest") == [0.0, 0.0]
    assert records.of("rollout_age_steps", bound="highest") == [2.0, 2.0]
    assert records.of("loss", part="sum") == [1.0, 1.0]
    assert records.of("loss", part="fm_video") == [0.5, 0.5]
    assert records.of("grad_norm") == [], "not a number is no gauge's value"
    export("joint", 4, STEP)
    assert records.of("communication_seconds") == [2.0], "a metered step comes seldom, and is never left out"
    assert records.of("step_share", part="fm") == [0.4]


def test_a_change_is_counted_and_the_number_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    records = Records(monkeypatch, [0.0])
    export = ChangeExporter("demo")
    export.show("nodes", 3)
    export.changed("workers", 2)
    assert records.of("size", run="demo", kind="nodes") == [3.0]
    assert records.of("size", run="demo", kind="workers") == [2.0]
    assert (records.of("changes"), records.of("changes", kind="workers")) == ([1.0], [1.0])


def test_without_a_session_of_ray_it_is_silent() -> None:
    code = f"from mutual_forcing.orchestration.exporter import Exporter\nExporter('demo', 0)('joint', 0, {STEP!r})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


SESSION = """
import logging, sys, time
import ray
ray.init(num_cpus=1, include_dashboard=False, _metrics_export_port=int(sys.argv[1]), logging_level=logging.ERROR)
@ray.remote
class Worker:
    def train(self, step):
        from mutual_forcing.orchestration.exporter import Exporter
        self.export = Exporter("demo", 1)
        self.export("joint", 0, step)
worker = Worker.remote()
ray.get(worker.train.remote({step!r}))
print("ready", flush=True)
time.sleep(120)
"""


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, AGENT)), reason="Ray's metrics agent comes with ray[default], which is not installed")
def test_the_agent_of_ray_serves_all_of_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = SESSION.replace("{step!r}", repr(STEP))
    with subprocess.Popen(
        [sys.executable, "-c", code, str(port)], stdout=subprocess.PIPE, env=os.environ | {"RAY_ADDRESS": "local"}
    ) as session:
        try:
            assert session.stdout is not None
            assert session.stdout.readline() == b"ready\n"
            names, end = set[str](), time.monotonic() + 60
            wanted = set(served(Exporter("demo", 0)))
            while wanted - names and time.monotonic() < end:
                time.sleep(1.0)
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                        text = page.read().decode()
                except urllib.error.URLError:
                    continue
                lines = [line for line in text.splitlines() if 'run="demo"' in line and 'stage="joint"' in line]
                names = {line.partition("{")[0] for line in lines}
        finally:
            session.terminate()
    assert names == wanted
