"""Training and sampling on the world of a scale, as the trainers do it but in one process of plain PyTorch.

The training step is the trainers' own (`workers.train_step`); its rollouts are made in place by the averaged weights: `max_age = 0`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..model.ema import ema_decay, ema_update
from ..model.noise import PositionalNoise, position_seed
from ..model.objective import ObjectiveConfig
from ..model.sampler import SamplerConfig, generate, roll_out
from ..model.transformer import AVTransformer
from ..model.types import AV, MODALITIES, AVBatch, Rollout
from ..workers.optimizer import OptimizerConfig
from ..workers.plain_engine import PlainEngine
from ..workers.train_step import Metrics, Networks, flow_step, mutual_step
from ._world import HELD_OUT, Chunks, World

START = "joint"

Record = list[dict[str, float]]


@dataclass(frozen=True)
class Scale:
    """A world, and how much of everything. clips: of each window's comparison; per_clip: chunks that each gives to a window."""

    world: World
    joint_steps: int
    steps: int
    batch: int
    clips: int
    per_clip: int
    pick_clips: int
    multi_steps: int
    windows: dict[str, Chunks]
    joint_optimizer: OptimizerConfig
    optimizer: OptimizerConfig
    ema: float
    objective: ObjectiveConfig

    def settings(self) -> dict[str, Any]:
        """What figures depend on, as a record keeps it, but for the objective: that is the arm's."""
        plain = asdict(self)
        del plain["world"], plain["objective"]
        assert not plain.keys() & self.world.marks.keys(), "a mark of the world hides a setting"
        return plain | self.world.marks


def start_settings(scale: Scale) -> dict[str, Any]:
    """What a joint start depends on, besides its seed."""
    o, world = scale.objective, scale.world
    return {
        "network": asdict(world.network),
        "clock": str(world.clock),
        "steps": scale.joint_steps,
        "batch": scale.batch,
        "optimizer": asdict(scale.joint_optimizer),
        "objective": [o.time_sampling, asdict(o.path), asdict(o.drop), o.video_weight, o.audio_weight, o.history.context_noise],
    } | world.marks


def new_network(world: World, seed: int, device: str, weights: dict[str, Tensor] | None = None) -> AVTransformer:
    torch.manual_seed(position_seed(seed, "ablation", "init"))
    network = AVTransformer(world.network, world.clock)
    if weights is not None:
        network.load_state_dict(weights)
    return network.to(device)


def noise_of(seed: int, use: str, positions: tuple[int, ...], device: str) -> PositionalNoise:
    return PositionalNoise([(seed, use, p) for p in positions], device)


def train_joint(scale: Scale, seed: int, device: str) -> tuple[dict[str, Tensor], Record]:
    """The start of all recipes: flow matching on true history from random weights; the averaged weights and a sparse record."""
    network = new_network(scale.world, seed, device)
    ema = new_network(scale.world, seed, device).requires_grad_(False)
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
    live, fake, ema, frozen = (new_network(scale.world, seed, device, start) for _ in range(4))
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
            rollout = made_on(roll_out(ema, batch.latents, batch.controls, batch.layout, o, made, version=step), device)
        metrics = mutual_step(networks, batch, rollout, noise, o, scale.optimizer.rate(step, scale.steps))
        if not metrics["skipped"]:
            ema_update(ema.parameters(), live.parameters(), ema_decay(scale.ema, step))
        _note(record, step, scale.steps, metrics)
    return ema, record


def made_on(rollout: Rollout, device: str) -> Rollout:
    """Its times are drawn on the CPU; the trainers' rollouts cross a wire, and all that arrives goes to the device."""
    times = rollout.exit_time_BK
    return rollout if times is None else replace(rollout, exit_time_BK=times.to(device))


def training_batch(scale: Scale, seed: int, stage: str, step: int) -> AVBatch:
    """The clips of a step: no position is visited twice, in no stage and under no seed."""
    first = (seed * 2 + (stage != START)) * 1_000_000 + step * scale.batch
    assert first + scale.batch <= HELD_OUT, "training never sees what judges it"
    return scale.world.clips(first, scale.batch, scale.world.chunks)


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
