"""The objectives (method 4 and 5): flow matching, ShortCut, DMD with the same weights as teacher, and the fake score.

Each is a pure function of networks, a batch, the history K and positional noise. Times are drawn for each clip and chunk; all tokens
of a chunk share them. Expectations are means over the latents of a modality, then a weighted sum over modalities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .noise import PositionalNoise
from .path import PathConfig, clean_prediction, few_grid, guided, interpolate, move, per_latent, shifted, velocity
from .timeline import Layout
from .types import AV, AVBatch, Controls, Rollout, Velocity, at_least_fp32, future


@dataclass(frozen=True)
class ObjectiveConfig:
    """Every choice of the losses.

    time_sampling: raw time of the FM loss, uniform or logit-normal. drop_*: shares of clips that lose all text, the caption alone,
    the transcript alone (FM only). few_moves: the FEW grid. few_sampler: `ode` or `renoise` (method 5.3). sub_steps, guidance:
    the ShortCut target's MULTI steps and its scale (`uncond + g * (cond - uncond)`). to_zero_share: ShortCut intervals that end
    at 0. w_distil, w_sc, w_dmd: theta minimises L_fm + w_distil (w_sc L_sc + w_dmd L_dmd). dmd_guidance: scale of p_real.
    real_share: clips that keep their true history. context_noise: FM noises each clip's history by up to
    this level, so that a model does not copy the flaws of its own past. fake_updates: fake-score updates for each update of theta.
    """

    time_sampling: Literal["uniform", "logit_normal"] = "uniform"
    path: PathConfig = PathConfig()
    video_weight: float = 1.0
    audio_weight: float = 1.0
    drop_all: float = 0.10
    drop_caption: float = 0.05
    drop_transcript: float = 0.05
    few_moves: int = 4
    few_sampler: Literal["ode", "renoise"] = "ode"
    sub_steps: int = 2
    guidance: float = 5.0
    to_zero_share: float = 0.25
    w_distil: float = 1.0
    w_sc: float = 2 / 3
    w_dmd: float = 1 / 3
    dmd_guidance: float = 5.0
    dmd_epsilon: float = 1e-3
    real_share: float = 0.25
    context_noise: float = 0.0
    fake_updates: int = 5

    def __post_init__(self) -> None:
        if self.drop_all + self.drop_caption + self.drop_transcript > 1:
            raise ValueError("objective.drop_all + drop_caption + drop_transcript: shares of clips must not exceed 1 together")
        for name in ("few_moves", "sub_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"objective.{name}={getattr(self, name)}: must be at least 1")
        for name in ("to_zero_share", "real_share", "drop_all", "drop_caption", "drop_transcript"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name}={getattr(self, name)}: a share lies between 0 and 1")
        if self.context_noise < 0:
            raise ValueError(f"objective.context_noise={self.context_noise}: a noise level is at least 0 (0 = clean history)")
        if self.few_sampler not in ("ode", "renoise"):
            raise ValueError(f"objective.few_sampler={self.few_sampler!r}: must be ode or renoise")


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and its parts, for the record (detached scalars named like `fm_video`)."""

    value: Tensor
    parts: dict[str, Tensor]


def _weighted(errors: AV, name: str, config: ObjectiveConfig) -> Loss:
    """Weighted sum over modalities of mean errors; means in fp32 or wider."""
    weights = {"video": config.video_weight, "audio": config.audio_weight}
    means = {m: at_least_fp32(e).mean() for m, e in errors.items()}
    value = torch.stack([weights[m] * mean for m, mean in means.items()]).sum()
    return Loss(value, {f"{name}_{m}": mean.detach() for m, mean in means.items()})


def _squared(a: AV, b: AV) -> AV:
    return a.map(lambda x, y: (at_least_fp32(x) - at_least_fp32(y)).square(), b)


def _raw_times(noise: PositionalNoise, layout: Layout, config: ObjectiveConfig, tag: str) -> Tensor:
    """Raw times [B, K] in (0, 1)."""
    u = noise.uniform((layout.chunks,), tag, "time").clamp(1e-4, 1 - 1e-4)
    return u if config.time_sampling == "uniform" else torch.sigmoid(torch.special.ndtri(u))


