"""Which checkpoints stay, and whose turn it is to write them: that of the attempt that began last.

A driver that is killed may leave workers behind that train on while the next attempt has begun. STAGE/attempt names the attempt whose turn
it is; one that finds another name there neither commits nor removes anything, so what it left half done may be removed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..datasets.places.store import Store, write_bytes
from .checkpoint import COMMIT, Found, folder_of, found_in
from .standing import read_standing

ATTEMPT = "attempt"
YOUNG = 3600.0  # seconds for which what is not committed may still be, if nobody knows whose turn it is


@dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written, where, and which are kept besides those of finished stages and the best ones (`course.best`).

    every: steps between two (0 = only at the end of a stage); keep_last: so many of the newest; keep_every: and those of steps that it
    divides (0 = none); uri: a local folder or s3://BUCKET/FOLDER (empty: checkpoints/ in the run folder); patience_s: for how long the last
    checkpoint of a stage is tried again.
    """

    every: int = 100
    keep_last: int = 2
    keep_every: int = 0
    uri: str = ""
    patience_s: float = 3600.0

    def __post_init__(self) -> None:
        for name, low in (("every", 0), ("keep_last", 1), ("keep_every", 0), ("patience_s", 0)):
            if not getattr(self, name) >= low:  # nor NaN
                raise ValueError(f"checkpoint.{name}={getattr(self, name)}: must be at least {low}")

    def keeps(self, found: Sequence[Found], finished: int) -> set[str]:
        """Paths of the complete checkpoints of one stage that stay; `finished` is its last step."""
        complete = [f for f in found if f.complete]
        last = {f.path for f in complete[-self.keep_last :]}
        return last | {f.path for f in complete if f.step == finished or (self.keep_every and f.step % self.keep_every == 0)}


class Superseded(ValueError):
    """Another attempt to train the same stage has begun since."""


def take_turn(store: Store, stages: Iterable[str], attempt: str) -> None:
    """Begin an attempt: from now on no earlier one commits a checkpoint of these stages. All at once: later is too late for one of them."""
    for stage in stages:
        write_bytes(store, f"{stage}/{ATTEMPT}", attempt.encode())


def turn(store: Store, stage: str) -> str:
    """The attempt that began last, or nothing."""
    try:
        return store.fetch(f"{stage}/{ATTEMPT}").read_text(errors="replace")[:80]
    except FileNotFoundError:
        return ""


def require_turn(store: Store, stage: str, attempt: str) -> None:
    """Raises Superseded if another attempt has begun since."""
    if (last := turn(store, stage)) not in ("", attempt):
        raise Superseded(
            f"checkpoints {store.uri}/{stage}: attempt {last!r} has begun since {attempt!r}, which ends and saves nothing; "
            "let one command at a time train a run"
        )


def prune(store: Store, config: CheckpointConfig, stage: str, steps: int, attempt: str, step: int) -> list[str]:
    """Remove the checkpoints of a stage that are not kept, and what was not completed; returns their paths.

    attempt, step: a running attempt and the step of its last checkpoint: it may be writing a later one. What others did not complete goes
    only if it is this attempt's turn.
    """
    last, found = turn(store, stage), found_in(store, stage)
    if last not in ("", attempt):
        return []
    keeps = config.keeps(found, steps) | kept_for_course(store, stage, found, steps) | {folder_of(stage, step, attempt)}

    def goes(f: Found) -> bool:
        if f.complete:
            return f.path not in keeps
        return f.step < step if f.attempt == attempt else last == attempt

    gone = [f for f in found if goes(f)]
    for f in gone:
        remove(store, f)
    return [f.path for f in gone]


def kept_for_course(store: Store, stage: str, found: Sequence[Found], steps: int) -> set[str]:
    """Paths of checkpoints that stay because they are the best, or are still to be judged."""
    standing = read_standing(store, stage)
    return set() if standing is None else standing.keeps(found, steps)


def abandoned(store: Store, found: Found) -> bool:
    """Whether nobody has added to a checkpoint that is not complete for an hour."""
    return all(time.time() - store.changed(f"{found.path}/{name}") > YOUNG for name in found.files)


def remove(store: Store, found: Found) -> None:
    """Remove a checkpoint: COMMIT first, so that one half removed is not taken for a damaged one."""
    for name in sorted(found.files, key=lambda name: name != COMMIT):
        store.remove(f"{found.path}/{name}")
