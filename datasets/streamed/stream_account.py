"""What came of the sources that were streamed, and what a resumed stage has had: kept by one actor, on the machine of the command."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import ray

from ..format.account import UNREAD, SourceLine, records
from ..signals.filters import rule_of

STREAMED = "streamed.jsonl"


@dataclass(frozen=True)
class Told:
    """used, refused: sources, the latter by reason; unread: those of them that could not be read; lost: lines not written, and why."""

    used: int
    refused: dict[str, int]
    unread: int
    lost: int = 0
    why: str = ""


@ray.remote(num_cpus=0)
class StreamAccount:
    """A line a source in a file, in the layout of the account of sources; where a source has several, the last one counts."""

    def __init__(self, path: Path) -> None:
        self._path, self._reasons, self._stages = path, dict[str, str](), dict[str, str]()
        self._had: dict[str, frozenset[str]] = {}
        self._lost, self._why = 0, ""
        if path.is_file():
            self._take_up(path)

    def tell(self, line: SourceLine) -> None:
        """What came of a source, in this pass."""
        if self._reasons.get(line.path) == line.reason:
            return  # as in the pass before, or in another stage
        self._reasons[line.path], self._stages[line.path] = line.reason, line.stage
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(records([line])[0], ensure_ascii=False) + "\n")
        except OSError as error:
            self._lost, self._why = self._lost + 1, os.strerror(error.errno or 0)

    def told(self) -> Told:
        refused = [rule_of(reason) for reason in self._reasons.values() if reason]
        unread = sum(stage == UNREAD for stage in self._stages.values())
        return Told(len(self._reasons) - len(refused), dict(Counter(refused)), unread, self._lost, self._why)

    def resume(self, stage: str, had: frozenset[str]) -> None:
        """Which clips a stage has had of the pass that it goes on with."""
        self._had[stage] = had

    def had(self, stage: str) -> frozenset[str]:
        return self._had[stage]

    def _take_up(self, path: Path) -> None:
        """What an earlier attempt wrote; a killed one may have been cut off in the middle of a line."""
        with path.open(encoding="utf-8", errors="replace") as file:
            text = ""
            for text in file:
                try:
                    line = json.loads(text)
                    self._reasons[str(line["path"])], self._stages[str(line["path"])] = str(line["reason"]), str(line["stage"])
                except (ValueError, KeyError, TypeError):
                    continue
        if text and not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")