def _dropped(controls: Controls, noise: PositionalNoise, config: ObjectiveConfig) -> Controls:
    u = noise.uniform((), "drop")
    caption_end = config.drop_all + config.drop_caption
    all_text = u < config.drop_all
    caption = all_text | (u < caption_end)
    transcript = all_text | ((u >= caption_end) & (u < caption_end + config.drop_transcript))
    return controls.drop(caption, transcript)


def choose_history(batch: AVBatch, rollout: Rollout, noise: PositionalNoise, real_share: float) -> AV:
    """K for each clip: its rollout, or with probability `real_share` its true past (method 5.1, "The trap")."""
    real_B = noise.uniform((), "real-history") < real_share
    return batch.latents.map(lambda x, y: torch.where(real_B.view(-1, *[1] * (x.dim() - 1)), x, y), rollout.history)


def noisy_context(history: AV, noise: PositionalNoise, level: float) -> AV:
    """The history with noise of a level uniform on [0, `level`] for each clip; the first frame is a control and stays clean."""
    if level == 0:
        return history
    level_B = level * noise.uniform((), "context", "level")

    def noised(x: Tensor, e: Tensor) -> Tensor:
        y = x + level_B.view(-1, *[1] * (x.dim() - 1)).to(x.dtype) * e
        return torch.cat([x[:, :1], y[:, 1:]], dim=1) if x.dim() == 5 else y

    return history.map(noised, noise.normal_like(history, "context"))


def flow_matching(model: Velocity, batch: AVBatch, history: AV, noise: PositionalNoise, config: ObjectiveConfig) -> Loss:
    """L_fm = | u(x_t, t, t | K, c) - (e - x_0) |^2: the target is the real clip, the past is `history` (method 4, 5.1)."""
    clean = future(batch.latents)
    e = noise.normal_like(clean, "fm", "noise")
    t = shifted(_raw_times(noise, batch.layout, config, "fm"), config.path, clean)
    x_t = interpolate(clean, e, per_latent(t, clean, batch.layout))
    past = noisy_context(history, noise, config.context_noise)
    u = model(x_t, past, t, t, _dropped(batch.controls, noise, config), batch.layout)
    return _weighted(_squared(u, velocity(clean, e)), "fm", config)


@torch.no_grad()
def guided_velocity(model: Velocity, x_t: AV, history: AV, t: AV, controls: Controls, layout: Layout, scale: float) -> AV:
    """MULTI-mode velocity with classifier-free guidance; conditional and unconditional clips share one forward."""
    if scale == 1.0:
        return model(x_t, history, t, t, controls, layout)

    def twice(x: AV) -> AV:
        return x.map(lambda y: torch.cat([y, y]))

    both = model(twice(x_t), twice(history), twice(t), twice(t), controls.cat(controls.unconditional()), layout)
    b = x_t.batch
    return guided(both.map(lambda y: y[:b]), both.map(lambda y: y[b:]), scale)


