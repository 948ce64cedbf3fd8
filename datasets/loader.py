"""`AVBatch` for a rank from its positions: memory-mapped shards, no state besides the position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..model.text import TextConfig, Word, make_controls
from ..model.timeline import Layout
from ..model.types import AV, AVBatch
from .manifest import read_manifest
from .order import sample_at
from .shards import ClipRecord, Shard


class LatentDataset:
    """A prepared dataset. `train` and `held_out` list its clips by their ids: however a cluster cut the shards, the order is the same.

    Raises:
        ValueError: the folder holds no finished dataset, or a shard is damaged (`verify`).
    """

    def __init__(self, folder: Path, text: TextConfig, verify: bool = False) -> None:
        self.manifest = read_manifest(folder, verify)
        self.layout = Layout(self.manifest.timeline, self.manifest.clip_chunks)
        self._text = text
        self._shards = [Shard(folder / s.file) for s in self.manifest.shards]
        rows = [(shard, i, clip) for shard in self._shards for i, clip in enumerate(shard.clip_ids)]
        rows.sort(key=lambda row: row[2])
        held_out = set(self.manifest.held_out)
        self.train = [(shard, i) for shard, i, clip in rows if clip not in held_out]
        self.held_out = [(shard, i) for shard, i, clip in rows if clip in held_out]

    def held_out_records(self) -> list[ClipRecord]:
        """The clips that training never sees."""
        return [shard.row(i) for shard, i in self.held_out]

    def batch(self, seed: int, stage: str, positions: Sequence[int]) -> AVBatch:
        """The training clips at `positions` of the stage's order."""
        rows = []
        for position in positions:
            shard, row = self.train[sample_at(seed, stage, position, len(self.train))[0]]
            rows.append(shard.row(row))
        return self.collate(rows, positions)

    def collate(self, records: Sequence[ClipRecord], positions: Sequence[int]) -> AVBatch:
        """Clips -> a batch in fp32; those shorter than the dataset's clips are padded with zeros.

        Raises:
            ValueError: a clip holds other counts of latents than whole chunks have.
        """
        chunks_B = tuple(self._chunks(r) for r in records)
        clock, longest = self.layout.timeline, self.layout.chunks
        video = _stacked([r.video for r in records], clock.video_latents(longest))
        audio = _stacked([r.audio for r in records], clock.audio_latents(longest))
        words = [[Word(*w) for w in r.words] for r in records]
        return AVBatch(
            latents=AV(video=video, audio=audio),
            controls=make_controls([r.caption for r in records], words, self._text),
            layout=self.layout,
            positions=tuple(positions),
            sample_ids=tuple(r.clip_id for r in records),
            chunks_B=None if set(chunks_B) == {longest} else chunks_B,
        )

    def _chunks(self, record: ClipRecord) -> int:
        """Whole chunks of a clip, from its video latents; its audio must have as many as they need."""
        clock, found = self.layout.timeline, (len(record.video), len(record.audio))
        chunks = (found[0] - 1) // clock.chunk_video
        wanted = (clock.video_latents(chunks), clock.audio_latents(chunks))
        if not 1 <= chunks <= self.layout.chunks or found != wanted:
            raise ValueError(
                f"clip {record.clip_id}: {found[0]} video and {found[1]} audio latents are no clip of 1 to {self.layout.chunks} chunks "
                f"of {float(clock.chunk):g} s; prepare it again with this dataset's rates"
            )
        return chunks


def _stacked(latents: Sequence[np.ndarray], longest: int) -> torch.Tensor:
    """Clips of up to `longest` latents -> [B, longest, ...] in fp32, zeros behind the shorter ones."""
    whole = np.zeros((len(latents), longest, *latents[0].shape[1:]), dtype=np.float32)
    for row, x in zip(whole, latents, strict=True):
        row[: len(x)] = x
    return torch.from_numpy(whole)
