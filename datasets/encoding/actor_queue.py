"""What waits for a pool's actors, and which of it an actor takes next. No Ray in it: rules, tested without actors."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Ticket:
    """A request. key: requests of equal keys may be computed together; size: its items (clips); payload: not looked into; answer: a future
    of whoever waits; attempts: actors that it was given to.
    """

    key: Hashable
    size: int
    payload: Any
    answer: Any
    attempts: int = 0


@dataclass
class ActorQueue:
    """First come, first served; equals that wait go along. Nothing waits for company, so an idle actor costs no time."""

    _waiting: deque[Ticket] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, ticket: Ticket) -> None:
        self._waiting.append(ticket)

    def give_back(self, tickets: list[Ticket]) -> None:
        """What an actor did not finish, before all that came later."""
        self._waiting.extendleft(reversed(tickets))

    def take(self, most: int) -> list[Ticket]:
        """The one that waits longest, with others of its key as long as together they have at most `most` items; none if none waits.

        One that was given to an actor before goes alone: it may be what ended that actor, and others must not go down with it. Such ones
        stand before all that were not.
        """
        if not self._waiting:
            return []
        first = self._waiting.popleft()
        taken, room, left = [first], most - first.size, deque[Ticket]()
        while self._waiting and room > 0 and not first.attempts:
            ticket = self._waiting.popleft()
            fits = ticket.key == first.key and ticket.size <= room
            (taken if fits else left).append(ticket)
            room -= ticket.size if fits else 0
        self._waiting.extendleft(reversed(left))
        return taken

    def drain(self) -> list[Ticket]:
        """All of them, out of the queue."""
        tickets = list(self._waiting)
        self._waiting.clear()
        return tickets
