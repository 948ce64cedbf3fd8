"""Which checkpoint of a stage is the best so far: STAGE/best.json, written by who evaluates, read by who removes old checkpoints.

driver --put, after each evaluation--> STAGE/best.json --read before removing--> the best stays, and the newest that wait to be judged
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from ..datasets.places.store import Store, write_bytes
from .checkpoint import MANIFEST, NAME, Checkpoint, Found

BEST = "best.json"
BEST_OF = "best"  # RUN@best
WAITING = 2  # checkpoints that stay because they are still to be judged
LIMIT = 2**16  # bytes that are read at all


@dataclass(frozen=True)
class Standing:
    """every: steps between two evaluations (0: none); way: how clips are made for `figure`; judged: step of the last one; trying: the one
    that is being judged; path, step, value: the best one of the stage by `figure`, if any was judged.
    """

    every: int
    figure: str
    way: str = ""
    judged: int = 0
    trying: str = ""
    path: str = ""
    step: int = 0
    value: float | None = None

    def is_due(self, found: Found, end: int) -> bool:
        """Whether a checkpoint is still to be judged; end: the last step of its stage."""
        return bool(self.every) and found.complete and found.step > self.judged and (found.step % self.every == 0 or found.step == end)

    def among(self, found: Sequence[Found]) -> Standing:
        """The same where these are the checkpoints of its stage: what is gone is not the best, and steps beyond were not judged."""
        complete = [f for f in found if f.complete]
        there = replace(self, judged=min(self.judged, max((f.step for f in complete), default=0)))
        return there if self.path in {f.path for f in complete} else replace(there, path="", step=0, value=None)

    def keeps(self, found: Sequence[Found], end: int) -> set[str]:
        """Paths of one stage's checkpoints that stay for its sake; in their order."""
        return {self.path, self.trying, *(f.path for f in [f for f in found if self.is_due(f, end)][-WAITING:])}


def read_standing(store: Store, stage: str) -> Standing | None:
    """What is known of a stage; None where nothing is, or nothing that can be understood.

    Raises:
        OSError: the store does not answer.
    """
    try:
        path = store.fetch(f"{stage}/{BEST}")
        return _standing(json.loads(path.read_bytes())) if path.stat().st_size <= LIMIT else None
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def write_standing(store: Store, stage: str, standing: Standing) -> None:
    write_bytes(store, f"{stage}/{BEST}", json.dumps(asdict(standing)).encode())


def best_of(store: Store, stages: Sequence[str]) -> Checkpoint:
    """The best checkpoint of the last of these stages that has one.

    Raises:
        ValueError: none has, or it is gone or damaged.
    """
    for stage in reversed(stages):
        standing = read_standing(store, stage)
        if standing is not None and standing.path:
            return Checkpoint(store, standing.path)
    raise ValueError(f"checkpoints {store.uri}: none was evaluated, so none is the best; train with course.every, or leave @best off")


def _standing(value: object) -> Standing | None:
    if not isinstance(value, dict) or set(value) != set(Standing.__dataclass_fields__):
        return None
    counts = all(type(value[name]) is int and 0 <= value[name] < 2**62 for name in ("every", "judged", "step"))
    number = value["value"] is None or (type(value["value"]) in (int, float) and math.isfinite(value["value"]))
    named = all(isinstance(value[name], str) for name in ("figure", "way")) and all(_is_place(value[name]) for name in ("path", "trying"))
    return Standing(**value) if counts and number and named else None


def _is_place(value: object) -> bool:
    """Whether it is nothing, or the path of a checkpoint."""
    return isinstance(value, str) and (not value or NAME.fullmatch(f"{value}/{MANIFEST}") is not None)
