"""What a job is: its command, its environment, and what it says of itself. Pure; the cluster keeps it as text."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .secrets import as_variable

VERSION = 1
KEY = "mutual-forcing"  # of the metadata that makes a job ours
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
HOOK = "mutual_forcing.orchestration.jobs.secrets.resolve"


@dataclass(frozen=True)
class JobSpec:
    """recipe, settings, media, data: as for `train`. out: run folder on the cluster's head. env: plain variables; secrets: references.
    restarts: of a driver that a signal ended; stop_s: what a stop waits for a checkpoint. tag: the user's own word for it.
    python: the interpreter that has Ray, as a shell on the head finds it.
    """

    recipe: str
    settings: tuple[str, ...] = ()
    media: str | None = None
    data: str | None = None
    out: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    restarts: int = 5
    stop_s: int = 600
    tag: str = ""
    python: str = "python"
    version: int = VERSION

    def run_folder(self, job: str) -> str:
        """A path on the head: one that a later job of the same name finds again."""
        return self.out or f"~/mutual-forcing/runs/{root_of(job)}"

    def arguments(self, job: str) -> list[str]:
        """Of `mutual-forcing train`."""
        given = [("--out", self.run_folder(job)), ("--media", self.media), ("--data", self.data)]
        options = [word for name, value in given if value for word in (name, value)]
        return ["train", self.recipe, *options, *(word for text in self.settings for word in ("--set", text))]

    def entrypoint(self, job: str) -> str:
        """The command of the job, which a shell reads."""
        entry = [self.python, "-m", "mutual_forcing.orchestration.jobs.entry", "--restarts", str(self.restarts), "--", *self.arguments(job)]
        return shlex.join(entry)

    def runtime_env(self, wheel: str, packages: list[str]) -> dict[str, Any]:
        """Ray's environment of the job. packages: pins that the cluster has not; none: as its machines are."""
        of_ray = {"RAY_JOB_STOP_WAIT_TIME_S": str(self.stop_s), "RAY_TRAIN_V2_ENABLED": "1"}
        made: dict[str, Any] = {"py_modules": [wheel], "env_vars": {**of_ray, **self.env, **as_variable(self.secrets)}}
        if self.secrets:
            made["worker_process_setup_hook"] = HOOK
        if packages:
            made["pip"] = {"packages": packages, "pip_check": False}
        return made

    def metadata(self, about: Mapping[str, str]) -> dict[str, str]:
        """What the cluster keeps beside the job: texts alone. about: commit, hash of the settings and the like."""
        return {**about, "recipe": self.recipe, "tag": self.tag, KEY: json.dumps(asdict(self))}


def of_metadata(metadata: Mapping[str, str] | None, job: str) -> JobSpec:
    """The job that left this.

    Raises:
        ValueError: it is none of ours, or of a version of this package that knows more.
    """
    try:
        held = json.loads((metadata or {})[KEY])
        if held["version"] > VERSION:
            raise ValueError(f"job {job!r}: was submitted by a newer version of this package ({held['version']} > {VERSION}); upgrade")
        return replace(JobSpec(**held), settings=tuple(held["settings"]))
    except KeyError:
        raise ValueError(f"job {job!r}: was not submitted by `mutual-forcing submit`; use Ray's own `ray job`") from None
    except (TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"job {job!r}: what it says of itself cannot be read ({error}); submit the run again") from error


def require_id(job: str) -> str:
    """Raises ValueError where it is no name of a job: it goes into addresses and paths."""
    if not ID.fullmatch(job):
        raise ValueError(f"job {job[:100]!r}: use letters, digits, '.', '_' and '-', 100 at most, a letter or digit first")
    return job


def require_root(job: str) -> str:
    """Raises ValueError where it is no name for a first job: `.2` and the like are of continuations, which share its run folder."""
    if root_of(require_id(job)) != job:
        raise ValueError(
            f"--name {job!r}: ends as the continuations do that `resume` makes, and would share the run folder of {root_of(job)!r}; "
            f"give another, such as {job.replace('.', '-')!r}"
        )
    return job


def root_of(job: str) -> str:
    """The name that a job and its continuations share: `mine` of `mine.2`."""
    return re.sub(r"\.\d+$", "", job)


def next_of(job: str, taken: set[str]) -> str:
    """The name of the next continuation."""
    root, number = root_of(job), 2
    while f"{root}.{number}" in taken:
        number += 1
    return f"{root}.{number}"
