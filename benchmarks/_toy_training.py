"""Training and sampling on the toy world, as the trainers do it but in one process of plain PyTorch.

The training step is the trainers' own (`workers.train_step`); its rollouts are made in place by the averaged weights: `max_age = 0`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..model.ema import ema_decay, ema_update
from ..model.noise import PositionalNoise, position_seed
from ..model.objective import DmdConfig, ObjectiveConfig, ShortcutConfig
from ..model.sampler import SamplerConfig, generate, roll_out
from ..model.transformer import AVTransformer
from ..model.types import AV, MODALITIES, AVBatch
from ..workers.optimizer import OptimizerConfig
from ..workers.plain_engine import PlainEngine
from ..workers.train_step import Metrics, Networks, flow_step, mutual_step
from ._toy import CHUNKS, CLOCK, NETWORK, collate, make_clip
from ._toy_judge import WINDOWS

START = "joint"
HELD_OUT, OTHER, PICK = 100_000_000, 200_000_000, 300_000_000  # where the clips of each use begin; training clips begin at 0

Record = list[dict[str, float]]


@dataclass(frozen=True)
class Scale:
    """How much of everything. clips: of each window's comparison; per_clip: chunks that each gives to a window."""

    joint_steps: int = 5000
    steps: int = 300
    batch: int = 16
    clips: int = 400
    per_clip: int = 10
    pick_clips: int = 100
    multi_steps: int = 50
    windows: dict[str, tuple[int, int]] = field(default_factory=lambda: dict(WINDOWS))
    joint_optimizer: OptimizerConfig = OptimizerConfig(lr=2e-3, clip=1.0, warmup=0.02, decay=0.5, final_lr_share=0.05)
    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-4, clip=1.0, warmup=0.05)
    ema: float = 0.99
    # Guidance is off: the start's MULTI stands at the real-to-real floor without it, and far from it at 1.5 (the controls are strong).
    # Two sub-steps, the paper's number, teach FEW the error of 8 Euler steps, which is ten times that of 50.
    objective: ObjectiveConfig = ObjectiveConfig(
        shortcut=ShortcutConfig(guidance=1.0, sub_steps=8, fine_share=1 / 3), dmd=DmdConfig(guidance=1.0)
    )


TOY = Scale()
QUICK = Scale(
    joint_steps=60, steps=4, batch=8, clips=24, per_clip=10, pick_clips=8, multi_steps=4, windows={"0-5": (0, 10), "5-10": (10, 20)}
)


def start_settings(scale: Scale) -> dict[str, Any]:
    """What a joint start depends on, besides its seed."""
    o = scale.objective
    return {
        "network": asdict(NETWORK),
        "clock": str(CLOCK),
        "steps": scale.joint_steps,
        "batch": scale.batch,
        "optimizer": asdict(scale.joint_optimizer),
        "objective": [o.time_sampling, asdict(o.path), asdict(o.drop), o.video_weight, o.audio_weight, o.history.context_noise],
    }


@lru_cache(maxsize=4)
def clips(first: int, count: int, chunks: int) -> AVBatch:
    """Clips `first`, `first` + 1, ...; what training draws is never among what it is judged by."""
    return collate([make_clip(first + i, chunks) for i in range(count)], chunks, range(first, first + count))


def new_network(seed: int, device: str, weights: dict[str, Tensor] | None = None) -> AVTransformer:
    torch.manual_seed(position_seed(seed, "ablation", "init"))
    network = AVTransformer(NETWORK, CLOCK)
    if weights is not None:
        network.load_state_dict(weights)
    return network.to(device)


def noise_of(seed: int, use: str, positions: tuple[int, ...], device: str) -> PositionalNoise:
    return PositionalNoise([(seed, use, p) for p in positions], device)


def train_joint(scale: Scale, seed: int, device: str) -> tuple[dict[str, Tensor], Record]:
    """The start of all recipes: flow matching on true history from random weights; the averaged weights and a sparse record."""
    network = new_network(seed, device)
    ema = new_network(seed, device).requires_grad_(False)
    engine = PlainEngine(network, network.parameter_groups(MODALITIES, 1.0), scale.joint_optimizer)
    record: Record = []
    for step in range(scale.joint_steps):
        batch = training_batch(scale, seed, START, step).to(device)
        noise = noise_of(seed, START, batch.positions, device)
        metrics = flow_step(Networks(engine, ema), batch, noise, scale.objective, scale.joint_optimizer.rate(step, scale.joint_steps))
        ema_update(ema.parameters(), network.parameters(), ema_decay(0.999, step))
        _note(record, step, scale.joint_steps, metrics)
    return {k: v.cpu() for k, v in ema.state_dict().items()}, record


def train_mutual(
    scale: Scale, o: ObjectiveConfig, text: bool, seed: int, start: dict[str, Tensor], device: str
) -> tuple[AVTransformer, Record]:
    """`scale.steps` dual-mode steps under an objective from the joint start; the averaged network and a sparse record.

    text: whether the clips keep their captions and transcripts, or only their first frames.
    """
    live, fake, ema, frozen = (new_network(seed, device, start) for _ in range(4))
    networks = Networks(
        PlainEngine(live, live.parameter_groups(MODALITIES, o.few.lr_ratio), scale.optimizer),
        ema.requires_grad_(False),
        PlainEngine(fake, [(1.0, list(fake.parameters()))], scale.optimizer) if o.w_dmd > 0 else None,
        frozen.requires_grad_(False),
    )
    record: Record = []
    for step in range(scale.steps):
        batch = with_text(training_batch(scale, seed, "mutual", step), text).to(device)  # the same clips and noise for every objective
        noise = noise_of(seed, "mutual", batch.positions, device)
        rollout = None
        if o.needs_rollouts:
            made = noise_of(seed, "rollout", batch.positions, device)
            rollout = roll_out(ema, batch.latents, batch.controls, batch.layout, o, made, version=step)
        metrics = mutual_step(networks, batch, rollout, noise, o, scale.optimizer.rate(step, scale.steps))
        if not metrics["skipped"]:
            ema_update(ema.parameters(), live.parameters(), ema_decay(scale.ema, step))
        _note(record, step, scale.steps, metrics)
    return ema, record


def training_batch(scale: Scale, seed: int, stage: str, step: int) -> AVBatch:
    """Fresh clips at every step: the toy has no end of data, so nothing is learnt by heart."""
    first = (seed * 2 + (stage != START)) * 1_000_000 + step * scale.batch
    return clips(first, scale.batch, CHUNKS)


def _note(record: Record, step: int, steps: int, metrics: Metrics) -> None:
    if step % max(1, steps // 50) == 0 or step + 1 == steps:
        record.append({"step": step} | {k: round(float(v), 5) for k, v in metrics.items()})


def sample(network: AVTransformer, batch: AVBatch, chunks: int, sampler: SamplerConfig, seed: int, device: str) -> AV:
    """Clips under the controls and first frames of `batch`, first frame included."""
    on_device = batch.to(device)
    first, audio = on_device.latents.get("video")[:, :1], on_device.latents.get("audio")
    noise = noise_of(seed, "sample", batch.positions, device)
    made = list(generate(network, on_device.controls, first, (audio.shape[0], audio.shape[2]), chunks, sampler, noise))
    video = torch.cat([first, *(x.get("video") for x in made)], dim=1)
    return AV(video, torch.cat([x.get("audio") for x in made], dim=1)).to("cpu")


def with_text(batch: AVBatch, text: bool) -> AVBatch:
    """The batch, or the same clips with all text hidden."""
    return batch if text else replace(batch, controls=batch.controls.unconditional())
