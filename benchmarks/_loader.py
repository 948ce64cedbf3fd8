"""How fast a process turns local shards into batches, and how long a loop that takes twenty a second waits for one.

Clips have the shape of 192 x 336 pixels through Wan's autoencoder. Bytes are counted as they are stored, in fp16: each is read from the map
of its file, converted to fp32 and written to the batch once, in the order of training, with text and all that a batch consists of.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from ..datasets.format.manifest import Manifest, ShardEntry
from ..datasets.format.shards import ClipRecord, write_shard
from ..datasets.places.storage import sha256_file
from ..datasets.reading.loader import LatentDataset, StageClips
from ..datasets.reading.prefetch import Ahead
from ..model.text import TextConfig
from ..model.timeline import Timeline
from ..model.types import MODALITIES, AVBatch

CLOCK, CHUNKS = Timeline(), 5  # 16 video latents, 79 audio latents
VIDEO, AUDIO = (48, 12, 21), (64,)
SHARD_CLIPS = 320  # about 128 MB
WORDS = tuple((f"word{i}", 0.4 * i, 0.4 * i + 0.3) for i in range(6))
BATCH, RATE = 16, 20.0  # clips; batches a second


@dataclass(frozen=True)
class Loader:
    """loader_gb_s: 10^9 bytes of latents that one process copies into batches in a second; wait: seconds for a batch at `RATE`, of 100."""

    loader_gb_s: float
    wait_p50_ms: float
    wait_p99_ms: float


def measure_loader(folder: Path | None = None, shards: int = 4, seconds: float = 5.0, threads: int = 1) -> Loader:
    """Make shards in a temporary folder (in `folder`, else of the system), and read them for `seconds`, then at the rate of a loop."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _dataset(folder, shards) as path:
            clips = LatentDataset(path, TextConfig()).stage(0, "bench", BATCH)
            _throughput(clips, 1.0)  # files into memory, pages into maps
            waits = 1e3 * np.array(_waits(clips, seconds))
            return Loader(_throughput(clips, seconds), float(np.percentile(waits, 50)), float(np.percentile(waits, 99)))
    finally:
        torch.set_num_threads(before)


def _throughput(clips: StageClips, seconds: float) -> float:
    """GB/s without anything ahead: a batch at once after the other."""
    size, step, start = 0, 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        batch = clips.batch(range(step * BATCH, (step + 1) * BATCH))
        size += sum(x.numel() for _, x in batch.latents.items()) * 2  # as they are stored: fp16
        step += 1
    return size / spent / 1e9


def _waits(clips: StageClips, seconds: float) -> list[float]:
    """Seconds of each step of a loop that computes for the rest of its time, as training loops take batches."""
    found, steps = list[float](), max(20, int(seconds * RATE))

    def read(step: int) -> AVBatch:
        return clips.batch(range(step * BATCH, (step + 1) * BATCH))

    with Ahead(read, 0, steps) as ahead:
        time.sleep(1 / RATE)
        for step in range(steps):
            start = time.perf_counter()
            ahead.take(step)
            found.append(time.perf_counter() - start)
            time.sleep(max(0.0, 1 / RATE - found[-1]))
    return found


@contextmanager
def _dataset(folder: Path | None, shards: int) -> Iterator[Path]:
    """A prepared dataset of random latents."""
    rng, clips = np.random.default_rng(0), shards * SHARD_CLIPS
    with TemporaryDirectory(dir=folder, prefix="bench-loader-") as made:
        entries = []
        for shard in range(shards):
            path = Path(made) / f"shard-{shard}.arrow"
            write_shard(path, (_clip(f"{shard:03}{i:04}", rng) for i in range(SHARD_CLIPS)))
            entries.append(ShardEntry(path.name, SHARD_CLIPS, path.stat().st_size, sha256_file(path)))
        manifest = Manifest({}, (), CLOCK, MODALITIES, CHUNKS, 336, 192, {}, {}, tuple(entries), (), clips, 0.0, 1, 0, {}, True)
        manifest.write(Path(made))
        yield Path(made)


def _clip(name: str, rng: np.random.Generator) -> ClipRecord:
    shapes = (CLOCK.video_latents(CHUNKS), *VIDEO), (CLOCK.audio_latents(CHUNKS), *AUDIO)
    video, audio = (rng.standard_normal(shape, np.float32).astype(np.float16) for shape in shapes)
    return ClipRecord(name, "noise", 0.0, video, audio, "a calm voice", WORDS)
