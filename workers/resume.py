"""What a stage goes on from: the last checkpoint that all ranks find whole.

A file that one rank does not see and rank 0 does is no damage: that rank's folder is not the shared one. Nothing is taken back for that,
and a stage that ever had a checkpoint never begins again by itself.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable

from ..datasets.places.store import Store
from .checkpoint import COMMIT, Checkpoint, Missing, OtherFormat, found_in
from .checkpoint_writer import one_line

Agree = Callable[[str], list[str]]
AWAY, DAMAGED, UNSEEN, OTHER = "away", "damaged", "unseen", "other"  # what a rank can have to say of a checkpoint


def resume_from(store: Store, stage: str, agree: Agree, rank: int, world: int, warn: Callable[[str], None]) -> Checkpoint | None:
    """The last checkpoint of a stage that is whole, verified by all ranks together before any of them goes on; None if there never was one.

    agree: a word of this rank -> those of all ranks. Every rank must call it. Where one before is whole, damaged ones are warned of and
    lose their COMMIT, so they count for nothing from now on.

    Raises:
        OSError: the store does not answer, or is not the same for all ranks. That is no reason to take an older state.
        ValueError: there are complete checkpoints, and all are damaged; or the last that is not is of another release, and may be newer
            than all that this one can read. Nothing was changed.
    """
    damaged: dict[str, str] = {}
    for path in reversed(_listed(store, stage, agree, rank)):
        opened, said = _looked(store, path, rank, world)
        words = [json.loads(word) for word in agree(json.dumps(said))]
        if away := [word[AWAY] for word in words if AWAY in word]:
            raise OSError(away[0])
        if other := [word[OTHER] for word in words if OTHER in word]:
            raise ValueError(other[0])
        if damage := [word[DAMAGED] for word in words if DAMAGED in word]:
            damaged[path] = damage[0]
            continue
        if unseen := [word[UNSEEN] for word in words if UNSEEN in word]:
            raise OSError(unseen[0])
        for other, why in damaged.items() if rank == 0 else ():
            store.remove(f"{other}/{COMMIT}")
            warn(f"{why}; it no longer counts, and training goes on from the checkpoint before it")
        return opened
    if damaged:
        raise ValueError(
            f"checkpoints of stage {stage!r} in {store.uri}: all {len(damaged)} are damaged, and nothing was changed "
            f"({'; '.join(damaged.values())}); put back what is missing and start the same command again, "
            f"or remove {store.uri}/{stage} to train the stage from step 0 again"
        )
    return None


def _listed(store: Store, stage: str, agree: Agree, rank: int) -> list[str]:
    """The complete checkpoints, as rank 0 lists them: no rank may go through another list."""
    mine = [f.path for f in found_in(store, stage) if f.complete]
    lists = [json.loads(word) for word in agree(json.dumps({"node": platform.node(), "paths": mine}))]
    others = [(i, of["paths"][-1]) for i, of in enumerate(lists) if of["paths"]]
    if others and not lists[0]["paths"]:
        raise OSError(
            f"checkpoint.uri: rank {others[0][0]} on {lists[others[0][0]]['node']} sees {others[0][1]} in {store.uri}, and rank 0 on "
            f"{lists[0]['node']} sees no checkpoint of stage {stage!r}: it is not shared by that node; mount it there"
        )
    return lists[0]["paths"]


def _looked(store: Store, path: str, rank: int, world: int) -> tuple[Checkpoint | None, dict[str, str]]:
    """The checkpoint, and what this rank has to say against it."""
    try:
        opened = Checkpoint(store, path)
        opened.verify(rank, world)
    except Missing as error:
        if rank == 0:
            return None, {DAMAGED: str(error)}
        node = platform.node()
        return None, {
            UNSEEN: f"checkpoint.uri: {store.uri} is not shared by rank {rank} on {node}, which does not see {error.name}; mount it there"
        }
    except OtherFormat as error:
        return None, {OTHER: str(error)}
    except OSError as error:
        return None, {AWAY: one_line(error)}
    except Exception as error:  # noqa: BLE001  whatever a damaged file leads to
        text = str(error) if isinstance(error, ValueError) else f"checkpoint {store.uri}/{path}: damaged ({one_line(error)})"
        return None, {DAMAGED: text}
    return opened, {}
