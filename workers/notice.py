"""Notice that a training is about to end, as a machine is taken back or somebody stops it: how a rank hears of it, and how it ends then."""

from __future__ import annotations

from collections.abc import Callable

Notice = Callable[[], bool]  # whether this rank has heard of it; asked every step, so it must not wait


class TakenBack(RuntimeError):
    """All steps are in a committed checkpoint: what another machine goes on from at once."""


def no_notice() -> bool:
    """Nobody tells."""
    return False
