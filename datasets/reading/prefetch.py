"""What comes next, made in threads while the caller is busy; made again where the guess was wrong. It is the same either way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
GRACE = 2e-4  # seconds that a new one waits, so that the interpreter is the caller's until it has what it asked for


class Ahead(Generic[T]):
    """`make(number)` for one number after the other from `first` on, up to `end` exclusive; at most `depth` that were not taken are held.

    `make` must give the same for a number whenever and in whichever thread it is called. What it raises, `take` raises. patient: the end
    waits for what is being made, but not that of a block that an error ends.
    """

    def __init__(self, make: Callable[[int], T], first: int, end: int, depth: int = 4, threads: int = 1, patient: bool = True) -> None:
        self._make, self._next, self._end, self._depth, self._patient = make, first, end, depth, patient
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
        self._made = deque[tuple[int, Future[T]]]()
        self._fill()

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(wait=self._patient and kind is None)

    def take(self, number: int) -> T:
        """What `make` gives for this number. The next one is expected to be asked for next."""
        if not self._made or self._made[0][0] != number:
            self._forget()
            self._next = number + 1
            self._fill()
            return self._make(number)
        _, made = self._made.popleft()
        result = made.result()
        self._fill()
        return result

    def close(self, wait: bool = True) -> None:
        """Drop what is made, and what is being made; wait for the latter."""
        self._forget()
        self._pool.shutdown(wait=wait, cancel_futures=True)

    def _later(self, number: int) -> T:
        time.sleep(GRACE)
        return self._make(number)

    def _fill(self) -> None:
        while len(self._made) < self._depth and self._next < self._end:
            self._made.append((self._next, self._pool.submit(self._later, self._next)))
            self._next += 1

    def _forget(self) -> None:
        for _, made in self._made:
            made.cancel()
        self._made.clear()
