"""`AVBatch` for a rank from clips that come as they are decoded: pass after pass, each clip once in each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import closing

import pyarrow as pa

from ...model.types import AVBatch
from ..format.records import ClipRecord
from ..reading.loader import LatentDataset
from .packed_clip import unpack_clip

Passes = Callable[[str, frozenset[str]], Generator[pa.Buffer, None, None]]
"""This rank's share of the clips of a stage in a pass, without those that a resumed stage has had in it; all ranks have equally many."""


class StreamedClips:
    """The clips of a stage on one rank, in the order in which they come. had: of a resumed stage, the pass that it is in, and which of its
    clips it has had.
    """

    def __init__(
        self, dataset: LatentDataset, stage: str, modalities: Sequence[str], passes: Passes, had: tuple[int, frozenset[str]] | None
    ) -> None:
        self._dataset, self._stage, self._modalities, self._passes = dataset, stage, tuple(modalities), passes
        self._number, self._had = had or (0, frozenset())
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
        """No more is wanted: what decodes for it ends. Where a clip is being waited for in another thread, it ends with the process."""
        if inspect.getgeneratorstate(self._clips) != inspect.GEN_RUNNING:
            self._clips.close()

    def _all(self) -> Generator[tuple[int, ClipRecord], None, None]:
        while True:
            some = bool(self._had)
            with closing(self._passes(self._stage, self._had)) as clips:
                for packed in clips:
                    some = True
                    yield self._number, unpack_clip(packed)
            if not some:
                raise ValueError(
                    f"stage {self._stage!r}: data.media gave no clip a worker in a whole pass; streamed.jsonl in the run's folder says why"
                )
            self._number, self._had = self._number + 1, frozenset()
