"""`AVBatch` for a rank from its positions: memory-mapped shards, or ranges of shards in S3, no state besides the position.

folder(s) -> LatentDataset: rows of all shards, sorted by the clips' ids
               .stage(seed, stage, batch) -> StageClips: position -> clip -> batch
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch

from ...model.text import TextConfig, Word, make_controls
from ...model.timeline import Layout, Timeline
from ...model.types import AV, MODALITIES, AVBatch
from ..format.manifest import Manifest
from ..format.records import ClipRecord, Shapes, shapes_of
from ..format.shards import Index, Shard
from ..format.sixteen_bits import read
from ..places.storage import user_cache
from ..places.store import store_of
from .members import Member, members_of
from .order import Order, Rows
from .piece_cache import PieceCache
from .range_shard import RangeShard

PIECES = "pieces"  # of shards in S3, in the user's cache
REQUESTS = 16  # at once to S3
T = TypeVar("T")
U = TypeVar("U")

with warnings.catch_warnings():  # of memory that cannot be written to torch warns once a process; shards are only read
    warnings.simplefilter("ignore")
    torch.from_numpy(np.frombuffer(b"\0\0", np.float16))


class _Shard(Protocol):
    @property
    def index(self) -> Index: ...

    @property
    def clip_ids(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def row(self, index: int) -> ClipRecord: ...


class _Split:
    """Clips of one dataset that are trained on, or held out."""

    def __init__(self, shards: Sequence[_Shard], keep: Callable[[str], bool]) -> None:
        rows = [(clip, s, i) for s, shard in enumerate(shards) for i, clip in enumerate(shard.clip_ids) if keep(clip)]
        rows.sort()  # however a cluster cut the shards, the order is the same
        self.ids = [clip for clip, _, _ in rows]
        self._shard, self._row = (np.array([r[k] for r in rows], np.int32) for k in (1, 2))
        self._shards = shards

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, number: int) -> tuple[_Shard, int]:
        return self._shards[self._shard[number]], int(self._row[number])

    def shapes(self) -> list[Shapes]:
        return [shard.index.shapes[row] for shard, row in map(self.at, range(len(self)))]


class LatentDataset:
    """A prepared dataset, or several that training mixes by weight. text: what of the clips' text a batch holds.

    data: a run's folder of data (see `members`), or the datasets themselves. Of several, the first gives `manifest`.

    Raises:
        ValueError: a folder holds no finished dataset, a shard is damaged (`verify`: or has another hash), or the datasets do not fit.
        OSError: a store that is read by ranges does not answer.
    """

    def __init__(self, data: Path | Sequence[Member], text: TextConfig, verify: bool = False) -> None:
        members = members_of(data) if isinstance(data, Path) else list(data)
        manifests = [member.manifest(verify) for member in members]
        self.manifest = manifests[0]
        for member, manifest in zip(members, manifests, strict=True):
            _require_alike(member, self.manifest, manifest)
        self.layout = Layout(self.manifest.timeline, max(m.clip_chunks for m in manifests))
        self.remote = any(member.ranged for member in members)
        self._text, self._weights = text, [member.weight for member in members]
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="ranges") if self.remote else None
        self._train, self._held_out = list[_Split](), list[_Split]()
        for member, manifest in zip(members, manifests, strict=True):
            shards, held_out, dropped = self._opened(member, manifest), set(manifest.held_out), manifest.dropped.keys()
            self._train.append(_Split(shards, lambda clip, no=held_out | dropped: clip not in no))
            self._held_out.append(_Split(shards, lambda clip, yes=held_out - dropped: clip in yes))

    @property
    def train_ids(self) -> list[str]:
        """Ids of the clips that are trained on, dataset by dataset, each sorted."""
        return [clip for split in self._train for clip in split.ids]

    @property
    def train(self) -> list[tuple[_Shard, int]]:
        """Where they are: a shard and the row in it."""
        return [split.at(i) for split in self._train for i in range(len(split))]

    @property
    def held_out(self) -> list[tuple[_Shard, int]]:
        """Where the others are."""
        return [split.at(i) for split in self._held_out for i in range(len(split))]

    def held_out_records(self) -> list[ClipRecord]:
        """The clips that training never sees."""
        return self._records(self.held_out)

    def stage(self, seed: int, stage: str, batch: int = 1, modalities: Sequence[str] = MODALITIES) -> StageClips:
        """The training clips that have all these modalities, in the order of a stage of global batches of `batch` clips.

        Raises:
            ValueError: there are none, or one holds other counts of latents than whole chunks have.
        """
        return StageClips(self, seed, stage, batch, tuple(modalities))

    def collate(
        self, records: Sequence[ClipRecord], positions: Sequence[int], chunks: int = 0, modalities: Sequence[str] = MODALITIES
    ) -> AVBatch:
        """Clips -> a batch in fp32 of those of the modalities that they have; those shorter than `chunks` (0: as the dataset's longest) are
        padded with zeros.

        Raises:
            ValueError: a clip holds other counts of latents than whole chunks have, or clips differ in more than their length.
        """
        longest, clock = chunks or self.layout.chunks, self.layout.timeline
        chunks_B = tuple(self.chunks(r.clip_id, shapes_of(r), modalities) for r in records)
        kinds = {_kind(shapes_of(r), modalities): r.clip_id for r in records}
        if len(kinds) > 1:
            one, other, *_ = kinds.values()
            raise ValueError(f"clips {one} and {other}: have latents of different shapes, and cannot be in one batch; take one of them")
        wanted = {"video": clock.video_latents(longest), "audio": clock.audio_latents(longest)}
        latents = {m: [x for r in records if (x := r.latents(m)) is not None] for m in modalities}
        words = [[Word(*w) for w in r.words] for r in records]
        return AVBatch(
            latents=AV(**{m: _stacked(each, wanted[m]) for m, each in latents.items() if each}),
            controls=make_controls([r.caption for r in records], words, self._text),
            layout=Layout(clock, longest),
            positions=tuple(positions),
            sample_ids=tuple(r.clip_id for r in records),
            chunks_B=None if set(chunks_B) == {longest} else chunks_B,
        )

    def chunks(self, clip: str, shapes: Shapes, modalities: Sequence[str] = MODALITIES) -> int:
        """Whole chunks of a clip, from its latents; where it has both modalities, they must have the same.

        Raises:
            ValueError: it is no clip of whole chunks of this dataset's rates.
        """
        video, audio = (None if s is None or m not in modalities else s[0] for m, s in zip(MODALITIES, shapes, strict=True))
        chunks = chunks_of(self.layout.timeline, video, audio)
        if not 1 <= chunks <= self.layout.chunks:
            found = " and ".join(f"{n} {m}" for m, n in zip(MODALITIES, (video, audio), strict=True) if n is not None)
            raise ValueError(
                f"clip {clip}: {found or 'no'} latents are no clip of 1 to {self.layout.chunks} chunks "
                f"of {float(self.layout.timeline.chunk):g} s; prepare it again with this dataset's rates"
            )
        return chunks

    def _opened(self, member: Member, manifest: Manifest) -> list[_Shard]:
        if not member.ranged:
            return [Shard(member.folder / s.file) for s in manifest.shards]
        store = store_of(member.uri)
        cache = PieceCache(user_cache() / PIECES, int(member.cache_gb * 1e9))
        return self._each(lambda entry: RangeShard(store, entry, cache), manifest.shards)

    def _records(self, rows: Sequence[tuple[_Shard, int]]) -> list[ClipRecord]:
        return self._each(lambda row: row[0].row(row[1]), rows)

    def _each(self, make: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """Of what waits for S3, many at once."""
        return list(map(make, items) if self._pool is None else self._pool.map(make, items))


class StageClips:
    """The training clips of a stage in its order: the same for every process that has the same datasets, whatever it reads of them."""

    def __init__(self, dataset: LatentDataset, seed: int, stage: str, batch: int, modalities: tuple[str, ...]) -> None:
        self._dataset, self._modalities = dataset, modalities
        sets, kinds, places = list[Rows](), dict[Shapes, int](), list[np.ndarray]()
        for member, (split, weight) in enumerate(zip(dataset._train, dataset._weights, strict=True)):
            rows, lengths, numbers, known = list[int](), list[int](), list[int](), dict[Shapes, tuple[int, int]]()
            for row, shapes in enumerate(split.shapes()):
                if any(shapes[MODALITIES.index(m)] is None for m in modalities):
                    continue
                if shapes not in known:
                    kind = kinds.setdefault(_kind(shapes, modalities), len(kinds))
                    known[shapes] = kind, dataset.chunks(split.ids[row], shapes, modalities)
                numbers.append(known[shapes][0])
                lengths.append(known[shapes][1])
                rows.append(row)
            if len(split) and not lengths:
                raise ValueError(f"stage {stage!r}: a dataset has no clip with {' and '.join(modalities)}; train it on another")
            sets.append(Rows(np.array(numbers, np.int64), np.array(lengths, np.int64), weight))
            places.append(np.stack([np.full(len(rows), member), np.array(rows, np.int64)], axis=1))
        self.order = Order(seed, stage, sets, batch)
        self._lengths, self._places = np.concatenate([rows.lengths for rows in sets]), np.concatenate(places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def ids(self) -> list[str]:
        return [split.ids[row] for split, row in map(self._place, range(len(self)))]

    def at(self, position: int) -> tuple[str, int]:
        """(id of the clip, visit)."""
        number, visit = self.order.at(position)
        split, row = self._place(number)
        return split.ids[row], visit

    def batch(self, positions: Sequence[int]) -> AVBatch:
        """The clips at these positions, as long as the longest of the global batches that they belong to.

        Raises:
            ValueError: a shard is damaged.
            OSError: a store does not answer.
        """
        places = [split.at(row) for split, row in (self._place(self.order.at(p)[0]) for p in positions)]
        return self._dataset.collate(self._dataset._records(places), positions, self._longest(positions), self._modalities)

    def _place(self, number: int) -> tuple[_Split, int]:
        member, row = self._places[number]
        return self._dataset._train[member], int(row)

    def _longest(self, positions: Sequence[int]) -> int:
        if self.order.uniform:
            return int(self._lengths[0])
        batches = {self.order.batch_of(p) for p in positions}
        return max(int(self._lengths[self.order.at(p)[0]]) for batch in batches for p in batch)


@lru_cache(1024)
def chunks_of(clock: Timeline, video: int | None, audio: int | None) -> int:
    """Chunks that so many latents are exactly, of each modality that is there; 0 if they are not, or none is there."""
    if video is not None:
        chunks = (video - 1) // clock.chunk_video
        right = video == clock.video_latents(chunks)
    else:
        chunks = ceil((audio or 0) / clock.chunk / clock.audio_rate)
        chunks -= clock.audio_latents(chunks) > (audio or 0)
        right = audio is not None
    return chunks if right and audio in (None, clock.audio_latents(chunks)) else 0


def _kind(shapes: Shapes, modalities: Sequence[str]) -> Shapes:
    """What clips of a batch have in common: the shapes of one latent."""
    video, audio = (s[1:] if s is not None and m in modalities else None for m, s in zip(MODALITIES, shapes, strict=True))
    return video, audio


def _require_alike(member: Member, first: Manifest, other: Manifest) -> None:
    """Latents of several datasets must be of one kind."""
    for name in ("timeline", "video_codec", "audio_codec"):
        if getattr(first, name) != getattr(other, name):
            raise ValueError(f"data.mix: {member.uri or str(member.folder)!r} has another {name} than the first dataset; prepare it alike")


def _stacked(latents: Sequence[np.ndarray], longest: int) -> torch.Tensor:
    """Clips of up to `longest` latents -> [B, longest, ...] in fp32, zeros behind the shorter ones. Each number is copied once."""
    shape = (len(latents), longest, *latents[0].shape[1:])
    whole = torch.from_numpy(np.empty(shape, np.float32))  # NumPy asks for large pages, which are filled several times faster
    for row, x in zip(whole, latents, strict=True):
        row[: len(x)].copy_(read(x))
        row[len(x) :].zero_()
    return whole
