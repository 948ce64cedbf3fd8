"""Why a training stops between two of its steps, how a rank hears of it, and how one ends that has made ready for it."""

from __future__ import annotations

from collections.abc import Callable

Notice = Callable[[], bool]  # whether this rank has heard of a reason to stop; asked every step, so it must not wait


class MadeReady(RuntimeError):
    """All steps are in a committed checkpoint: what another start goes on from at once."""


class TakenBack(MadeReady):
    """A machine of the training goes away, or somebody stops it."""


class MoreRoom(MadeReady):
    """There is room for more workers."""


def no_notice() -> bool:
    """Nobody tells."""
    return False
