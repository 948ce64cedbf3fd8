"""What failed inside the wrappers that Ray puts around it."""

from __future__ import annotations

from collections.abc import Iterator


def root_cause(error: BaseException) -> BaseException:
    """The exception inside the wrappers that Ray puts around what a task, an actor or a train worker raised; the first of several."""
    return next(causes(error))


def causes(error: BaseException) -> Iterator[BaseException]:
    """The exceptions inside those wrappers, of all ranks that failed."""
    about = error.__dict__ if type(error).__module__.startswith("ray") else {}
    inner = [*(about.get("worker_failures") or {}).values()] or [
        about.get("health_check_failure") or about.get("cause") or (error.__cause__ if about else None)
    ]
    found = [e for e in inner if isinstance(e, BaseException) and e is not error]
    for e in found:
        yield from causes(e)
    if not found:
        yield error
