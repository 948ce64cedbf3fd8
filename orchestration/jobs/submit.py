"""Start a run on a cluster after the cluster said that it can start, or go on with one there."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex

from ...datasets.places.store import is_remote
from ..machine import git_state
from ..preflight import in_one_line
from ..runs import configured
from .cluster import Cluster, Seen
from .lock import OF_THE_CLUSTER, needed
from .probe import ASKED, COMMAND, Answer, Asked, answer_in, patience_of
from .spec import JobSpec, next_of, of_metadata, require_root
from .wheel import build_wheel

Say = Callable[[str], None]
NO_RAY = "No module named 'ray'"
BEGIN_S = 900.0  # Ray's own limit for a job to begin, in which the head installs what it needs


@dataclass(frozen=True)
class Wishes:
    """How a job starts. name: of it. install: `auto` installs packages whose locked version the cluster has not, `never`
    refuses such a cluster. grows: the cluster adds machines when they are asked for.
    """

    name: str | None = None
    install: str = "auto"
    grows: bool = False

    def __post_init__(self) -> None:
        if self.install not in ("auto", "never"):
            raise ValueError(f"--install {self.install!r}: choose auto or never")


def submit(cluster: Cluster, spec: JobSpec, wishes: Wishes, say: Say, warn: Say) -> str:
    """Start a run on the cluster; returns the job's name.

    Raises:
        ValueError: a setting is wrong, or the cluster says that the run cannot start: nothing has been started then.
    """
    about = _about(spec)
    job = require_root(wishes.name or f"{spec.recipe}-{datetime.now(UTC):%m%d-%H%M}-{token_hex(2)}")
    jobs = cluster.all()
    if any(seen.job == job for seen in jobs):
        raise ValueError(
            f"--name {job!r}: a job of that name is there already; `mutual-forcing resume {job}` goes on with it, or choose another"
        )
    _require_free(jobs, spec, job)
    return _start(cluster, spec, job, about, wishes, say, warn)


def resume(cluster: Cluster, job: str, wishes: Wishes, say: Say, warn: Say) -> str:
    """Go on with the run of a job that is over, as another job with the same run folder and settings; returns that one's name.

    Raises:
        ValueError: the job still runs, or the cluster says that the run cannot start.
    """
    seen = cluster.look(job)
    if not seen.is_over:
        raise ValueError(f"job {job!r}: it is {seen.status}; `mutual-forcing stop {job}` first")
    spec, jobs = of_metadata(seen.metadata, job), cluster.all()
    _require_free(jobs, spec, job)
    about = _about(spec)
    if (was := seen.metadata.get("git_commit")) and was != about["git_commit"]:
        warn(f"job {job!r} was begun with commit {was[:12]}, this is {about['git_commit'][:12]}; the run still compares its settings")
    spec = replace(spec, out=spec.run_folder(job))
    return _start(cluster, spec, next_of(job, {s.job for s in jobs}), about, wishes, say, warn)


def _require_free(jobs: Iterable[Seen], spec: JobSpec, job: str) -> None:
    """Raises ValueError where a job that is not over has the run folder of this one: it would fail on the lock there, minutes later."""
    folder = spec.run_folder(job)
    for other in jobs:
        if not other.is_over and _folder_of(other) == folder:
            raise ValueError(
                f"job {other.job!r}: it is {other.status} in the same run folder, {folder}; `mutual-forcing stop {other.job}` first"
            )


def _folder_of(seen: Seen) -> str | None:
    """The run folder of a job; None: it is no run of ours, or of a version that knows more."""
    try:
        return of_metadata(seen.metadata, seen.job).run_folder(seen.job)
    except ValueError:
        return None


def _start(cluster: Cluster, spec: JobSpec, job: str, about: dict[str, str], wishes: Wishes, say: Say, warn: Say) -> str:
    with tempfile.TemporaryDirectory(prefix="mf-wheel-") as folder:
        wheel = str(build_wheel(Path(folder)))
        packages = _examined(cluster, spec, job, wheel, wishes, say, warn)
        cluster.submit(job, spec.entrypoint(job), spec.runtime_env(wheel, packages), spec.metadata(about))
    return job


def _examined(cluster: Cluster, spec: JobSpec, job: str, wheel: str, wishes: Wishes, say: Say, warn: Say) -> list[str]:
    """Packages to install there; the cluster has agreed to the run.

    Raises:
        ValueError: it has not; all problems are named.
    """
    pins = {name: version for name, version in needed().items() if name not in OF_THE_CLUSTER}
    answer, packages = _probe(cluster, spec, job, wheel, pins, []), list[str]()
    if answer.differing and not answer.problems:
        packages = [f"{name}=={pins[name]}" for name in answer.differing]
        told = ", ".join(f"{name} {have} (wanted: {pins[name]})" for name, have in list(answer.differing.items())[:6])
        told += f" and {len(packages) - 6} more" if len(packages) > 6 else ""
        if wishes.install == "never":
            raise ValueError(
                f"--install never: the cluster has other versions than the lock: {told}; install those, or let the job (--install auto)"
            )
        say(f"installing {len(packages)} packages of the lock on the cluster: {told}")
        answer = _probe(cluster, spec, job, wheel, pins, packages)
    problems = [
        *answer.problems,
        *(() if wishes.grows else (f"{text}, or pass --grows if machines join when asked for" for text in answer.short)),
    ]
    if answer.differing and not problems:
        problems = [f"the cluster still has other versions than the lock: {', '.join(answer.differing)}; look at its runtime_env logs"]
    for text in [*answer.warnings, *(answer.short if wishes.grows else ())]:
        warn(text)
    if problems:
        raise ValueError(in_one_line(problems))
    say(f"{answer.machines} machines can run it")
    return packages


def _probe(cluster: Cluster, spec: JobSpec, job: str, wheel: str, pins: dict[str, str], packages: list[str]) -> Answer:
    name = f"probe-{job}-{token_hex(3)}"
    seconds = patience_of(bool(packages))
    asked = Asked(spec.recipe, list(spec.settings), spec.media, spec.data, spec.run_folder(job), pins, seconds)
    environment = spec.runtime_env(wheel, packages)
    environment.pop("worker_process_setup_hook", None)  # the probe tells of a secret that cannot be read; the hook would end its workers
    environment["env_vars"] |= {ASKED: json.dumps(asdict(asked)), "RAY_JOB_STOP_WAIT_TIME_S": "3"}
    cluster.submit(name, shlex.join([spec.python, "-c", COMMAND]), environment, {"probe": job})
    try:
        seen = cluster.wait(name, BEGIN_S + seconds)
    except KeyboardInterrupt:
        cluster.stop(name)
        raise
    answer = answer_in(cluster.logs(name)) if seen.status == "SUCCEEDED" else None
    if answer is None:
        logs = [line.strip() for line in cluster.logs(name).splitlines() if line.strip()] or [seen.message]
        if not seen.is_over:
            cluster.stop(name)
        why = " ".join((seen.message if "untime" in seen.message else logs[-1]).split())[-400:]
        if NO_RAY in why or f"{spec.python}: not found" in why:
            raise ValueError(
                f"--python {spec.python!r}: on the head it has no Ray; give the path of the interpreter that Ray runs with there"
            )
        raise ValueError(f"cluster {cluster.address}: it could not examine the run ({seen.status}: {why}); see `ray job logs {name}`")
    cluster.forget(name)
    return answer


def _about(spec: JobSpec) -> dict[str, str]:
    """What the cluster keeps beside a job. Wrong settings are found here, before anything is sent."""
    from ... import __version__

    for option, place in {"--media": spec.media, "--data": spec.data, "--out": spec.out}.items():
        if place and not (place.startswith("/") or (is_remote(place) and option != "--out")):
            raise ValueError(
                f"{option} {place!r}: the cluster reads it, so give an absolute path there{'' if option == '--out' else ', or s3://'}"
            )
    config = configured(spec.recipe, spec.media, list(spec.settings), spec.data)
    code = git_state()
    return {
        "git_commit": str(code["git_commit"]) + ("-dirty" if code["git_dirty"] else ""),
        "config_hash": config.settings(),
        "version": __version__,
    }
