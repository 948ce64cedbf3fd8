"""Who belongs to a run: its job, as Ray keeps it, and its processes, as both Ray and the machine that they are on know them.

    Ray's job table   --run folder, remote.uri--> the run's job, its driver
    Ray's actor table --job--> (machine, number, class)           --+
    each machine: its raylet's children, their job, what they do  --+--> targets by kind, oldest first

A process has the id of its job in its environment, unless Ray started it before it knew for whom: then it counts where Ray's table names it
as an actor of the job, and it bears that actor's name. Its number and its start name it from then on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..jobs.secrets import REFERENCES, resolve
from ..run_folder import JOB_REMOTE, JOB_RUN
from .holder import Gone, started_of

ANSWER = 120.0  # seconds for an answer of a machine, which may have to start a process for it
ACTORS = {"RayTrainWorker": "worker", "RolloutActor": "rollout", "Coordinator": "coordinator", "PoolWorker": "data"}
DATA_ACTORS = ("MapWorker", "_MapWorker")  # Ray Data's; what they compute stands behind it
IDLE, NOBODY = "ray::IDLE", "ffffffff"  # what a worker is called without work, and the job of one that was started for any
SHIPPED = ("py_modules", "working_dir", "pip", "uv", "conda")  # of a job's environment: what its code needs


@dataclass(frozen=True)
class Job:
    """A run's job. run_dir: the run folder, on the driver's machine; remote: its copy in S3, or empty; node, address: of that
    machine; words: the driver's command line; runtime_env: what Ray gives its processes.
    """

    job: str
    run_dir: str
    remote: str
    node: str
    address: str
    pid: int
    words: str
    submitted: bool
    runtime_env: Mapping[str, Any]


@dataclass(frozen=True)
class Process:
    """A process of a machine. started: in ticks of that machine; title: what it does; job: it was started for."""

    node: str
    pid: int
    started: int
    title: str
    job: str = NOBODY


def job_of(run: str) -> Job:
    """The job that trains a run: an absolute run folder, or the remote.uri of one. Ray must have been started.

    Raises:
        ValueError: there is none on this cluster.
    """
    from ray._private.state import state  # the one place that has a job's metadata without a dashboard
    from ray.core.generated import gcs_pb2

    accessor = state._connect_and_get_accessor()
    table = accessor.get_job_table(skip_submission_job_info_field=True, skip_is_running_tasks_field=True)
    entries = [gcs_pb2.JobTableData.FromString(entry) for entry in table]  # pyright: ignore[reportAttributeAccessIssue]  made at run time
    runs = [e for e in entries if not e.is_dead and JOB_RUN in e.config.metadata]
    mine = [e for e in runs if run in (e.config.metadata[JOB_RUN], e.config.metadata.get(JOB_REMOTE))]
    if not mine:
        others = ", ".join(sorted({e.config.metadata[JOB_RUN] for e in runs})) or "none"
        raise ValueError(f"run {run!r}: nobody trains it on the cluster at RAY_ADDRESS; runs that are trained there: {others}")
    entry = max(mine, key=lambda e: e.start_time)
    about = entry.config.metadata
    node, address = entry.driver_address.node_id.hex(), entry.driver_address.ip_address
    if node not in living():
        raise ValueError(f"run {run!r}: the machine of its command ({address}) has left the cluster")
    given = json.loads(entry.config.runtime_env_info.serialized_runtime_env or "{}")
    shipped = {name: given[name] for name in SHIPPED if name in given}
    if references := given.get("env_vars", {}).get(REFERENCES):  # where secrets are, which S3 asks for; none of them itself
        shipped["env_vars"] = {REFERENCES: references}
    submitted, remote = "job_submission_id" in about, about.get(JOB_REMOTE, "")
    return Job(entry.job_id.hex(), about[JOB_RUN], remote, node, address, entry.driver_pid, entry.entrypoint, submitted, shipped)


def targets_of(job: Job) -> dict[str, list[Process]]:
    """The processes of a run's job that can be killed or frozen, by kind, oldest first; and its driver."""
    from ray._private.state import actors

    alive = [actor for actor in actors(job_id=ray.JobID.from_hex(job.job)).values() if actor["State"] == "ALIVE"]
    found, _ = everywhere(living(), job, processes_of, job.job, named=True)
    driver = on(job.node, job, driver_of, job.node, job.pid, job.words)
    return sorted_targets(alive, [process for processes in found.values() for process in processes]) | {"driver": driver}


