"""What has changed in a training's machines: records and rules without Ray, kept by who sees it until the driver asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

WORKERS, ACTORS, NODES = "workers", "rollout actors", "nodes"
KEPT = 1000  # changes that wait to be asked for; then the oldest go


@dataclass(frozen=True)
class Change:
    """A number that has changed, or whose members have. why: the cause, in a few words."""

    kind: str
    before: int
    after: int
    why: str

    def told(self) -> str:
        """On one line."""
        return f"{self.kind} {self.before} -> {self.after}: {self.why}"


def merged(changes: Sequence[Change]) -> list[Change]:
    """The same without repetitions: what happened again and again, and changed no number, is one change with a count."""
    counts: dict[Change, int] = {}
    for change in changes:
        counts[change] = counts.get(change, 0) + 1
    return [c if n == 1 else replace(c, why=f"{c.why} ({n} times)") for c, n in counts.items()]


def node_change(before: Mapping[str, str], now: Mapping[str, str]) -> Change | None:
    """What became of the nodes, given as id -> name; None where they are the same."""
    left, came = ([names[i] for i in names if i not in others] for names, others in ((before, now), (now, before)))
    parts = [f"{_listed(names)} {verb}" for names, verb in ((left, "left"), (came, "joined")) if names]
    return Change(NODES, len(before), len(now), ", ".join(parts)) if parts else None


def _listed(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class Noted:
    """Changes that somebody will ask for, each once. They are numbered from 0 on."""

    def __init__(self) -> None:
        self._first, self._changes = 0, deque[Change]()

    def add(self, change: Change) -> None:
        self._changes.append(change)
        if len(self._changes) > KEPT:
            self._changes.popleft()
            self._first += 1

    def since(self, number: int) -> tuple[int, list[Change]]:
        """The number of the next one, and those from `number` on."""
        return self._first + len(self._changes), list(self._changes)[max(0, number - self._first) :]
