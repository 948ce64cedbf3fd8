"""One optimizer step: micro-batch -> losses -> gradients -> step -> metrics. Two kinds: flow matching, and the dual-mode step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..model.losses import (
    Loss,
    ObjectiveConfig,
    choose_history,
    dmd,
    fake_score,
    flow_matching,
    jump_to_zero,
    shortcut,
)
from ..model.noise import PositionalNoise
from ..model.transformer import AVTransformer
from ..model.types import AVBatch, Rollout
from .engine import Engine


@dataclass(frozen=True)
class Networks:
    """The generator under training, its average (the teacher), and in a mutual stage the fake-score model."""

    live: Engine
    ema: AVTransformer
    fake: Engine | None


def flow_step(
    networks: Networks, batch: AVBatch, noise: PositionalNoise, objective: ObjectiveConfig, rate: float
) -> dict[str, Tensor | float]:
    """Flow matching on true history (method 4)."""
    loss = flow_matching(networks.live, batch, batch.latents, noise, objective)
    networks.live.backward(loss, last=True)
    return _named(loss) | {"loss": loss.value.detach(), "grad_norm": networks.live.step(rate)}


def mutual_step(
    networks: Networks,
    batch: AVBatch,
    rollout: Rollout,
    noise: PositionalNoise,
    objective: ObjectiveConfig,
    rate: float,
    fake_rate: float,
) -> dict[str, Tensor | float]:
    """The dual-mode step (method 5): L_fm + w_distil (w_sc L_sc + w_dmd L_dmd), then the fake-score updates on the same clips."""
    assert networks.fake is not None, "a mutual stage has a fake-score model"
    live, fake = networks.live, networks.fake
    history = choose_history(batch, rollout, noise, objective.real_share)
    metrics: dict[str, Tensor | float] = {}
    total: Tensor | float = 0.0
    parts = (
        (1.0, lambda: flow_matching(live, batch, history, noise, objective)),
        (objective.w_distil * objective.w_sc, lambda: shortcut(live, networks.ema, batch, history, noise, objective)),
    )
    for weight, forward in parts:  # one part at a time: less memory, and the engine wants a forward before each backward
        loss = forward()
        live.backward(Loss(weight * loss.value, {}), last=False)
        metrics |= _named(loss)
        total = total + weight * loss.value.detach()
    # The jump uses the rollout's own history: the state was made on it.
    g = jump_to_zero(live, batch, rollout, rollout.history, objective)
    loss = dmd(g, networks.ema, fake.network, batch, rollout.history, noise, objective)
    weight = objective.w_distil * objective.w_dmd
    live.backward(Loss(weight * loss.value, {}), last=True)
    metrics |= _named(loss)
    metrics["loss"] = total + weight * loss.value.detach()
    metrics["grad_norm"] = live.step(rate)
    for update in range(objective.fake_updates):
        score = fake_score(fake, g.detach(), batch, rollout.history, noise, objective, update)
        fake.backward(score, last=True)
        fake.step(fake_rate)
        metrics["loss/fake"] = score.value.detach()
    return metrics


def _named(loss: Loss) -> dict[str, Tensor | float]:
    return {f"loss/{name}": value for name, value in loss.parts.items()}
