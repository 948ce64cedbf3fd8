"""Which stages have ended well, asked of a store of checkpoints that may be far, or away."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..datasets.places.store import Store
from ..workers.checkpoint import is_finished, stage_record
from .spool_reader import step_of

PAUSE = 60.0  # seconds between two questions of who asks all the time
TAIL = 2**18  # bytes at the end of a spool in which its last steps lie


class StageEnds:
    """steps: name -> steps of all stages, in their order. A stage that has ended stays so."""

    def __init__(self, store: Store, spools: Path, steps: dict[str, int], clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._spools, self._steps, self._clock = store, spools, steps, clock
        self._known: dict[str, dict[str, Any]] = {}
        self._again = 0.0

    def look(self) -> list[dict[str, Any]]:
        """What the stages were that have ended, as far as the store tells it now; one that is away is no reason to stop anything."""
        with suppress(OSError):
            for stage in self._steps:
                if stage not in self._known and is_finished(self._store, stage):
                    self._known[stage] = stage_record(self._store, stage)
        self._again = self._clock() + PAUSE
        return [self._known[stage] for stage in self._steps if stage in self._known]

    def ended(self, stage: str) -> bool:
        """For who asks all the time: the store is asked once the spool has the stage's last step, and then once a minute."""
        if stage not in self._known and self._clock() >= self._again and self._at_its_end(stage):
            self.look()
        return stage in self._known

    def _at_its_end(self, stage: str) -> bool:
        try:
            with (self._spools / f"{stage}.jsonl").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - TAIL))
                return any((step_of(line) or 0) + 1 >= self._steps[stage] for line in file)
        except FileNotFoundError:
            return False
