"""What is done with jobs that are there: look at them, stop them. Imports nothing of a run's."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .cluster import Cluster, Seen
from .spec import of_metadata

GRACE_S = 30  # seconds that Ray itself takes to tell that a job has ended


def stop(cluster: Cluster, job: str, seconds: float | None, say: Callable[[str], None]) -> Seen:
    """End a job; its training has a checkpoint written first. Returns how it is when it is over, or when the time is.

    Raises:
        ValueError: it is over already, or did not end in time.
    """
    seen = cluster.look(job)
    if seen.is_over:
        raise ValueError(f"job {job!r}: it is {seen.status} already")
    patience = (of_metadata(seen.metadata, job).stop_s if seconds is None else seconds) + GRACE_S
    cluster.stop(job)
    say(f"asked {job} to stop; it writes a checkpoint first (at most {patience:.0f} s)")
    seen = cluster.wait(job, patience)
    if not seen.is_over:
        raise ValueError(f"job {job!r}: it has not ended after {patience:.0f} s; look at `mutual-forcing logs {job}`")
    return seen


def described(seen: Seen, now: float | None = None) -> dict[str, Any]:
    """A job for people and scripts, by what the cluster's list has of it."""
    end = seen.ended or now or time.time()
    record: dict[str, Any] = {"job": seen.job, "status": seen.status, "seconds": round(end - seen.began) if seen.began else None}
    try:
        spec = of_metadata(seen.metadata, seen.job)
        record |= {"recipe": spec.recipe, "run": spec.run_folder(seen.job), "tag": spec.tag}
    except ValueError:
        record |= {"recipe": None, "run": None, "tag": ""}
    record |= {name: seen.metadata.get(name) for name in ("config_hash", "git_commit", "version")}
    return record | {"message": " ".join(seen.message.split())[-400:], "exit_code": seen.exit_code}


def last_line(cluster: Cluster, job: str) -> str | None:
    """What a job printed last; its whole log travels for it."""
    try:
        lines = [line for line in cluster.logs(job).splitlines() if line.strip()]
    except ValueError as error:
        return f"(its log cannot be read: {error})"[:300]
    return lines[-1][:300] if lines else None
