"""How much of everything `small` takes, on one GPU: see `_small` for its clips.

Reckoned, not measured. The network has 29.3 M parameters, half of them a modality's. A training clip of 5 s is 928 video and 298 audio
tokens, noisy and clean; a forward costs 30 GFLOP in its matrices (counted) and up to 15 in its masked attention, a rollout thrice that.

    joint start      10,000 steps x 32 clips x 3 forwards                         43 PFLOP
    mutual           300 steps x 32 clips x 37 forwards, the rollout among them   16 PFLOP; without DMD 7
    eight recipes                                                                 about 90 PFLOP
    sampling         128 clips x 50 chunks, MULTI: 100 evaluations of 1.7 GFLOP   1 PFLOP, and more for its many small kernels

At 30 of an H100's 495 TFLOP/s in TF32, which is little, a seed is 145 PFLOP or 1.3 hours, and the judge's decompositions on the CPU.
Activations of a step: near 70 MB a clip and layer, 18 GB in all, so one job a GPU is safe. The corpus is 2.7 GB of latents.
"""

from __future__ import annotations

from dataclasses import replace

from ..model.trunk import TransformerConfig
from ..workers.optimizer import OptimizerConfig
from ._small import AUDIO, VIDEO, Characters
from ._small_world import world
from ._toy_training import TOY
from ._training import Scale

NETWORK = TransformerConfig(
    video_channels=VIDEO.channels, audio_channels=AUDIO.channels, video_width=320, audio_width=320, depth=8, heads=5, head_dim=64, window=6
)
QUICK_NETWORK = replace(NETWORK, video_width=48, audio_width=48, depth=2, heads=2, head_dim=24, window=2)


def small(folder: str) -> Scale:
    """Clips are kept in `folder`. The objective is the toy's, so that the scales differ in world and size alone."""
    return replace(
        TOY,
        world=world(Characters(folder, corpus=8192, fitted=64, chunks=10), NETWORK),
        joint_steps=10_000,
        batch=32,
        joint_optimizer=OptimizerConfig(lr=6e-4, clip=1.0, warmup=0.02, decay=0.5, final_lr_share=0.05),
        optimizer=OptimizerConfig(lr=6e-5, clip=1.0, warmup=0.05),
    )


def quick_small(folder: str) -> Scale:
    """A walk through all parts of `small` with a network, clips and steps that a CPU does not notice."""
    return replace(
        small(folder),
        world=world(Characters(folder, corpus=16, fitted=4, chunks=2), QUICK_NETWORK),
        joint_steps=2,
        steps=1,
        batch=2,
        clips=4,
        per_clip=2,
        pick_clips=4,
        multi_steps=2,
        windows={"0-1": (0, 2), "1-2": (2, 4)},
    )
