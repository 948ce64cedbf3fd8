"""A run's stages as the models of memory and time see them: `RunConfig` -> `Load`, `Step`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

from ...model.activations import FP32, Activations
from ...model.arithmetic import Arithmetic
from ...model.lora import LoraAdapter
from ...model.presets import Preset
from ...model.timeline import Timeline
from ...model.trunk import TransformerConfig
from ...workers.engine import PERSISTENT
from ...workers.loop_config import StageConfig
from ..config import RunConfig
from .memory import Load
from .timing import Step

CAPTION = 512  # tokens of a caption's features: they are padded to as many


@dataclass(frozen=True)
class Choice:
    """What a layout may choose: how many trainers, DeepSpeed's stage, clips of a forward (0: all of a process), every how many layers one
    is computed again (0: none), whether the optimizer is the host's.
    """

    trainers: int
    zero: int
    micro: int
    every: int
    offload: bool = False

    def of(self, stage: StageConfig) -> tuple[int, int]:
        """Clips of a process in a step, and of a forward."""
        clips = stage.batch // self.trainers
        return clips, self.micro or clips


def chosen(config: RunConfig) -> Choice:
    """What the run's own settings choose."""
    engine = config.engine
    away = engine.offload == "optimizer"
    return Choice(config.workers.count, engine.zero_stage, engine.micro_batch, config.execution.checkpoint_every, away)


@dataclass(frozen=True)
class Counts:
    """Numbers of a network. branches: by modality; largest: of a parameter; small: of those that ZeRO-3 keeps whole; adapter: of a `lora`
    fake score.
    """

    branches: dict[str, int]
    largest: int
    small: int
    adapter: int

    @property
    def total(self) -> int:
        return sum(self.branches.values())


@lru_cache(maxsize=32)
def counts(network: TransformerConfig, clock: Timeline, rank: int) -> Counts:
    """Counted without memory. rank: of the adapter."""
    preset = Preset(network, clock)
    net = preset.meta()
    sizes = [p.numel() for p in net.parameters()]
    with torch.device("meta"):
        adapter = sum(p.numel() for p in LoraAdapter(net, rank).parameters())
    return Counts(preset.parameters(), max(sizes), sum(n for n in sizes if n <= PERSISTENT), adapter)


def item_of(config: RunConfig) -> int:
    """Bytes of a number of the network under training."""
    return 2 if config.engine.precision == "bf16" else FP32


def arithmetic(config: RunConfig, stage: StageConfig) -> Arithmetic:
    """Of the run's clips, at full length and with all of the words that fit."""
    data, model = config.data, config.model
    side = data.video_codec.spatial
    caption = CAPTION if model.video.caption_features else model.text.max_caption_words
    return _arithmetic(Preset(model, data.timeline, side), data.height // side, data.width // side, caption, stage.modalities)


@lru_cache(maxsize=32)
def _arithmetic(preset: Preset, rows: int, columns: int, caption: int, modalities: tuple[str, ...]) -> Arithmetic:
    return Arithmetic(preset, rows, columns, torch.empty(0, 2), caption, modalities)


@lru_cache(maxsize=32)
def activations(of: Arithmetic, chunks: int, words: int, item: int) -> Activations:
    """The same ones for the same pass: they count its tokens once."""
    return Activations(of, chunks, words, item)


def load(config: RunConfig, stage: StageConfig, choice: Choice) -> Load:
    """What one training process of the stage holds."""
    o, count = config.objective, counts(config.model, config.data.timeline, config.objective.fake.rank)
    clips, micro = choice.of(stage)
    mutual, item = stage.objective == "mutual", item_of(config)
    of = arithmetic(config, stage)
    words = config.model.text.max_words
    chunks = config.data.clip_chunks
    parts = sum(1 for weight in (o.w_fm, o.w_shortcut, o.w_dmd) if weight > 0) if mutual else 1
    scales = [s for w, s in ((o.w_shortcut, o.shortcut.guidance), (o.w_dmd, o.dmd.guidance)) if w > 0] if mutual else []
    full = mutual and o.w_dmd > 0 and o.fake.kind == "full"
    return Load(
        weights=count.total,
        trained=sum(count.branches[m] for m in stage.modalities),
        largest=count.largest,
        small=count.small,
        item=item,
        zero=choice.zero,
        ranks=choice.trainers,
        live=activations(of, chunks, words, item),
        teacher=activations(of, chunks, words, FP32),
        every=choice.every,
        clips=micro,
        backwards=parts * (clips // micro),
        fakes=clips // micro,
        read=max((micro * (1 if s == 1.0 else 2) for s in scales), default=0),
        fake=count.total if full else count.adapter if mutual and o.w_dmd > 0 else 0,
        frozen=mutual and o.teacher == "frozen",
        start=config.stages.index(stage) > 0 or bool(config.init.folders()),
        offload=choice.offload,
        lazy=not config.workers.use_gpu,
    )


def step(config: RunConfig, stage: StageConfig, choice: Choice) -> Step:
    """What one step of the stage is in one process."""
    held = load(config, stage, choice)
    clips, micro = choice.of(stage)
    return Step(
        of=held.live.of,
        chunks=held.live.chunks,
        words=held.live.words,
        clips=clips,
        micro=micro,
        mutual=stage.objective == "mutual",
        objective=config.objective,
        weights=held.weights,
        trained=held.trained,
        fake=held.fake,
        zero=choice.zero,
        ranks=choice.trainers,
        item=held.item,
        every=choice.every,
        offload=choice.offload,
    )
