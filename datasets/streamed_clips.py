"""`AVBatch` for a rank from clips that come as they are decoded: pass after pass, each clip once in each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import pyarrow as pa

from ..model.types import AVBatch
from .loader import LatentDataset
from .packed_clip import unpack_clip
from .records import ClipRecord

Passes = Callable[[str, bool], Generator[pa.Buffer, None, None]]
"""Of a stage, this rank's share of the clips in a pass (all ranks have equally many): of all, or (True) of those that a resumed stage has
not had in the pass that it was stopped in."""


class StreamedClips:
    """The clips of a stage on one rank, in the order in which they come. first: the pass that the stage is in, some of which it has had."""

    def __init__(self, dataset: LatentDataset, stage: str, modalities: Sequence[str], passes: Passes, first: int | None) -> None:
        self._dataset, self._stage, self._modalities, self._passes = dataset, stage, tuple(modalities), passes
        self._number, self._resumed = first or 0, first is not None
        self._clips, self._came = self._all(), dict[tuple[int, ...], tuple[int, ...]]()

    def batch(self, positions: Sequence[int]) -> AVBatch:
        """The next clips; they stand at these positions from now on.

        Raises:
            ValueError: no clip came in a whole pass.
        """
        taken = [next(self._clips) for _ in positions]
        self._came[tuple(positions)] = tuple(number for number, _ in taken)
        return self._dataset.collate([clip for _, clip in taken], positions, modalities=self._modalities)

    def passes(self, positions: Sequence[int]) -> tuple[int, ...]:
        """In which pass each clip of a batch came; may be asked once."""
        return self._came.pop(tuple(positions))

    def close(self) -> None:
        """No more is wanted: what decodes for it ends."""
        self._clips.close()

    def _all(self) -> Generator[tuple[int, ClipRecord], None, None]:
        rest = self._resumed
        while True:
            some = False
            with closing(self._passes(self._stage, rest)) as clips:
                for packed in clips:
                    some = True
                    yield self._number, unpack_clip(packed)
            if not some and not rest:
                raise ValueError(
                    f"stage {self._stage!r}: data.media gave no clip a worker in a whole pass; streamed.jsonl in the run's data says why"
                )
            self._number, rest = self._number + 1, False
