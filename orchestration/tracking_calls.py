"""Calls to a store that can be away or silent: one thread makes them in order, and nobody waits for it longer than he says."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable

from ..datasets.redaction import redacted, without_secrets

INTERVAL = 2.0  # seconds between two turns of what goes on in the background
LONGEST = 200  # letters of what a store says
PAUSE = 60.0  # seconds without any call after the store could not be reached


class Calls:
    """turn: what goes on in the background from `follow` to `end`. complain: gets one line for the first failure, and no other."""

    def __init__(self, turn: Callable[[], None], complain: Callable[[str], None]) -> None:
        self._turn, self._tell, self._told = turn, complain, False
        self.away = False  # the store could not be reached: no calls before `_again`
        self._again = 0.0
        self._over = threading.Event()
        self._following = threading.Event()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._work, daemon=True, name="mlflow")

    def ask(self, action: Callable[[], None], seconds: float) -> bool:
        """Have the thread do it; whether it is done, or need not be waited for, within `seconds`."""
        if self.away or self.over:
            return True  # that was said when it happened
        done = threading.Event()

        def job() -> None:
            try:
                self.guard(action)
            finally:
                done.set()

        self._jobs.put(job)
        self._start()
        return done.wait(seconds)

    def follow(self) -> None:
        """Start what goes on in the background."""
        self._following.set()
        self._start()

    def end(self) -> None:
        """No calls ever again, not even by a thread that comes back late."""
        self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def guard(self, action: Callable[[], object]) -> bool:
        """Do it here and now; whether it was done."""
        if self.away:
            return False
        try:
            action()
        except Exception as error:  # noqa: BLE001  clients of stores raise anything; none may stop a training
            if cause := unreachable(error):
                self.away, self._again = True, time.monotonic() + PAUSE
            if not self.over:  # else it has been said
                failed = f"failed ({type(error).__name__}: {first_line(error)})"
                self.complain(f"{f'cannot be reached ({cause})' if cause else failed}; training goes on")
            return False
        return True

    def complain(self, what: str) -> None:
        """One warning a run, whatever else comes after it."""
        if not self._told:
            self._told = True
            self._tell(what)

    def _start(self) -> None:
        if self.thread.ident is None:
            self.thread.start()

    def _work(self) -> None:
        while not self.over:
            try:
                job = self._jobs.get(timeout=INTERVAL)
            except queue.Empty:
                if self._following.is_set() and (not self.away or time.monotonic() >= self._again):
                    self.away = False
                    self.guard(self._turn)
            else:
                job()


def unreachable(error: BaseException | None) -> str:
    """The name of the failed connection, or of the silence on it, behind an error; empty where a store answered, or a file failed."""
    while error is not None:
        # What `requests` raises is an OSError with a response, which is None where no server gave one.
        if isinstance(error, OSError) and getattr(error, "response", error) is None:
            return type(error).__name__
        error = error.__cause__ or error.__context__
    return ""


def first_line(error: BaseException) -> str:
    """The first line of what a store or its client says, short and without secrets."""
    first = next((line for line in str(error).splitlines() if line.strip()), "")
    public = re.sub(r"\S+://\S+", lambda found: redacted(found[0]), without_secrets(first))
    return re.sub(r"[?&]\S+=\S*", "", public).strip()[:LONGEST]
