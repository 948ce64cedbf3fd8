"""The objectives (method 4 and 5): flow matching, ShortCut, DMD with the same weights as teacher, and the fake score.

Each is a pure function of the models, a batch, its rollout, positional noise and the choices. Times are drawn for each clip and chunk;
all tokens of a chunk share them. Expectations are means over the latents of a modality, then a weighted sum over modalities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .noise import PositionalNoise
from .objective import DropConfig, ObjectiveConfig
from .path import clean_prediction, guided, interpolate, move, per_latent, shifted, velocity
from .timeline import Layout
from .types import AV, AVBatch, Controls, Reading, Reads, Rollout, Velocity, at_least_fp32, future

GuidedReading = Callable[[AV, AV], AV]
"""A past already read: (x_t, t) -> guided MULTI velocities."""


@dataclass
class Models:
    """The networks of one step. live: theta, with gradient; teacher: whose MULTI mode makes the targets; fake: phi, if there is one."""

    live: Velocity
    teacher: Velocity
    fake: Velocity | None = None
    _taught: tuple[AV, float, GuidedReading] | None = field(default=None, init=False, repr=False)

    @torch.no_grad()
    def teaching(self, past: AV, batch: AVBatch, scale: float) -> GuidedReading:
        """The guided teacher after this past; ShortCut and DMD share the reading where they see the same past at the same scale.

        One reading is kept until `forget`: it is as large as the keys and values of all layers, and of no use after an optimizer step.
        """
        if self._taught is None or self._taught[0] is not past or self._taught[1] != scale:
            self._taught = None  # before the next one is made: two of them would not fit
            self._taught = past, scale, guided_reading(self.teacher, past, batch.controls, batch.layout, scale)
        return self._taught[2]

    def forget(self) -> None:
        """Let go of the teacher's reading."""
        self._taught = None


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and its parts, for the record (detached scalars named like `fm_video`)."""

    value: Tensor
    parts: dict[str, Tensor]


def _weighted(errors: AV, name: str, batch: AVBatch, config: ObjectiveConfig) -> Loss:
    """Weighted sum over modalities of mean errors."""
    weights = {"video": config.video_weight, "audio": config.audio_weight}
    means = dict(batch.means(errors).items())
    value = torch.stack([weights[m] * mean for m, mean in means.items()]).sum()
    return Loss(value, {f"{name}_{m}": mean.detach() for m, mean in means.items()})


def _squared(a: AV, b: AV) -> AV:
    return a.map(lambda x, y: (at_least_fp32(x) - at_least_fp32(y)).square(), b)


def _raw_times(noise: PositionalNoise, layout: Layout, config: ObjectiveConfig, tag: str) -> Tensor:
    """Raw times [B, K] in (0, 1)."""
    u = noise.uniform((layout.chunks,), tag, "time").clamp(1e-4, 1 - 1e-4)
    return u if config.time_sampling == "uniform" else torch.sigmoid(torch.special.ndtri(u))


def _dropped(controls: Controls, noise: PositionalNoise, share: DropConfig) -> Controls:
    u = noise.uniform((), "drop")
    caption_end = share.all + share.caption
    all_text = u < share.all
    caption = all_text | (u < caption_end)
    transcript = all_text | ((u >= caption_end) & (u < caption_end + share.transcript))
    return controls.drop(caption, transcript)


def choose_history(batch: AVBatch, rollout: Rollout | None, noise: PositionalNoise, config: ObjectiveConfig) -> AV:
    """K of flow matching and ShortCut for each clip: its rollout, or with probability `history.real_share` its true past (method 5.1).

    Without a rollout every clip keeps its true past: teacher forcing, as in the stages before distillation.
    """
    if rollout is None or not config.generated_history:
        return batch.latents
    if config.history.real_share == 0:
        return rollout.history
    real_B = noise.uniform((), "real-history") < config.history.real_share
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


def flow_matching(models: Models, batch: AVBatch, rollout: Rollout | None, noise: PositionalNoise, config: ObjectiveConfig) -> Loss:
    """L_fm = | u(x_t, t, t | K, c) - (e - x_0) |^2: the target is the real clip, the past is generated (method 5.1) or true (method 4)."""
    clean = future(batch.latents)
    e = noise.normal_like(clean, "fm", "noise")
    t = shifted(_raw_times(noise, batch.layout, config, "fm"), config.path, clean)
    x_t = interpolate(clean, e, per_latent(t, clean, batch.layout))
    past = noisy_context(choose_history(batch, rollout, noise, config), noise, config.history.context_noise)
    u = models.live(x_t, past, t, t, _dropped(batch.controls, noise, config.drop), batch.layout)
    return _weighted(_squared(u, velocity(clean, e)), "fm", batch, config)


def reading(model: Velocity, past: AV, controls: Controls, layout: Layout) -> Reading:
    """`model` after a past: read once where the model can, else again with every velocity."""
    if isinstance(model, Reads):
        return model.read(past, controls, layout)
    return lambda x, t, r: model(x, past, t, r, controls, layout)


def guided_reading(model: Velocity, past: AV, controls: Controls, layout: Layout, scale: float) -> GuidedReading:
    """(x_t, t) -> MULTI-mode velocity with classifier-free guidance; conditional and unconditional clips share one forward."""
    if scale == 1.0:
        multi = reading(model, past, controls, layout)
        return lambda x, t: multi(x, t, t)

    def twice(x: AV) -> AV:
        return x.map(lambda y: torch.cat([y, y]))

    both = reading(model, twice(past), controls.cat(controls.unconditional()), layout)

    def velocity(x: AV, t: AV) -> AV:
        t_2B, b = twice(t), x.batch
        u = both(twice(x), t_2B, t_2B)
        return guided(u.map(lambda y: y[:b]), u.map(lambda y: y[b:]), scale)

    return velocity


def _intervals(noise: PositionalNoise, layout: Layout, config: ObjectiveConfig) -> tuple[Tensor, Tensor]:
    """Raw (t, r) [B, K] of the FEW grid or the one twice as fine: one move of the sampler, or a jump to 0 (always with `renoise`)."""
    o = config.shortcut
    fine = noise.uniform((layout.chunks,), "sc", "grid") < o.fine_share
    moves = torch.where(fine, 2 * config.few.moves, config.few.moves)
    done = (noise.uniform((layout.chunks,), "sc", "interval") * moves).floor()
    share = 1.0 if config.few.sampler == "renoise" else o.to_zero_share
    jump = noise.uniform((layout.chunks,), "sc", "jump") < share
    return 1 - done / moves, torch.where(jump, 0.0, 1 - (done + 1) / moves)


@torch.no_grad()
def shortcut_target(teacher: GuidedReading, x_t: AV, raw_t: Tensor, raw_r: Tensor, layout: Layout, config: ObjectiveConfig) -> AV:
    """Average velocity (x_t - x_r) / (t - r) over [r, t] of `sub_steps` guided MULTI Euler steps (method 5.2)."""
    x, steps = x_t, config.shortcut.sub_steps
    for i in range(steps):
        a = raw_t + (raw_r - raw_t) * (i / steps)
        b = raw_t + (raw_r - raw_t) * ((i + 1) / steps)
        t, r = shifted(a, config.path, x), shifted(b, config.path, x)
        x = move(x, teacher(x, t), per_latent(t, x, layout), per_latent(r, x, layout))
    t, r = shifted(raw_t, config.path, x), shifted(raw_r, config.path, x)
    span = per_latent(t, x, layout).map(lambda p, q: p - q, per_latent(r, x, layout))
    return x_t.map(lambda p, q, d: (p - q) / d, x, span)


def shortcut(models: Models, batch: AVBatch, rollout: Rollout | None, noise: PositionalNoise, config: ObjectiveConfig) -> Loss:
    """L_sc = | u(x_t, t, r | K, c) - sg[(x_t - x_r) / (t - r)] |^2 on an interval of the FEW grid (method 5.2)."""
    clean, past = future(batch.latents), choose_history(batch, rollout, noise, config)
    raw_t, raw_r = _intervals(noise, batch.layout, config)
    t, r = shifted(raw_t, config.path, clean), shifted(raw_r, config.path, clean)
    x_t = interpolate(clean, noise.normal_like(clean, "sc", "noise"), per_latent(t, clean, batch.layout))
    teacher = models.teaching(past, batch, config.shortcut.guidance)
    target = shortcut_target(teacher, x_t, raw_t, raw_r, batch.layout, config)
    if rollout is None or past is not rollout.history or config.w_dmd == 0 or config.dmd.guidance != config.shortcut.guidance:
        del teacher
        models.forget()  # before the backward needs the memory: nobody asks for this past again
    u = models.live(x_t, past, t, r, batch.controls, batch.layout)
    return _weighted(_squared(u, target), "sc", batch, config)


def jump_to_zero(models: Models, batch: AVBatch, rollout: Rollout, config: ObjectiveConfig) -> AV:
    """g = y_k - t_k u(y_k, t_k, 0 | K, c), with gradient: the clean clip that FEW makes of a rollout's state (method 5.3).

    K is the rollout's own history, whatever `history.real_share` says: the state was made on it. The weights are the current ones.
    """
    if rollout.exit_state is None or rollout.exit_time_BK is None:
        raise ValueError("rollout: it has no exit states; they are made where objective.dmd.weight and objective.w_distil are above 0")
    t = shifted(rollout.exit_time_BK, config.path, rollout.exit_state)
    u = models.live(rollout.exit_state, rollout.history, t, t.map(torch.zeros_like), batch.controls, batch.layout)
    return clean_prediction(rollout.exit_state, u, per_latent(t, rollout.exit_state, batch.layout))


def dmd(models: Models, g: AV, batch: AVBatch, rollout: Rollout, noise: PositionalNoise, config: ObjectiveConfig) -> Loss:
    """L_dmd = 0.5 | g - sg[g - d] |^2 with d = (p_fake - p_real) / (mean|g - p_real| + eps) a clip and modality (method 5.3).

    Its gradient by g is d; its value is |d|^2 / 2, the size of that direction. It is no distance to a target: it may rise while the
    generator improves, because the fake score learns to tell it apart.
    """
    if models.fake is None:
        raise ValueError("models.fake: DMD needs a fake-score model")
    o, past = config.dmd, rollout.history
    with torch.no_grad():
        raw = o.time_low + (o.time_high - o.time_low) * noise.uniform((batch.layout.chunks,), "dmd", "time")
        s = shifted(raw, config.path, g)
        spread = per_latent(s, g, batch.layout)
        x_s = interpolate(g, noise.normal_like(g, "dmd", "noise"), spread)
        p_real = clean_prediction(x_s, models.teaching(past, batch, o.guidance)(x_s, s), spread)
        p_fake = clean_prediction(x_s, models.fake(x_s, past, s, s, batch.controls, batch.layout), spread)

        scale_B = batch.clip_means(g.map(lambda gg, pr: (gg - pr).abs(), p_real))

        def toward(gg: Tensor, pf: Tensor, pr: Tensor, scale: Tensor) -> Tensor:
            return gg - (pf - pr) / (scale.to(gg.dtype).view(-1, *[1] * (gg.dim() - 1)) + o.epsilon)

        target = g.map(toward, p_fake, p_real, scale_B)
    return _weighted(_squared(g, target).map(lambda x: 0.5 * x), "dmd", batch, config)


def fake_score(
    models: Models, g: AV, batch: AVBatch, rollout: Rollout, noise: PositionalNoise, config: ObjectiveConfig, update: int
) -> Loss:
    """Flow matching of the fake-score model on sg[g]; each update draws fresh noise and time (method 5.4)."""
    if models.fake is None:
        raise ValueError("models.fake: there is no fake-score model to update")
    g = g.detach()
    e = noise.normal_like(g, "fake", update)
    t = shifted(_raw_times(noise, batch.layout, config, f"fake-{update}"), config.path, g)
    x_t = interpolate(g, e, per_latent(t, g, batch.layout))
    u = models.fake(x_t, rollout.history, t, t, batch.controls, batch.layout)
    return _weighted(_squared(u, velocity(g, e)), "fake", batch, config)
