"""Follows a metric spool that a training process writes meanwhile, and may begin again."""

from __future__ import annotations

from pathlib import Path


class SpoolReader:
    """Gives each whole line once: `pending` lines stay pending until `confirm`.

    Restarted trainers begin their file again, under its old name and perhaps longer than it was: what tells the two apart is the first
    line, which holds the time.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._head, self._offset = path, b"", 0

    def pending(self) -> list[bytes]:
        """The whole lines that are not confirmed yet, in order."""
        try:
            with self._path.open("rb") as file:
                head = file.readline()
                if not head.endswith(b"\n"):
                    return []
                if head != self._head:
                    self._head, self._offset = head, 0
                file.seek(self._offset)
                lines = file.readlines()
                file.seek(0)
                if file.readline() != head:  # begun again while it was read: these lines are of both
                    return []
        except FileNotFoundError:
            return []
        return [line for line in lines if line.endswith(b"\n")]

    def confirm(self, lines: list[bytes]) -> None:
        """The first of the pending lines have been dealt with."""
        self._offset += sum(map(len, lines))
