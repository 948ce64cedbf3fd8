"""What differs between the scales of a comparison, as one record: whose clips are learnt, by which network, and how made ones are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..model.timeline import Timeline
from ..model.trunk import TransformerConfig
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
    """Its functions are those of a module, or partials of such, so that the record can be handed to another process.

    chunks: of a training clip. components: of chunk features that Fréchet distances are measured in. moving: features of video are
    differences from the clip's first frame, or who somebody is would fill the components.
    precision: of fp32 products on a GPU, as `torch.set_float32_matmul_precision` names them.
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
    clips: Callable[[int, int, int], AVBatch]
    read: Callable[[AV, Chunks], Any]
    figures: Callable[[Any, Any], dict[str, float]]
    components: int = 32
    moving: bool = False
    precision: str = "highest"
    prepare: Callable[[Sequence[Stretch]], None] = ready
    marks: dict[str, Any] = field(default_factory=dict)
