"""How much of everything the toy takes: what `ablation --scale toy` and `history` train."""

from __future__ import annotations

from dataclasses import replace

from ..model.objective import DmdConfig, ObjectiveConfig, ShortcutConfig
from ..workers.optimizer import OptimizerConfig
from ._toy_world import WORLD
from ._training import Scale
from ._world import WINDOWS

TOY = Scale(
    world=WORLD,
    joint_steps=5000,
    steps=300,
    batch=16,
    clips=400,
    per_clip=10,
    pick_clips=100,
    multi_steps=50,
    windows=WINDOWS,
    joint_optimizer=OptimizerConfig(lr=2e-3, clip=1.0, warmup=0.02, decay=0.5, final_lr_share=0.05),
    optimizer=OptimizerConfig(lr=2e-4, clip=1.0, warmup=0.05),
    ema=0.99,
    # Guidance is off: the start's MULTI stands at the real-to-real floor without it, and far from it at 1.5 (the controls are strong).
    # Two sub-steps, the paper's number, would teach FEW the error of 8 Euler steps.
    objective=ObjectiveConfig(shortcut=ShortcutConfig(guidance=1.0, sub_steps=8, fine_share=1 / 3), dmd=DmdConfig(guidance=1.0)),
)
QUICK = replace(TOY, joint_steps=60, steps=4, batch=8, clips=24, pick_clips=8, multi_steps=4, windows={"0-5": (0, 10), "5-10": (10, 20)})
