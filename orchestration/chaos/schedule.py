"""What is broken when, from a seed alone. No Ray in it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

KILLS = ("worker", "rollout", "coordinator", "data", "driver")
FREEZE, S3, TRACKER, MEDIA = "freeze", "s3", "tracker", "media"
KINDS = (*KILLS, FREEZE, S3, TRACKER, MEDIA)
FROZEN = ("worker", "rollout", "coordinator")  # whom a freeze may hit
ENDS_ATTEMPT = ("worker", "coordinator")  # the run counts these against workers.max_failures
SECONDS = {FREEZE: (5, 20), S3: (5, 20), TRACKER: (20, 60), MEDIA: (20, 60)}  # how long it lasts
SHARES = (0.5, 1.0)  # of the calls that fail
PLACES = 1 << 16
LONGEST = 7 * 24 * 60.0  # minutes
SHORTEST_GAP = 1.0  # seconds


@dataclass(frozen=True)
class Event:
    """at_s: seconds after the begin; of: whom a freeze hits (else empty); place: which of the processes that are there by then, in their
    order, modulo their number; seconds: how long it lasts (0: it is a kill); share: of the calls that fail.
    """

    at_s: float
    kind: str
    of: str = ""
    place: int = 0
    seconds: float = 0.0
    share: float = 1.0

    @property
    def whom(self) -> str:
        """The kind of the processes that it hits."""
        return self.of or self.kind

    def __str__(self) -> str:
        lasts = f" for {self.seconds:.0f} s" if self.seconds else ""
        share = f", {self.share:.0%} of the calls" if self.kind in (S3, TRACKER) else ""
        what = f"kill {self.kind}" if self.kind in KILLS else " ".join(filter(None, (self.kind, self.of)))
        return f"{what}{lasts}{share}"


def schedule(seed: int, minutes: float, kinds: Sequence[str], gap_s: float, ends: int) -> tuple[Event, ...]:
    """Events of these kinds, one to two gaps apart, the first a gap after the begin and the last a gap or more before the end. Every kind
    comes once before any comes again. ends: how many of them may end an attempt of the training.

    Raises:
        ValueError: a kind is unknown, a time is none or out of bounds, or there is no time for an event.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(f"--kinds={unknown[0]!r}: unknown; choose from {','.join(KINDS)}")
    if not kinds:
        raise ValueError(f"--kinds: names none; choose from {','.join(KINDS)}")
    if not 0 < minutes <= LONGEST:
        raise ValueError(f"--minutes={minutes:g}: must be more than 0, and at most {LONGEST:.0f} (a week)")
    if not SHORTEST_GAP <= gap_s <= LONGEST * 60:
        raise ValueError(f"--gap={gap_s:g}: must be seconds, from {SHORTEST_GAP:g} to {LONGEST * 60:.0f} (a week)")
    if minutes * 60 < 2 * gap_s:
        raise ValueError(
            f"--minutes={minutes:g} with --gap={gap_s:g}: no event fits between two gaps; give at least {gap_s / 30:.2g} minutes"
        )
    dice, bag, events, at = random.Random(f"chaos {seed}"), list[str](), list[Event](), gap_s
    allowed = sorted(set(kinds), key=KINDS.index)
    while at <= minutes * 60 - gap_s:
        bag = [kind for kind in bag or _shuffled(allowed, dice) if ends > 0 or kind not in ENDS_ATTEMPT]
        if not bag and not (allowed := [kind for kind in allowed if kind not in ENDS_ATTEMPT]):
            break
        if bag:
            event = _event(bag.pop(), round(at, 1), dice)
            ends -= event.kind in ENDS_ATTEMPT
            events.append(event)
            at += gap_s * dice.uniform(1.0, 2.0)
    return tuple(events)


def _shuffled(kinds: Sequence[str], dice: random.Random) -> list[str]:
    return dice.sample(kinds, len(kinds))


def _event(kind: str, at_s: float, dice: random.Random) -> Event:
    """The same number of draws for every kind: that one is left out changes no other's target."""
    of, place, share, length = dice.choice(FROZEN), dice.randrange(PLACES), dice.choice(SHARES), dice.random()
    low, high = SECONDS.get(kind, (0, 0))
    seconds = round(low + (high - low) * length, 1)
    return Event(at_s, kind, of if kind == FREEZE else "", place, seconds, share if kind in (S3, TRACKER) else 1.0)
