"""What the real rows of `bench rollouts` train: the demo's network on clips of noise, because time does not see what clips show."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ..datasets.format.account import SourceLine, write_account
from ..datasets.format.manifest import Manifest, ShardEntry
from ..datasets.format.shards import ClipRecord, write_shard
from ..datasets.places.storage import sha256_file
from ..datasets.places.store import LocalStore
from ..datasets.reading.loader import LatentDataset
from ..model.ema import ema_decay, ema_update
from ..model.noise import PositionalNoise, position_seed
from ..model.objective import ObjectiveConfig
from ..model.sampler import roll_out
from ..model.transformer import AVTransformer
from ..model.types import MODALITIES, AVBatch, Rollout
from ..orchestration.config import RunConfig
from ..orchestration.recipes import recipe
from ..workers.plain_engine import PlainEngine
from ..workers.train_step import Networks, mutual_step

STAGE = "mutual"


def demo() -> RunConfig:
    """The run whose sizes these rows have."""
    return recipe("demo")


def make_clips(config: RunConfig, folder: Path, clips: int = 24) -> None:
    """A prepared dataset of noise in the shape that the run's clips have."""
    data, rng = config.data, np.random.default_rng(0)
    clock, chunks = data.timeline, data.clip_chunks
    side = (data.height // data.video_codec.spatial, data.width // data.video_codec.spatial)
    video = (clock.video_latents(chunks), config.model.video_channels, *side)
    audio = (clock.audio_latents(chunks), config.model.audio_channels)
    words = (("a", 0.0, 0.3), ("word", 0.4, 0.8))

    def record(i: int) -> ClipRecord:
        def latents(shape: tuple[int, ...]) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float16)

        return ClipRecord(f"clip-{i:03}", "noise", 0.0, latents(video), latents(audio), "noise", words)

    folder.mkdir(parents=True)
    shard = folder / "shard-0.arrow"
    write_shard(shard, [record(i) for i in range(clips)])
    manifest = Manifest(
        settings=data.shaping(),
        inputs=("noise",),
        modalities=MODALITIES,
        timeline=clock,
        clip_chunks=chunks,
        width=data.width,
        height=data.height,
        video_codec=asdict(data.video_codec) | {"kind": "dct-video"},
        audio_codec=asdict(data.audio_codec) | {"kind": "mdct-audio"},
        shards=(ShardEntry(shard.name, clips, shard.stat().st_size, sha256_file(shard)),),
        held_out=("clip-000",),
        clips=clips,
        hours=0.0,
        sources_used=1,
        sources_refused=0,
        codec_quality={},
        synthetic=True,
    )
    write_account(LocalStore(folder), manifest.account, [SourceLine("noise", "used", clips=clips)])
    manifest.write(folder)


class Trainer:
    """The mutual stage of one rank of one thread: `step` does the maths, `roll_out` makes a step's histories in this process."""

    def __init__(self, config: RunConfig, objective: ObjectiveConfig, folder: Path, batch: int) -> None:
        optimizer = next(s for s in config.stages if s.name == STAGE).optimizer
        self._seed, self._objective, self._batch, self._rate = config.seed, objective, batch, optimizer.lr
        self._data = LatentDataset(folder, config.model.text).stage(config.seed, STAGE, batch)
        torch.manual_seed(position_seed(config.seed, "init"))
        live = AVTransformer(config.model, config.data.timeline)
        self.ema = AVTransformer(config.model, config.data.timeline).requires_grad_(False)
        self.ema.load_state_dict(live.state_dict())
        fake = None
        if objective.w_dmd > 0:
            network = AVTransformer(config.model, config.data.timeline)
            network.load_state_dict(live.state_dict())
            fake = PlainEngine(network, [(1.0, list(network.parameters()))], optimizer)
        groups = live.parameter_groups(MODALITIES, objective.few.lr_ratio)
        self._live, self._networks = live, Networks(PlainEngine(live, groups, optimizer), self.ema, fake)

    def roll_out(self, step: int) -> Rollout:
        batch = self._clips(step)
        noise = PositionalNoise([(self._seed, sample, 0) for sample in batch.sample_ids])
        return roll_out(self.ema, batch.latents, batch.controls, batch.layout, self._objective, noise, step)

    def step(self, step: int, rollout: Rollout) -> None:
        batch = self._clips(step)
        noise = PositionalNoise([(self._seed, STAGE, p) for p in batch.positions])
        mutual_step(self._networks, batch, rollout, noise, self._objective, self._rate)
        ema_update(self.ema.parameters(), self._live.parameters(), ema_decay(0.9, step))

    def _clips(self, step: int) -> AVBatch:
        return self._data.batch(range(step * self._batch, (step + 1) * self._batch))
