"""One actor of a pool: opens a network once, then computes what it is given. It has no policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError


class PoolWorker:
    """open_work: see `actor_pool.Open`."""

    def __init__(self, open_work: Callable[[], Callable[[list[Any]], list[Any]]]) -> None:
        self._work = open_work()

    def ready(self) -> None:
        """Answers when the network is in memory."""

    def run(self, payloads: list[list[ray.ObjectRef]]) -> tuple[list[Exception | None], ...]:
        """Requests of one key -> (for each its error or None), then a result for each (None beside an error)."""
        errors, found = list[Exception | None](), dict[int, Any]()
        for i, (reference,) in enumerate(payloads):
            try:
                found[i] = ray.get(reference)
                errors.append(None)
            except ObjectLostError as error:  # whoever asked is gone
                errors.append(RuntimeError(f"what was to be computed is lost ({type(error).__name__})"))
        results = dict(zip(found, self._work(list(found.values())), strict=True)) if found else {}
        for i, result in results.items():
            if isinstance(result, ValueError):
                errors[i], results[i] = result, None
        return errors, *(results.get(i) for i in range(len(payloads)))  # pyright: ignore[reportReturnType]


def cause_of(error: BaseException) -> str:
    """In one line what went wrong in an actor."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    if isinstance(error, RayActorError) and isinstance(error.__cause__, BaseException):
        return cause_of(error.__cause__)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[-1] if isinstance(error, RayActorError) and len(lines) > 1 and "Error" in lines[-1] else " ".join(lines)
    return f"{type(error).__name__}: {told[:300]}"
