"""How many workers may train together: pure rules, no Ray.

The global batch of a step is the same whatever their number, which is what makes losses comparable and the ledger exact. So each of them
has an equal share of it, in whole micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile


@dataclass(frozen=True)
class Batch:
    """What a step of a stage is made of, in clips. micro: of a micro-batch (0: a worker's whole share); request: of a rollout request (0:
    a worker's share, whatever that is).
    """

    clips: int
    micro: int = 0
    request: int = 0

    def is_shared_by(self, workers: int) -> bool:
        """Whether so many have equal shares of it, and of its requests."""
        share, rest = divmod(self.clips, workers)
        if rest or not share or (self.micro and share % self.micro):
            return False
        return not self.request or max(share, self.request) % min(share, self.request) == 0


def admissible(batches: Sequence[Batch], least: int, most: int) -> tuple[int, ...]:
    """The numbers of workers from `least` to `most` that share all batches, ascending."""
    return tuple(n for n in range(least, most + 1) if all(batch.is_shared_by(n) for batch in batches))


def increments(sizes: Sequence[int], have: int = 0) -> list[int]:
    """How many workers each size beyond `have` adds to the one before it."""
    return [after - before for before, after in pairwise([have, *(n for n in sizes if n > have)])]


def reached(added: Sequence[int], placed: Sequence[bool], have: int = 0) -> int:
    """The size that follows where some of these increments have places: up to the first that has none."""
    return have + sum(n for n, _ in takewhile(lambda each: each[1], zip(added, placed, strict=True)))
