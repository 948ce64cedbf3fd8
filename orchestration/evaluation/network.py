"""One run under evaluation: its network, the clips that it makes from prompts, and what real clips of the same dataset look like.

run folder -> open_subject -> Subject.made: prompts -> clips, a few at a time -> Gathered (workers.evaluation)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch

from ...datasets.format.manifest import MANIFEST, open_manifest
from ...datasets.format.records import ClipRecord
from ...datasets.places.storage import local_path
from ...datasets.places.store import is_remote, store_of
from ...datasets.reading.loader import LatentDataset
from ...datasets.transfer import DataSource, dataset_here, remote_manifest, told
from ...model.noise import PositionalNoise
from ...model.sampler import SamplerConfig, generate
from ...model.types import AV
from ...workers.evaluation.clip import EvalClip
from ..generation.opened_model import parted
from ..generation.samples import Generator, open_generator
from ..run_record import loop_config, open_run, require_both
from .prompts import controls_of, first_latents, latents_of, spread

BATCH = 4  # clips at once
WARM = 1  # chunks at the beginning of a batch whose time does not count


@dataclass(frozen=True)
class Speed:
    """evaluations: of the network, a chunk; commit: those that write a finished chunk into its memory. frames: pictures a second of `clips`
    clips at a time.
    """

    evaluations: int
    commit: int
    frames_per_s: float
    clips: int


@dataclass
class Subject:
    """A network under evaluation and how it samples. `speed` is known when clips were made."""

    name: str
    run_dir: Path
    data: Path
    generator: Generator
    sampler: SamplerConfig
    seed: int
    device: str
    speed: Speed | None = None

    def about(self) -> dict[str, Any]:
        """How its clips were made, as plain values. An evaluation is one pass of the network; a guided step takes two."""
        s = self.sampler
        told: dict[str, Any] = {"run": str(self.run_dir), "stage": self.generator.stage, "step": self.generator.step}
        told |= {"mode": s.mode, "moves": s.moves}
        if s.mode == "multi":
            told["guidance"] = s.guidance
        told["parameters"] = sum(p.numel() for p in self.generator.network.parameters())
        if self.speed is not None:
            told |= {
                "evaluations_per_chunk": self.speed.evaluations,
                "evaluations_to_commit": self.speed.commit,
                "frames_per_s": round(self.speed.frames_per_s, 2),
                "clips_at_once": self.speed.clips,
                "device": self.device,
            }
        return told

    def chunks(self, seconds: float) -> int:
        """How many chunks have pictures for so long."""
        timeline = self.generator.dataset.manifest.timeline
        return max(1, ceil((seconds - 1 / timeline.fps) / float(timeline.chunk)))

    def made(self, records: Sequence[ClipRecord], seconds: float, made_chunks: Callable[[int], None]) -> Iterator[EvalClip]:
        """Clips of at least `seconds` from held-out clips' first latents, captions and words; the same whatever the batch."""
        dataset, timeline, chunks = self.generator.dataset, self.generator.dataset.manifest.timeline, self.chunks(seconds)
        frames, taken = 0, 0.0
        for first in range(0, len(records), BATCH):
            some = records[first : first + BATCH]
            words = [spread(tuple(r.words), timeline.seconds(latents_of(dataset, r)[1]), timeline.seconds(chunks)) for r in some]
            parts, took = self._latents(some, words, chunks, made_chunks)
            frames, taken = frames + len(some) * timeline.chunk_frames * max(0, chunks - WARM), taken + took
            self.speed = Speed(
                self.sampler.evaluations,
                2 if self.sampler.mode == "multi" and self.sampler.guidance != 1.0 else 1,
                frames / taken if taken > 0 else 0.0,
                min(BATCH, len(records)),
            )
            media = self.generator.decoded(parts)
            for i, (record, one) in enumerate(zip(some, media, strict=True)):
                latents = parts.map(lambda x, i=i: x[i : i + 1])
                known = {"caption": record.caption, "words": words[i], "latents": latents, "synthetic": dataset.manifest.synthetic}
                yield EvalClip.of(record.clip_id, one, timeline, chunks, **known)

    def _latents(
        self, records: Sequence[ClipRecord], words: Sequence[tuple[tuple[str, float, float], ...]], chunks: int, told: Callable[[int], None]
    ) -> tuple[AV, float]:
        """Latents of clips, and the seconds that all but the first chunk took."""
        config, dataset = self.generator.config, self.generator.dataset
        first = first_latents(dataset, records).to(self.device)
        controls = controls_of(config.model.text, [r.caption for r in records], words).to(self.device)
        noise = PositionalNoise([(self.seed, "evaluate", r.clip_id) for r in records], self.device)
        audio = (len(records), config.model.audio_channels)
        parts, began = list[AV](), time.monotonic()
        for x in generate(self.generator.network, controls, first, audio, chunks, self.sampler, noise):
            parts.append(x.map(lambda y: y.cpu()))
            if len(parts) == WARM:
                began = time.monotonic()
            told(len(records))
        taken = time.monotonic() - began
        video = torch.cat([first.cpu(), *(x.get("video") for x in parts)], dim=1)
        return AV(video, torch.cat([x.get("audio") for x in parts], dim=1)), taken

    def real(self, records: Sequence[ClipRecord]) -> Iterator[EvalClip]:
        """Real clips as they come back from their latents, one at a time."""
        dataset = self.generator.dataset
        for record in records:
            latents, chunks = latents_of(dataset, record)
            [media] = self.generator.decoded(latents)
            known = {"caption": record.caption, "words": tuple(record.words), "latents": latents, "synthetic": dataset.manifest.synthetic}
            yield EvalClip.of(record.clip_id, media, dataset.manifest.timeline, chunks, **known)


