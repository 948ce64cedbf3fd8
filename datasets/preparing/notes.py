"""What a job has looked into already, kept as it goes: a killed job does not look twice.

    .survey-000.jsonl, .survey-001.jsonl, ...    a head that names the settings, then a line a source

A file is written every few seconds: in S3 nothing can be added to one that is there.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

from ..intake.sources import Source
from ..places.store import Store, write_bytes
from .look import Looked, looked_of

NAME = re.compile(r"\.survey-(\d+)\.jsonl")
EVERY = 5.0  # seconds


class SurveyNotes:
    """Notes in a store. shaped_by: the settings; notes of others are forgotten."""

    def __init__(self, store: Store, shaped_by: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._head = json.dumps({"settings": shaped_by}) + "\n"
        self._known: dict[tuple[str, str, str], Looked] = {}
        self._new: list[str] = []
        self._next, self._written = 0, clock()
        for name in sorted(store.names()):
            if match := NAME.fullmatch(name):
                self._next = max(self._next, int(match[1]) + 1)
                self._read(store.fetch(name).read_bytes().decode(errors="replace"))

    def known(self, source: Source) -> Looked | None:
        """What was found in a source, if it is what it was. It is told once: a million notes are not kept twice."""
        return self._known.pop((source.name, source.path, source.stamp), None)

    def add(self, source: Source, looked: Looked) -> None:
        """Keep what was found in a source, unless it could not be read: that may be over the next time."""
        if not looked.unread:
            self._new.append(json.dumps([source.name, source.path, source.stamp, looked.to_json()]) + "\n")
        if self._clock() > self._written + EVERY:
            self.flush()

    def flush(self) -> None:
        """Have everything kept."""
        if self._new:
            write_bytes(self._store, f".survey-{self._next:03}.jsonl", (self._head + "".join(self._new)).encode())
            self._next, self._new = self._next + 1, []
        self._written = self._clock()

    def _read(self, text: str) -> None:
        head, *lines = text.split("\n")
        if head + "\n" != self._head:
            return
        for line in lines[:-1]:
            try:
                name, path, stamp, looked = json.loads(line)
                self._known[name, path, stamp] = looked_of(looked)
            except (ValueError, TypeError):
                continue
