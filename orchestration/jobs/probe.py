"""The first job of a submission, on the cluster: would the run start here? Prints one JSON line.

Every machine tells its versions and whether it can read the secrets; the head holds the run against the whole cluster as `train` would.
"""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .lock import differing, installed
from .secrets import resolve

ASKED = "MUTUAL_FORCING_PROBE"
MARK = "mutual-forcing-probe: "
COMMAND = f"from {__name__} import main; main()"  # not a module that is run: what it sends to machines is found by its name
NODE_S = 180.0  # that all machines have for an answer: each installs the wheel and starts a process
SILENT = "look at their load, or take them from the cluster"
INSTALL_S = 600.0  # what Ray gives a machine to install packages


@dataclass(frozen=True)
class Asked:
    """What the probe is asked: a run as `train` takes it, and the versions that it needs. out: of the run; seconds: that machines have
    for an answer.
    """

    recipe: str
    settings: list[str]
    media: str | None
    data: str | None
    out: str
    pins: Mapping[str, str]
    seconds: float = NODE_S


@dataclass(frozen=True)
class Answer:
    """problems, warnings: of the run on this cluster, each a line; short: what it reserves at least and the cluster lacks; differing:
    packages whose locked version some machine has not, with what it has; machines: how many answered.
    """

    problems: list[str]
    warnings: list[str]
    short: list[str]
    differing: dict[str, str]
    machines: int

    def line(self) -> str:
        return MARK + json.dumps(asdict(self))


def patience_of(installs: bool) -> float:
    """Seconds that all machines have for an answer. installs: packages are installed on each first."""
    return NODE_S + (INSTALL_S if installs else 0.0)


def answer_in(logs: str) -> Answer | None:
    """What a probe printed, if it did."""
    for line in reversed(logs.splitlines()):
        if line.startswith(MARK):
            return Answer(**json.loads(line.removeprefix(MARK)))
    return None


def look(asked: Asked) -> Answer:
    """Ask the cluster that this process is connected to. Where versions differ nothing else is asked: imports may fail."""
    import ray

    machines, silent = _of_machines(asked.pins, asked.seconds)
    problems = [f"machine {name}: {what}" for name, found in machines.items() for what in found["problems"]]
    if silent:
        problems.append(f"{len(silent)} machines did not answer within {asked.seconds:.0f} s ({', '.join(silent)}); {SILENT}")
    other = {name: have for found in machines.values() for name, have in found["differing"].items()}
    if other or problems:
        return Answer(problems, [], [], other, len(machines))
    from ..preflight import awaited, examine, short_of
    from ..runs import configured

    try:
        config = configured(asked.recipe, asked.media, asked.settings, asked.data)
        findings = examine(config, Path(asked.out).expanduser())
    except ValueError as error:
        return Answer([str(error)], [], [], {}, len(machines))
    said = {kind: [f.text for f in findings if f.kind == kind] for kind in ("problem", "warning")}
    have = ray.cluster_resources()
    short = short_of(config, have, fewest=True)
    return Answer(said["problem"], [*said["warning"], *(() if short else awaited(config, have))], short, {}, len(machines))


def _of_machines(pins: Mapping[str, str], seconds: float) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What every machine of the cluster says of itself, by its address; and those that have not answered in time."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(_myself)
    waiting = {}
    for node in ray.nodes():
        if node["Alive"]:
            name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            waiting[name] = ask.options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(dict(pins), platform.python_version())
    return answers_of(waiting, seconds)


def answers_of(waiting: Mapping[str, Any], seconds: float) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What was answered, by name, and who is silent. waiting: Ray's references; seconds: that all of them have together."""
    import ray

    ready = set(ray.wait(list(waiting.values()), num_returns=len(waiting), timeout=seconds)[0])
    found = {}
    for name, ref in waiting.items():
        if ref not in ready:
            continue
        try:
            found[name] = ray.get(ref)
        except Exception as error:  # noqa: BLE001  of whatever kind: that machine cannot run the job
            found[name] = {"problems": [f"cannot run the job ({' '.join(str(error).split())[-300:]})"], "differing": {}}
    return found, [name for name in waiting if name not in found]


def _myself(pins: dict[str, str], python: str) -> dict[str, Any]:
    problems = []
    if (mine := platform.python_version()) != python:
        problems.append(f"Python {mine}, the head has {python}; use one image for all machines")
    try:
        resolve()
    except ValueError as error:
        problems.append(str(error))
    return {"problems": problems, "differing": differing(pins, installed(pins))}


def main() -> None:
    """The command of the job."""
    resolve()
    import ray

    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        answer = look(Asked(**json.loads(os.environ[ASKED])))
    finally:
        ray.shutdown()
    print(answer.line(), flush=True)