def _intervals(noise: PositionalNoise, layout: Layout, config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Raw (t, r) [B, K] from the FEW grid: one move of the sampler, or a jump to 0 (every move, with `renoise`)."""
    grid = few_grid(config.few_moves)
    start = (noise.uniform((layout.chunks,), "sc", "interval") * config.few_moves).long()
    share = 1.0 if config.few_sampler == "renoise" else config.to_zero_share
    jump = noise.uniform((layout.chunks,), "sc", "jump") < share
    grid = grid.to(start.device)
    return grid[start], torch.where(jump, torch.zeros_like(grid[start]), grid[start + 1])


@torch.no_grad()
def shortcut_target(
    teacher: Velocity, x_t: AV, history: AV, raw_t: Tensor, raw_r: Tensor, controls: Controls, layout: Layout, config: ObjectiveConfig
) -> AV:
    """Average velocity (x_t - x_r) / (t - r) over [r, t] of `sub_steps` guided MULTI Euler steps (method 5.2)."""
    x = x_t
    for i in range(config.sub_steps):
        a = raw_t + (raw_r - raw_t) * (i / config.sub_steps)
        b = raw_t + (raw_r - raw_t) * ((i + 1) / config.sub_steps)
        t, r = shifted(a, config.path, x), shifted(b, config.path, x)
        v = guided_velocity(teacher, x, history, t, controls, layout, config.guidance)
        x = move(x, v, per_latent(t, x, layout), per_latent(r, x, layout))
    t, r = shifted(raw_t, config.path, x), shifted(raw_r, config.path, x)
    span = per_latent(t, x, layout).map(lambda p, q: p - q, per_latent(r, x, layout))
    return x_t.map(lambda p, q, d: (p - q) / d, x, span)


def shortcut(model: Velocity, teacher: Velocity, batch: AVBatch, history: AV, noise: PositionalNoise, config: ObjectiveConfig) -> Loss:
    """L_sc = | u(x_t, t, r | K, c) - sg[(x_t - x_r) / (t - r)] |^2 on an interval of the FEW grid (method 5.2)."""
    clean = future(batch.latents)
    raw_t, raw_r = _intervals(noise, batch.layout, config)
    t, r = shifted(raw_t, config.path, clean), shifted(raw_r, config.path, clean)
    x_t = interpolate(clean, noise.normal_like(clean, "sc", "noise"), per_latent(t, clean, batch.layout))
    target = shortcut_target(teacher, x_t, history, raw_t, raw_r, batch.controls, batch.layout, config)
    u = model(x_t, history, t, r, batch.controls, batch.layout)
    return _weighted(_squared(u, target), "sc", config)


def jump_to_zero(model: Velocity, batch: AVBatch, rollout: Rollout, history: AV, config: ObjectiveConfig) -> AV:
    """g = y_k - t_k u(y_k, t_k, 0 | K, c), with gradient: the clean clip that FEW makes of a rollout's state (method 5.3)."""
    t = shifted(rollout.exit_time_BK, config.path, rollout.exit_state)
    zero = t.map(torch.zeros_like)
    u = model(rollout.exit_state, history, t, zero, batch.controls, batch.layout)
    return clean_prediction(rollout.exit_state, u, per_latent(t, rollout.exit_state, batch.layout))


def dmd(g: AV, real: Velocity, fake: Velocity, batch: AVBatch, history: AV, noise: PositionalNoise, config: ObjectiveConfig) -> Loss:
    """L_dmd = 0.5 | g - sg[g - d] |^2 with d = (p_fake - p_real) / (mean|g - p_real| + eps) a clip and modality (method 5.3)."""
    with torch.no_grad():
        raw = 0.02 + 0.96 * noise.uniform((batch.layout.chunks,), "dmd", "time")
        s = shifted(raw, config.path, g)
        spread = per_latent(s, g, batch.layout)
        x_s = interpolate(g, noise.normal_like(g, "dmd", "noise"), spread)
        real_v = guided_velocity(real, x_s, history, s, batch.controls, batch.layout, config.dmd_guidance)
        p_real = clean_prediction(x_s, real_v, spread)
        p_fake = clean_prediction(x_s, fake(x_s, history, s, s, batch.controls, batch.layout), spread)

        def direction(pf: Tensor, pr: Tensor, gg: Tensor) -> Tensor:
            scale = (gg - pr).abs().mean(dim=tuple(range(1, gg.dim())), keepdim=True) + config.dmd_epsilon
            return (pf - pr) / scale

        target = g.map(lambda gg, pf, pr: gg - direction(pf, pr, gg), p_fake, p_real)
    return _weighted(_squared(g, target).map(lambda x: 0.5 * x), "dmd", config)


def fake_score(fake: Velocity, g: AV, batch: AVBatch, history: AV, noise: PositionalNoise, config: ObjectiveConfig, update: int) -> Loss:
    """Flow matching of the fake-score model on sg[g]; each update draws fresh noise and time (method 5.4)."""
    g = g.detach()
    e = noise.normal_like(g, "fake", update)
    t = shifted(_raw_times(noise, batch.layout, config, f"fake-{update}"), config.path, g)
    x_t = interpolate(g, e, per_latent(t, g, batch.layout))
    u = fake(x_t, history, t, t, batch.controls, batch.layout)
    return _weighted(_squared(u, velocity(g, e)), "fake", config)
