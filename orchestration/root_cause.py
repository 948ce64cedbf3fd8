"""What failed inside the wrappers that Ray puts around it."""

from __future__ import annotations


def root_cause(error: BaseException) -> BaseException:
    """The exception inside the wrappers that Ray puts around what a task, an actor or a train worker raised."""
    if not type(error).__module__.startswith("ray"):
        return error
    failures = error.__dict__.get("worker_failures") or {}
    inner = next(iter(failures.values()), None) or error.__dict__.get("cause") or error.__cause__
    return root_cause(inner) if isinstance(inner, BaseException) and inner is not error else error
