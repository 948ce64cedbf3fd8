"""A step that never ends: a collective waits for a process that is gone or stuck. Every process looks at its own clock, writes down where
all its threads stand, and ends, so that the training can start again.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

HUNG = 75  # exit status
LOOKS = 20  # a deadline


class Watchdog:
    """A context that expects `beat` at least every `seconds`; 0 = never mind. end: what is done to a hung process."""

    def __init__(self, folder: Path, rank: int, seconds: float, end: Callable[[int], object] = os._exit) -> None:
        self._path, self._seconds, self._end = folder / f"rank-{rank}.txt", seconds, end
        self._last = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")

    def __enter__(self) -> Watchdog:
        self.beat()
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def beat(self) -> None:
        """A step is over."""
        self._last = time.monotonic()

    def _watch(self) -> None:
        while not self._over.wait(self._seconds / LOOKS):
            waited = time.monotonic() - self._last
            if waited > self._seconds:
                self._tell(waited)
                self._end(HUNG)
                return

    def _tell(self, waited: float) -> None:
        """Where all threads of this process stand; a disk that is full must not keep it from ending."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("w") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: no step ended for {waited:.0f} s\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            pass
