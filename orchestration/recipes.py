"""Named complete runs: a recipe is a function that returns a `RunConfig`. The command line takes its name and `--set`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..datasets.config import DataConfig
from ..datasets.encoding.pretrained_codecs import PretrainedConfig
from ..model.codecs.dct import DctVideoConfig
from ..model.codecs.mdct import MdctAudioConfig
from ..model.execution import ExecutionConfig
from ..model.objective import DmdConfig, FakeConfig, FewConfig, HistoryConfig, ObjectiveConfig, ShortcutConfig, variants
from ..model.presets import PRESETS
from ..model.trunk import TransformerConfig
from ..workers.engine import EngineConfig
from ..workers.loop_config import StageConfig
from ..workers.optimizer import OptimizerConfig
from ..workers.retention import CheckpointConfig
from .config import RolloutsConfig, RunConfig, SamplesConfig, WorkersConfig

ANNEAL = OptimizerConfig(lr=5e-5, clip=1.0, warmup=0.25, decay=0.6, final_lr_share=0.05)
SMALL_NETWORK = OptimizerConfig(lr=3e-3, clip=1.0, warmup=0.05, decay=0.4, final_lr_share=0.05)


def demo() -> RunConfig:
    """Talking characters, from scratch, in minutes on two CPU cores: the whole method with a network of 2.7 M parameters.

    The learning rate is 60 times the paper's, which is for 14 B parameters, until the mutual stage, which has too few steps to anneal
    again: there it is the paper's own, and only what tells the modes apart learns fast. Guidance is mild, because a model this young
    has little to exaggerate.
    """
    return RunConfig(
        name="demo",
        data=DataConfig(synthetic_count=120, held_out_share=0.2, video_codec=DctVideoConfig(channels=24)),
        model=TransformerConfig(video_channels=24, window=4),
        objective=ObjectiveConfig(
            few=FewConfig(lr_ratio=60.0),
            history=HistoryConfig(context_noise=0.4),
            shortcut=ShortcutConfig(guidance=1.5),
            dmd=DmdConfig(guidance=1.5),
            fake=FakeConfig(updates=1, lr_ratio=4.0),
        ),
        stages=(
            StageConfig("pretrain-video", 60, 16, modalities=("video",), optimizer=SMALL_NETWORK, ema=0.98),
            StageConfig("pretrain-audio", 60, 16, modalities=("audio",), optimizer=SMALL_NETWORK, ema=0.98),
            StageConfig("joint", 320, 16, optimizer=SMALL_NETWORK, ema=0.98),
            StageConfig("mutual", 24, 8, objective="mutual", optimizer=ANNEAL, ema=0.9),
        ),
        samples=SamplesConfig(clips=40, multi_guidance=1.5, windows="0-2.5,2.5-5"),
    )


def tiny() -> RunConfig:
    """Every part of the main job once, in under two minutes: what the end-to-end test runs. It learns little."""
    return RunConfig(
        name="tiny",
        data=DataConfig(synthetic_count=8, synthetic_seconds=2.6, clip_chunks=2, width=32, height=32, held_out_share=0.25),
        model=TransformerConfig(video_width=32, audio_width=32, depth=2, heads=2, head_dim=16, window=1),
        objective=ObjectiveConfig(
            few=FewConfig(lr_ratio=2.0), shortcut=ShortcutConfig(guidance=1.5), dmd=DmdConfig(guidance=1.5), fake=FakeConfig(updates=1)
        ),
        stages=(
            StageConfig("pretrain-video", 3, 4, modalities=("video",), optimizer=SMALL_NETWORK, ema=0.9),
            StageConfig("pretrain-audio", 3, 4, modalities=("audio",), optimizer=SMALL_NETWORK, ema=0.9),
            StageConfig("joint", 6, 4, optimizer=SMALL_NETWORK, ema=0.9),
            StageConfig("mutual", 6, 4, objective="mutual", optimizer=SMALL_NETWORK, ema=0.9),
        ),
        rollouts=RolloutsConfig(max_age=1),
        samples=SamplesConfig(clips=2, shown=2, multi_steps=4),
    )


def paper() -> RunConfig:
    """The paper's model at its scale: 2 x 7 B on the latents of the published autoencoders, for a cluster (see `plan paper`).

    Of the paper: batches of 256 and 128, the steps of `joint` and `mutual`, the optimizer, the decay of the average, guidance 5 and the
    weights of the parts. Ours: the steps of pretraining, which the paper ends when the loss is stable; the batch of `mutual`; pictures of
    320 x 192 and clips of 5 s in training; the shape of the network; the history's strength. The folders of the autoencoders are the
    user's: --set data.pretrained.video=FOLDER data.pretrained.audio=FOLDER.
    """
    published = PRESETS["paper"]
    stage = partial(StageConfig, optimizer=OptimizerConfig())
    return RunConfig(
        name="paper",
        data=DataConfig(
            media="media",
            width=320,
            height=192,
            clip_chunks=10,
            timeline=published.clock,
            video_codec=DctVideoConfig(channels=48, spatial=16, temporal=published.clock.video_stride),
            audio_codec=MdctAudioConfig(channels=64, hop=published.clock.audio_hop),
            pretrained=PretrainedConfig(dtype="bfloat16"),
        ),
        model=published.network,
        objective=ObjectiveConfig(history=HistoryConfig(strength_low=0.2, strength_high=0.6, real_share=0.25)),
        engine=EngineConfig(zero_stage=3, precision="bf16", micro_batch=1),
        execution=ExecutionConfig(attention="flex", checkpoint_every=1),
        workers=WorkersConfig(count=32, use_gpu=True),
        rollouts=RolloutsConfig(actors="auto", max_actors=32, gpus=1.0),
        stages=(
            stage("pretrain-video", 100_000, 256, modalities=("video",)),
            stage("pretrain-audio", 100_000, 256, modalities=("audio",)),
            stage("joint", 100_000, 128),
            stage("mutual", 20_000, 128, objective="mutual", ema=0.99),
        ),
        checkpoint=CheckpointConfig(every=500),
    )


def _as_demo(name: str) -> RunConfig:
    """The demo with one of the objectives that the paper's ablation compares: nothing else differs."""
    base = demo()
    return replace(base, name=name, objective=variants(base.objective)[name])


RECIPES: dict[str, Callable[[], RunConfig]] = {"demo": demo, "tiny": tiny, "paper": paper} | {
    name: partial(_as_demo, name) for name in variants(ObjectiveConfig())
}
NAMES = ", ".join(RECIPES)


def recipe(name: str) -> RunConfig:
    """The run of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r}: unknown; choose from {NAMES}")
    return RECIPES[name]()