def open_subject(
    run: str, name: str, data: Path | None, mode: str, moves: int | None, guidance: float | None, seed: int, device: str = "cpu"
) -> Subject:
    """The averaged weights of a run's last finished stage, of `RUN@STAGE`, or of its best checkpoint (`RUN@best`), with the clips of `data`
    or of the run itself.

    Raises:
        ValueError: no such run, stage, mode or device, or the dataset is not of the run's codecs and rates.
    """
    path, stage = parted(run)
    run_dir = local_path("CHECKPOINT", path)
    config = open_run(run_dir)
    loop = loop_config(config, run_dir)
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device={device!r}: PyTorch sees no GPU here; leave it off")
    generator = open_generator(loop, config, stage or "", data, device)
    require_both(config, generator.stage)
    _require_alike(run, generator.dataset, loop.data, data)
    return Subject(name, run_dir, data or loop.data, generator, _sampler(generator, mode, moves, guidance), seed, device)


def data_folder(uri: str | None) -> Path | None:
    """A prepared dataset as a folder here; one in S3 is copied into the cache.

    Raises:
        ValueError: it is none, or S3 does not answer.
    """
    if uri is None:
        return None
    if not is_remote(uri):
        return local_path("--data", uri)
    with told("--data", uri), store_of(uri) as store:
        contents = remote_manifest(store).contents()
    return dataset_here(Path(uri), DataSource(uri, contents))


def _sampler(generator: Generator, mode: str, moves: int | None, guidance: float | None) -> SamplerConfig:
    samples = generator.config.samples
    if mode not in ("few", "multi"):
        raise ValueError(f"--mode={mode!r}: choose few or multi")
    if mode == "few" and guidance is not None:
        raise ValueError(f"--guidance={guidance:g}: mode few has learned its guidance; give --mode multi to choose one")
    if mode == "few":
        return generator.few(moves or generator.config.objective.few.moves)
    return generator.multi(moves or samples.multi_steps, samples.multi_guidance if guidance is None else guidance)


def _require_alike(run: str, dataset: LatentDataset, own: Path, data: Path | None) -> None:
    """Latents of another codec or rate would be decoded into nonsense."""
    if data is None or not (own / MANIFEST).is_file():
        return
    trained = open_manifest(own / MANIFEST)
    for name in ("timeline", "video_codec", "audio_codec", "width", "height"):
        if getattr(trained, name) != getattr(dataset.manifest, name):
            raise ValueError(f"--data={str(data)!r}: has another {name} than the clips that {run!r} was trained on; prepare it alike")
