"""All keys below a prefix, of a store that lists them in order, page by page: several ranges at once, though nobody knows where keys lie.

    (after, until]  page -> keys, and more of them -+-> goes on with (last key, cut 1]
                                                    +-> (cut 1, cut 2], ..., (cut n, until]: to threads that have nothing to do

A cut is a key that need not be there. It is made of characters that keys were seen to have; a range that turns out empty costs one request,
and tells where the keys end. So a folder of a million files needs no folders in it to be listed by many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    @property
    def key(self) -> str: ...


K = TypeVar("K", bound=Keyed)


@dataclass(frozen=True, slots=True)
class Page(Generic[K]):
    """Objects in the order of their keys, and whether others follow."""

    found: list[K]
    more: bool


@dataclass(slots=True)
class _Range(Generic[K]):
    """Keys above `after`, and up to `until` (None: to the end). after: moves on; found: what was there so far; follows: the next range."""

    after: str
    until: str | None
    found: list[K] = field(default_factory=list)
    follows: _Range[K] | None = None


class KeyRanges(Generic[K]):
    """One listing. ask: the page of keys below the prefix and above a key; it may be called by `threads` threads at once. most: when more
    have come, the listing ends, wherever its ranges are.
    """

    def __init__(self, ask: Callable[[str], Page[K]], prefix: str, threads: int, most: int) -> None:
        self._ask, self._prefix, self._threads, self._most = ask, prefix, threads, most
        self._lock, self._asked, self._count, self._stopped = Lock(), set[Future[None]](), 0, False
        self._first = _Range[K]("", None)

    def all(self, first: Page[K]) -> Iterator[K]:
        """What is there, in the order of keys; if there is more than `most`, more than that of it. first: the first page, which is at hand.

        Raises:
            OSError: the store does not answer, or its keys are in no order.
        """
        with ThreadPoolExecutor(self._threads, thread_name_prefix="listing") as pool:
            with self._lock:
                if self._taken(self._first, first):
                    self._share(self._first, first, pool)
                    self._begin(self._first, pool)
            try:
                while asked := self._under_way():
                    for done in wait(asked, return_when=FIRST_COMPLETED).done:
                        done.result()
            finally:
                self._stopped = True
        part: _Range[K] | None = self._first
        while part is not None:
            yield from part.found
            part = part.follows

    def _under_way(self) -> set[Future[None]]:
        """Those that have failed stand among them until their error was told."""
        with self._lock:
            self._asked = {one for one in self._asked if not one.done() or one.exception()}
            return set(self._asked)

    def _begin(self, part: _Range[K], pool: ThreadPoolExecutor) -> None:
        self._asked.add(pool.submit(self._work, part, pool))

    def _work(self, part: _Range[K], pool: ThreadPoolExecutor) -> None:
        while not self._stopped:
            page = self._ask(part.after)
            if page.found and page.found[0].key <= part.after:
                raise OSError(f"lists {page.found[0].key!r} after {part.after!r}: its keys are in no order")
            with self._lock:
                if not self._taken(part, page):
                    return
                self._share(part, page, pool)

    def _taken(self, part: _Range[K], page: Page[K]) -> bool:
        """Keep what a page has of a range; whether there may be more."""
        until = part.until
        kept = page.found if until is None else [one for one in page.found if one.key <= until]
        part.found += kept
        self._count += len(kept)
        if self._count > self._most:
            self._stopped = True
        if self._stopped or not page.more or not kept or len(kept) < len(page.found) or kept[-1].key == until:
            return False
        part.after = kept[-1].key
        return True

    def _share(self, part: _Range[K], page: Page[K], pool: ThreadPoolExecutor) -> None:
        """Leave the end of a range to threads that have nothing to do."""
        idle = self._threads - max(1, sum(not one.done() for one in self._asked))
        cuts = between(part.after, part.until, len(self._prefix), idle, [one.key for one in page.found])
        if not cuts:
            return
        ends = [*cuts[1:], part.until]
        last, part.until = part.follows, cuts[0]
        for after, until in reversed(list(zip(cuts, ends, strict=True))):
            last = _Range[K](after, until, follows=last)
            self._begin(last, pool)
        part.follows = last


def between(after: str, until: str | None, begins: int, most: int, seen: Sequence[str]) -> list[str]:
    """Up to `most` keys that lie between two others (None: the end), in order and spread evenly, as far as the characters tell that the
    keys `seen` have behind their first `begins`. Of all places where they can differ the first is taken.
    """
    if most < 1:
        return []
    letters = sorted({letter for key in seen for letter in key[begins:]})
    place = begins if until is None else next((i for i, (a, b) in enumerate(zip(after, until, strict=False)) if a != b), len(after))
    for at in range(place, len(after) + 1):
        low = after[at : at + 1]
        high = until[at : at + 1] if until is not None and until[:at] == after[:at] else ""
        if fit := [letter for letter in letters if letter > low and (not high or letter < high)]:
            count = min(most, len(fit))
            return [after[:at] + fit[i * len(fit) // count] for i in range(count)]
    return []
