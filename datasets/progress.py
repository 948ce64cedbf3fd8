"""How work says how far it is: `progress(stage, done, total)`. A terminal makes rate and time left of it; nobody else needs to listen."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """For callers that show no progress."""
