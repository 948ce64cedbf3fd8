"""What a run moves and stores besides its arithmetic: checkpoints, weights and rollouts in the object store, S3, and data at scale."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import ceil

from ...datasets.format.account import MAX_ACCOUNT, SourceLine
from ...datasets.format.parts import SHARD_BYTES, ShardEntry
from ...datasets.intake.sources import MAX_SOURCES

DRAIN_S = 120.0  # the notice that AWS gives before it takes a spot machine
HEARD_S = 5.0  # until the ranks know of it (docs/operations.md)
BF16, FP32 = 2, 4
CLIP_ID = 24  # bytes of a clip's id between quotes, with a comma and a space, as the manifest lists those held out; about
TABLE_ROW = 120  # bytes of a clip in clips.parquet, about
RECORD = 600  # bytes of a clip's record in a shard besides its latents: ids, caption, words; about


@dataclass(frozen=True)
class Saved:
    """What one stage saves. size: bytes of a checkpoint in its middle; last: of its last one, which has no optimizer state; count: of all,
    with the last.
    """

    size: int
    last: int
    count: int

    @property
    def bytes(self) -> int:
        return self.size * (self.count - 1) + self.last


def saved(weights: int, trained: int, fake: int, steps: int, every: int) -> Saved:
    """Of a network of `weights` numbers of which `trained` are updated, with a fake score of `fake` own ones; every: 0 at the end alone.

    Weights, those of the average and of the fake score are saved in fp32, with two moments of what is trained (`workers/pieces`).
    """
    last = FP32 * (2 * weights + fake)
    return Saved(last + 2 * FP32 * (trained + fake), last, -(-steps // every) if every else 1)


@dataclass(frozen=True)
class Checkpoints:
    """size: bytes of the largest one; count, bytes: of all stages together; copy_s: that training waits for the copy of the state; write_s:
    until one is committed; drain_s: from the notice that a machine goes away until the commit, at worst; lost_s: of training that a machine
    costs at most which is lost before that, in `stage`; stages: what each of them saves.
    """

    size: int
    count: int
    bytes: int
    copy_s: float
    write_s: float
    drain_s: float
    lost_s: float
    stage: str
    stages: dict[str, Saved]

    @property
    def in_time(self) -> bool:
        return self.drain_s <= DRAIN_S


def checkpoints(
    stages: dict[str, Saved], steps: dict[str, int], step_s: dict[str, float], every: int, ranks: int, upload: float, copy: float
) -> Checkpoints:
    """steps, step_s: of each stage; every process writes its share. upload, copy: bytes/s of a process.

    A machine that is lost takes the steps since the last checkpoint, and those that were made while that one was on its way.
    """
    heaviest = max(stages, key=lambda name: stages[name].size)
    copy_s, write_s = ({name: one.size / ranks / speed for name, one in stages.items()} for speed in (copy, upload))
    lost = {name: min(steps[name], every or steps[name]) * step_s[name] + write_s[name] for name in stages}
    worst = max(lost, key=lambda name: lost[name])
    drain = max(HEARD_S + step_s[name] + copy_s[name] + write_s[name] for name in stages)
    count, total = (sum(getattr(one, what) for one in stages.values()) for what in ("count", "bytes"))
    return Checkpoints(stages[heaviest].size, count, total, copy_s[heaviest], write_s[heaviest], drain, lost[worst], worst, stages)


@dataclass(frozen=True)
class Store:
    """Bytes in Ray's object store. trainer, actor: of the machine of rank 0, and of one with rollout actors; published: a second."""

    trainer: int
    actor: int
    published: float


def store(weights: int, clip: int, batch: int, max_age: int, step_s: float, every: int) -> Store:
    """weights: numbers of the network, sent as bf16, two versions at a time; clip: bytes of a rollout, in fp32 with its exit states."""
    snapshots = 2 * BF16 * weights
    return Store(snapshots + (max_age + 1) * batch * clip, snapshots, BF16 * weights / (every * step_s))


@dataclass(frozen=True)
class Corpus:
    """A dataset of so many clips. shards, objects: files, the former of 128 MiB; bytes: of all shards; manifest, account, table: bytes of
    manifest.json, sources.jsonl and clips.parquet; node_hours: of machines that prepare it; datasets: least number of them
    that it must be split into, and why.
    """

    clips: int
    shards: int
    objects: int
    bytes: int
    manifest: int
    account: int
    table: int
    node_hours: float
    datasets: int
    why: str


def corpus(clips: int, clip_bytes: int, held_out: float, per_source: float, clips_per_s: float, cpus: int) -> Corpus:
    """clip_bytes: of its latents; per_source: clips that a source gives; clips_per_s: that one CPU prepares; cpus: of a machine."""
    size = clips * (clip_bytes + RECORD)
    shards = -(-size // SHARD_BYTES)
    entry = len(json.dumps(asdict(ShardEntry("shard-0123456789abcdefn000.arrow", 1000, SHARD_BYTES, "0" * 64)), indent=6))
    line = SourceLine("folder/of/a/corpus/name-of-a-film.mp4", "used", clips=4, seconds=20.0, frames=480, samples=882000, content="0" * 64)
    sources = ceil(clips / per_source)
    account = sources * (len(json.dumps(asdict(line))) + 1)
    manifest = shards * entry + round(clips * held_out) * CLIP_ID
    datasets = max(1, ceil(sources / MAX_SOURCES), ceil(account / MAX_ACCOUNT))
    why = (
        f"{sources:,} sources with {account / 1e9:.1f} GB of account; a dataset has at most {MAX_SOURCES:,} with {MAX_ACCOUNT / 1e9:.1f} GB"
    )
    hours = clips / clips_per_s / cpus / 3600
    return Corpus(clips, shards, 2 * shards + 3, size, manifest, account, clips * TABLE_ROW, hours, datasets, why if datasets > 1 else "")
