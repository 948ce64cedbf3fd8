"""A machine is about to be taken back: how a rank hears of it, and how a training ends that has made ready for it."""

from __future__ import annotations

from collections.abc import Callable

Notice = Callable[[], bool]  # whether this rank has heard that a machine of the training goes away; asked every step, so it must not wait


class TakenBack(RuntimeError):
    """All steps are in a committed checkpoint: what another machine goes on from at once."""


def no_notice() -> bool:
    """Nobody tells."""
    return False
