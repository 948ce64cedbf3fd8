"""Generation from a finished run: held-out clips for the report, and single clips for the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...datasets.drawn.sync import SyncSummary, matched_and_shuffled
from ...datasets.encoding.pretrained_codecs import CodecPair, open_codecs
from ...datasets.ffmpeg.media import write_media
from ...datasets.format.shards import ClipRecord
from ...datasets.places.storage import make_folder, write_json
from ...datasets.progress import Progress, silent
from ...datasets.reading.loader import LatentDataset
from ...datasets.views.contact_sheet import SheetClip, contact_sheet
from ...model.noise import PositionalNoise
from ...model.sampler import SamplerConfig, few_mode, generate
from ...model.transformer import AVTransformer
from ...model.types import AV, Controls
from ...workers.checkpoint import Checkpoint, finished, is_finished
from ...workers.loop_config import TrainLoopConfig
from ...workers.standing import BEST_OF, best_of
from ..config import RunConfig
from .opened_model import weights_identity
from .provenance import sheet_tags_of, tags_of

Media = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Generator:
    """A trained network with its codecs and data: that of step `step` of a stage."""

    network: AVTransformer
    dataset: LatentDataset
    stage: str
    step: int
    config: RunConfig
    identity: str  # of the weights

    def clips(
        self,
        first_frame: Tensor,
        controls: Controls,
        chunks: int,
        sampler: SamplerConfig,
        keys: Sequence[tuple[int | str, ...]],
        made_chunks: Callable[[int], None] = lambda _: None,
    ) -> list[Media]:
        """Generate one clip a key, [B, 1, C, H, W] first latents under `controls`: frames uint8 [N, H, W, 3] and audio [S].

        `made_chunks` is told how many chunks of each clip there are so far.
        """
        audio_like = (len(keys), self.config.model.audio_channels)
        made = []
        for x in generate(self.network, controls, first_frame, audio_like, chunks, sampler, PositionalNoise(keys)):
            made.append(x)
            made_chunks(len(made))
        video = torch.cat([first_frame, *(x.get("video") for x in made)], dim=1)
        audio = torch.cat([x.get("audio") for x in made], dim=1)
        return self.decoded(AV(video, audio))

    def decoded(self, latents: AV) -> list[Media]:
        """Latents of B clips -> pictures and sound."""
        codecs = self._codecs
        assert codecs.video is not None
        assert codecs.audio is not None
        frames, audio = codecs.video.decode(latents.get("video")), codecs.audio.decode(latents.get("audio")).clamp(-1, 1)
        return [(f.numpy(), a.numpy()) for f, a in zip(frames, audio, strict=True)]

    @cached_property
    def _codecs(self) -> CodecPair:
        """Opened once: pretrained ones are read and verified."""
        manifest = self.dataset.manifest
        return open_codecs(manifest.video_codec or None, manifest.audio_codec or None, self.config.data.pretrained)

    def few(self, moves: int) -> SamplerConfig:
        return few_mode(self.config.objective, moves)

    def multi(self, steps: int, guidance: float) -> SamplerConfig:
        return SamplerConfig("multi", steps, guidance=guidance, path=self.config.objective.path)


def open_generator(loop: TrainLoopConfig, config: RunConfig, stage: str = "", data: Path | None = None, device: str = "cpu") -> Generator:
    """The averaged weights of a finished stage, the run's last unless one is named, or of its best checkpoint (`best`), with the clips of
    `data` or of the run itself.

    Raises:
        ValueError: it is not finished, or the checkpoint does not fit.
    """
    if stage == BEST_OF:
        found = best_of(loop.checkpoints, [s.name for s in config.stages])
    else:
        found = finished(loop.checkpoints, _finished(loop, config, stage))
        assert found is not None, "it was there a moment ago"
    found.require(loop.architecture())
    torch.set_num_threads(config.workers.threads)  # more threads than free cores wait for each other at every operation
    dataset = LatentDataset(data or loop.data, loop.network.text, verify=True)
    return generator_of(found, loop, config, dataset, device)


def _finished(loop: TrainLoopConfig, config: RunConfig, stage: str) -> str:
    """The stage that is meant."""
    known = [s.name for s in config.stages if is_finished(loop.checkpoints, s.name)]
    if not known:
        raise ValueError(f"run {str(loop.run_dir)!r}: no stage is finished; train it first: mutual-forcing train {config.name}")
    if stage and stage not in known:
        raise ValueError(
            f"run {str(loop.run_dir)!r}: stage {stage!r} is not finished; finished are {', '.join(known)}; give RUN or RUN@STAGE"
        )
    return stage or known[-1]


def generator_of(
    checkpoint: Checkpoint, loop: TrainLoopConfig, config: RunConfig, dataset: LatentDataset, device: str = "cpu"
) -> Generator:
    """A network with the averaged weights of a checkpoint, beside the clips of `dataset`.

    Raises:
        ValueError: they are gone, or damaged.
    """
    weights = checkpoint.weights("ema")
    network = AVTransformer(loop.network, loop.timeline, loop.execution).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return Generator(network.to(device), dataset, checkpoint.stage, checkpoint.step, config, weights_identity(weights))


def make_samples(generator: Generator, run_dir: Path, progress: Progress = silent) -> dict[str, Any]:
    """Generate from held-out controls in both modes, measure sync, write clips, a contact sheet and samples.json.

    `progress` counts the chunks of all clips, a bar a mode (their rates differ), then the clips that are written.
    """
    config, dataset = generator.config, generator.dataset
    folder = make_folder("run", run_dir / "samples")
    records = dataset.held_out_records()[: config.samples.clips]
    batch = dataset.collate(records, range(len(records)))
    first = batch.latents.get("video")[:, :1]
    keys = [(config.seed, "sample", r.clip_id) for r in records]
    samplers = {
        f"few{config.objective.few.moves}": few_mode(config.objective),
        "multi": generator.multi(config.samples.multi_steps, config.samples.multi_guidance),
    }
    made = {"real": generator.decoded(batch.latents)}
    speed = {}
    for name, sampler in samplers.items():
        start = time.monotonic()
        chunks = batch.layout.chunks
        told = partial(_tell, progress, f"generate chunks, {name}", len(records), chunks)
        told(0)
        made[name] = generator.clips(first, batch.controls, chunks, sampler, keys, told)
        seconds = time.monotonic() - start
        frames = sum(len(f) for f, _ in made[name])
        speed[name] = {"evaluations_per_chunk": sampler.evaluations, "frames_per_s": round(frames / seconds, 2)}
    shown = records[: config.samples.shown]
    clips = []
    for i, record in enumerate(shown):
        progress("write held-out clips", i, len(shown))
        clips.append(_write_clip(folder, i, record, made, dataset, generator.identity))
    progress("write held-out clips", len(shown), len(shown))
    contact_sheet(_sheet(records, made, dataset, config.samples.shown), folder / "contact.png", tags=sheet_tags_of(generator.identity))
    t = dataset.manifest.timeline
    measured = made if dataset.manifest.synthetic and len(records) > 1 else {}  # on real faces the measure means nothing
    sync = {}
    for name, media in measured.items():
        progress("measure sync", len(sync), len(measured))
        sync[name] = _sync(matched_and_shuffled(media, t.fps, t.sample_rate))
        progress("measure sync", len(sync), len(measured))
    value = {
        "proxy_valid": dataset.manifest.synthetic,
        "stage": generator.stage,
        "clips": clips,
        "sync": sync,
        "generation": speed,
        "contact": "contact.png",
    }
    write_json(folder / "samples.json", value)
    return value


def _tell(progress: Progress, stage: str, clips: int, chunks: int, made: int) -> None:
    progress(stage, made * clips, chunks * clips)


def _write_clip(
    folder: Path, i: int, record: ClipRecord, made: dict[str, list[Media]], dataset: LatentDataset, identity: str
) -> dict[str, Any]:
    t = dataset.manifest.timeline
    names = {}
    for name, media in made.items():
        names[name] = f"{name}-{i:03d}.mp4"
        frames, audio = media[i]
        write_media(folder / names[name], frames, t.fps, audio, t.sample_rate, None if name == "real" else tags_of(identity))
    return {
        "id": record.clip_id,
        "caption": record.caption,
        "words": [{"word": w, "start": s, "end": e} for w, s, e in record.words],
        "real": names.pop("real"),
        "generated": names,
    }


def _sheet(records: list[ClipRecord], made: dict[str, list[Media]], dataset: LatentDataset, shown: int) -> list[SheetClip]:
    t = dataset.manifest.timeline
    return [
        SheetClip(f"{name} {i}", *media[i], t.fps, t.sample_rate, list(records[i].words))
        for i in range(min(shown, len(records)))
        for name, media in made.items()
    ][:12]


def _sync(s: SyncSummary) -> dict[str, Any]:
    """The figures of one mode as samples.json holds them; `report/sections` reads them back."""
    return {
        "matched": round(s.matched, 4),
        "shuffled": round(s.shuffled, 4),
        "gap": round(s.gap, 4),
        "gap_ci": [round(s.low, 4), round(s.high, 4)],
        "lag_s": round(s.lag_s, 4),
        "n": s.clips,
    }