def living() -> list[str]:
    """The machines of the cluster."""
    return [node["NodeID"] for node in ray.nodes() if node["Alive"]]


def sorted_targets(actors: Sequence[Mapping[str, Any]], found: Sequence[Process]) -> dict[str, list[Process]]:
    """Kinds of the processes that machines found: actors by their class as Ray knows it, and what runs tasks, which is data work."""
    classes = {(actor["Address"]["NodeID"], actor["Pid"]): actor["ActorClassName"] for actor in actors}
    targets: dict[str, list[Process]] = {}
    for process in sorted(found, key=lambda p: (p.started, p.node, p.pid)):
        name = classes.get((process.node, process.pid))
        if name is not None:
            kind = _kind(name) if process.title.startswith(f"ray::{name.partition('(')[0]}") else ""
        else:
            kind = "data" if process.job != NOBODY and process.title != IDLE else ""
        if kind:
            targets.setdefault(kind, []).append(process)
    return targets


def _kind(actor: str) -> str:
    return ACTORS.get(actor, "data" if actor.startswith(DATA_ACTORS) else "")


def processes_of(node: str, job: str) -> list[Process]:
    """On a machine: the worker processes of its raylet, whose task this is, that belong to a job, or were started for any."""
    found = []
    for process in psutil.Process(os.getppid()).children():
        try:
            started = started_of(process.pid)
            own = process.environ().get("RAY_JOB_ID")
            if own in (job, NOBODY) and (title := _title(process)).startswith("ray::"):
                found.append(Process(node, process.pid, started, title, own))
        except (Gone, psutil.Error):
            continue  # it has ended meanwhile, or is none of this user's
    return found


def driver_of(node: str, pid: int, words: str) -> list[Process]:
    """On the machine of a driver: its process, if it lives and still has that command line."""
    try:
        started = started_of(pid)
        same = " ".join(psutil.Process(pid).cmdline()) == words
    except (Gone, psutil.Error):
        return []
    return [Process(node, pid, started, "driver")] if same else []


def on(node: str, job: Job, work: Callable[..., Any], *given: Any) -> Any:
    """Have it done on a machine, in a task that takes nothing of it. Raises RayError: the machine has gone, or does not answer."""
    return ray.get(_asked(node, job, work, *given), timeout=ANSWER)


def everywhere(
    nodes: Sequence[str], job: Job, work: Callable[..., Any], *given: Any, named: bool = False
) -> tuple[dict[str, Any], dict[str, str]]:
    """Have it done on these machines: what each gave, and why one gave nothing. named: it is told the machine's id first."""
    found, failed = dict[str, Any](), dict.fromkeys(nodes, "no answer")
    asked = {_asked(node, job, work, *([node] if named else []), *given): node for node in nodes}
    for answer in ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER)[0]:
        node = asked[answer]
        try:
            found[node] = ray.get(answer)
            del failed[node]
        except RayError as error:
            failed[node] = type(error).__name__
    return found, failed


def _asked(node: str, job: Job, work: Callable[..., Any], *given: Any) -> Any:
    options: dict[str, Any] = {
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        "runtime_env": dict(job.runtime_env),
    }
    return ray.remote(_informed).options(num_cpus=0, max_retries=0, name=work.__name__, **options).remote(work, *given)


def _informed(work: Callable[..., Any], *given: Any) -> Any:
    """Work that knows the secrets of the job: its stores may ask for them."""
    resolve()
    return work(*given)


def _title(process: psutil.Process) -> str:
    words = process.cmdline()
    return words[0] if words else ""
