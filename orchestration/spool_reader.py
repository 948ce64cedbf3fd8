"""Follows a metric spool that a training process writes meanwhile, and may cut back."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class _Line:
    content: bytes
    end: int
    step: int | None


class SpoolReader:
    """Gives the line of each step once: `pending` lines stay pending until `confirm`.

    Restarted trainers cut their file back to their checkpoint, in a new file under the old name, and do its steps again: what was given of
    those is not given again. after: the last step that was given by an earlier reader.
    """

    def __init__(self, path: Path, after: int = -1) -> None:
        self._path, self._after = path, after
        self._file: tuple[int, int] | None = None
        self._offset, self._tail = 0, b""  # how far it was read, and the line that ended there
        self._waiting: list[_Line] = []
        self._others: set[bytes] = set()  # lines without a step of their own: notes, and broken ones

    def skip(self, after: int) -> None:
        """Steps up to this one were given."""
        self._after = max(self._after, after)

    def pending(self) -> list[bytes]:
        """The whole lines that are not confirmed yet, in order."""
        try:
            with self._path.open("rb") as file:
                about = _about(file.fileno())
                file.seek(max(0, self._offset - len(self._tail)))
                if (
                    about != self._file or file.read(len(self._tail)) != self._tail
                ):  # another file may have got the number of an earlier one
                    self._file, self._offset, self._tail = about, 0, b""
                file.seek(self._offset)
                lines = file.readlines()
        except FileNotFoundError:
            return []
        self._waiting, end = [], self._offset
        for content in lines:
            if not content.endswith(b"\n"):
                break
            end += len(content)
            step = step_of(content)
            if content not in self._others if step is None else step > self._after:
                self._waiting.append(_Line(content, end, step))
        return [line.content for line in self._waiting]

    def confirm(self, lines: list[bytes]) -> None:
        """The first of the pending lines have been dealt with."""
        done, self._waiting = self._waiting[: len(lines)], self._waiting[len(lines) :]
        for line in done:
            self._offset, self._tail = line.end, line.content
            if line.step is None:
                self._others.add(line.content)
            else:
                self._after = max(self._after, line.step)


def _about(descriptor: int) -> tuple[int, int]:
    about = os.fstat(descriptor)
    return about.st_dev, about.st_ino


def record_of(line: bytes) -> dict[str, Any] | None:
    """What a line says; nothing where it is torn, or none of a MetricSpool's."""
    try:
        record = json.loads(line)
        step, at, metrics = record["step"], record["time"], record["metrics"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    whole = type(step) is int and type(at) in (int, float) and isinstance(metrics, dict) and isinstance(record.get("note", ""), str)
    return record if whole and all(v is None or type(v) in (int, float) for v in metrics.values()) else None


def step_of(line: bytes) -> int | None:
    """The step that a line has the metrics of."""
    record = record_of(line)
    return record["step"] if record and record["metrics"] else None
