"""What differs between the scales of a comparison, as one record: whose clips are learnt, by which network, and how made ones are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..model.timeline import Timeline
from ..model.transformer import TransformerConfig
from ..model.types import AV, AVBatch

Chunks = tuple[int, int]
"""The chunks [first, last) of a clip."""

Stretch = tuple[int, int, int]
"""(first, count, chunks): `count` clips of `chunks` chunks, from number `first` on."""

WINDOWS: dict[str, Chunks] = {"0-5": (0, 10), "5-15": (10, 30), "15-25": (30, 50)}  # in seconds: a chunk of every world lasts half a second
HELD_OUT, OTHER, PICK = 100_000_000, 200_000_000, 300_000_000  # where the clips of each use begin; training clips begin at 0


def ready(stretches: Sequence[Stretch]) -> None:
    """Nothing to prepare: clips are made when they are asked for."""


@dataclass(frozen=True)
class World:
    """Its functions are named in a module, or parts of such, so that a process of its own can be handed the record.

    chunks: of a training clip; long_chunks: of a clip that is judged in windows.
    clips: (first, count, chunks) -> clips `first`, `first` + 1, ...; the same at every call, and those below HELD_OUT are for training.
    read: what the processes of clips did in a window: (clips of [0, last) chunks, first frame included, the window) -> a reading.
    figures: (reading of made clips, of real clips) -> figures; `sync_minus_real` is among them.
    prepare: draws training clips and those of the stretches, where that is better done once and for all processes.
    marks: what records and starts say of the world.
    """

    name: str
    clock: Timeline
    network: TransformerConfig
    chunks: int
    long_chunks: int
    clips: Callable[[int, int, int], AVBatch]
    read: Callable[[AV, Chunks], Any]
    figures: Callable[[Any, Any], dict[str, float]]
    prepare: Callable[[Sequence[Stretch]], None] = ready
    marks: dict[str, Any] = field(default_factory=dict)
