"""One optimizer step: micro-batch -> losses -> gradients -> step -> metrics. Two kinds: flow matching, and the dual-mode step.

It sees trained networks through `Trained` alone, so that the same step runs under DeepSpeed and, in benchmarks and tests, in plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import hypot
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..model.health import GradientMeter
from ..model.losses import Loss, Models, dmd, fake_score, flow_matching, jump_to_zero, shortcut
from ..model.noise import PositionalNoise
from ..model.objective import ObjectiveConfig, Teacher
from ..model.transformer import AVTransformer
from ..model.types import AV, AVBatch, Rollout

Metrics = dict[str, Tensor | float]


@dataclass(frozen=True)
class Update:
    """What an optimizer step did: the gradient norm before clipping, and whether the weights moved (not if the norm is not finite)."""

    grad_norm: float
    applied: bool


class Trained(Protocol):
    """One network under training. The order is: forward, `backward`, forward, `backward`, ..., `step`."""

    @property
    def network(self) -> nn.Module: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward with gradient."""
        ...

    def backward(self, loss: Loss, last: bool) -> None:
        """Add a part's gradient; `last` closes the step."""
        ...

    def step(self, rate: float) -> Update:
        """One optimizer step at learning rate `rate`; skipped where a gradient is not finite."""
        ...


@dataclass(frozen=True)
class Networks:
    """The generator under training, its average, in a mutual stage the fake-score model, and an outside teacher where one is asked for."""

    live: Trained
    ema: AVTransformer
    fake: Trained | None = None
    frozen: AVTransformer | None = None

    def models(self, teacher: Teacher) -> Models:
        """The networks as the losses see them: gradients flow through `live` alone."""
        teachers = {"ema": self.ema, "live": self.live.network, "frozen": self.frozen}
        chosen = teachers[teacher]
        assert chosen is not None, "a stage with objective.teacher=frozen keeps the weights it started from"
        return Models(self.live, chosen, None if self.fake is None else self.fake.network)


@dataclass(frozen=True)
class _Micro:
    """Some of a rank's clips, small enough for one forward: their share of the step's gradient is `share`."""

    batch: AVBatch
    rollout: Rollout | None
    noise: PositionalNoise
    models: Models
    share: float


def _micros(
    networks: Networks, teacher: Teacher, batch: AVBatch, rollout: Rollout | None, noise: PositionalNoise, micro: int
) -> list[_Micro]:
    """A rank's clips in micro-batches of `micro` (0: all at once). Every clip counts the same, so a mean over all is the mean of means."""
    count, size = len(batch.positions), micro or len(batch.positions)
    assert count % size == 0, "the configuration sees to it"
    pieces = [slice(start, start + size) for start in range(0, count, size)]
    return [_Micro(batch.clips(p), rollout and rollout.clips(p), noise.clips(p), networks.models(teacher), size / count) for p in pieces]


def flow_step(
    networks: Networks, batch: AVBatch, noise: PositionalNoise, objective: ObjectiveConfig, rate: float, micro: int = 0
) -> Metrics:
    """Flow matching on true history (method 4), in micro-batches of `micro` clips (0: all at once)."""
    metrics: Metrics = {}
    micros = _micros(networks, "ema", batch, None, noise, micro)
    for m in micros:
        loss = flow_matching(m.models, m.batch, None, m.noise, objective)
        networks.live.backward(Loss(m.share * loss.value, {}), last=m is micros[-1])
        _add(metrics, _named(loss) | {"loss": loss.value.detach()}, m.share)
    done = networks.live.step(rate)
    return metrics | {"grad_norm": done.grad_norm, "skipped": float(not done.applied)}


def mutual_step(
    networks: Networks,
    batch: AVBatch,
    rollout: Rollout | None,
    noise: PositionalNoise,
    objective: ObjectiveConfig,
    rate: float,
    meter: GradientMeter | None = None,
    micro: int = 0,
) -> Metrics:
    """The dual-mode step (method 5): w_fm L_fm + w_distil (w_sc L_sc + w_dmd L_dmd), then the fake-score updates on the same clips.

    `loss` is the sum of the regressions, w_fm L_fm + w_distil w_sc L_sc. The DMD part is minimised with them, but its value is the size
    of its direction and no distance to a target (`losses.dmd`), so it stands apart as `dmd`. `meter` adds the gradient norm of each part,
    how hard the distillation pulls against flow matching, and each part's share of the step's time. micro: clips a forward (0: all).
    """
    o, live = objective, networks.live
    assert rollout is not None or not o.needs_rollouts, "this objective reads rollouts"
    micros, jumps = _micros(networks, o.teacher, batch, rollout, noise, micro), list[AV]()

    def distribution_matching(m: _Micro) -> Loss:
        assert m.rollout is not None
        g = jump_to_zero(m.models, m.batch, m.rollout, o)
        jumps.append(g.detach())
        return dmd(m.models, g, m.batch, m.rollout, m.noise, o)

    parts: list[tuple[str, float, Callable[[_Micro], Loss]]] = [
        ("fm", o.w_fm, lambda m: flow_matching(m.models, m.batch, m.rollout, m.noise, o)),
        ("sc", o.w_shortcut, lambda m: shortcut(m.models, m.batch, m.rollout, m.noise, o)),
        ("dmd", o.w_dmd, distribution_matching),
    ]
    parts = [part for part in parts if part[1] > 0]
    # A meter measures a part over all clips; otherwise the parts of the same clips follow each other and share what the teacher has read.
    order = [(part, m) for m in micros for part in parts] if meter is None else [(part, m) for part in parts for m in micros]
    metrics: Metrics = {}
    watch = None if meter is None else _Stopwatch(batch.latents.device)
    for i, ((name, weight, forward), m) in enumerate(
        order
    ):  # one at a time: less memory, and the engine wants a forward before each backward
        loss = forward(m)
        live.backward(Loss(m.share * weight * loss.value, {}), last=i + 1 == len(order))
        _add(metrics, _named(loss) | {"dmd" if name == "dmd" else "loss": weight * loss.value.detach()}, m.share)
        if meter is not None and m is micros[-1]:
            metrics |= {f"grad/{name}_{branch}": norm for branch, norm in meter.take().items()}
        if watch is not None and m is micros[-1]:
            watch.lap(name)
        if meter is None and name == parts[-1][0]:
            m.models.forget()
    for m in micros:
        m.models.forget()
    done = live.step(rate)
    metrics |= _pull(metrics)
    if watch is not None:
        watch.lap("optimizer")
    metrics |= {"grad_norm": done.grad_norm, "skipped": float(not done.applied)}
    if jumps:
        metrics |= _fake_updates(networks, micros, jumps, o, rate * o.fake.lr_ratio, meter is not None)
        if watch is not None:
            watch.lap("fake")
    return metrics if watch is None else metrics | watch.shares()


def _add(metrics: Metrics, new: Metrics, share: float) -> None:
    """Add the share that some clips have in a step's means."""
    for name, value in new.items():
        metrics[name] = metrics.get(name, 0.0) + share * value


def _pull(metrics: Metrics) -> Metrics:
    """`health/pull`: norm of the distillation's gradients over flow matching's, from the metered norms; none where either is missing."""
    norms = {part: [float(v) for k, v in metrics.items() if k.startswith(f"grad/{part}_")] for part in ("fm", "sc", "dmd")}
    if not norms["fm"] or not any(norms["fm"]) or not (norms["sc"] or norms["dmd"]):
        return {}
    return {"health/pull": hypot(*norms["sc"], *norms["dmd"]) / hypot(*norms["fm"])}


class _Stopwatch:
    """How a step's time is spent: `share/PART`, together 1. It waits for the device at every lap, so it is used on metered steps alone."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: dict[str, float] = {}
        self._at = self._now()

    def lap(self, part: str) -> None:
        now = self._now()
        self._laps[part], self._at = now - self._at, now

    def shares(self) -> Metrics:
        total = sum(self._laps.values())
        return {f"share/{part}": seconds / total for part, seconds in self._laps.items()}

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return perf_counter()


def _fake_updates(
    networks: Networks, micros: list[_Micro], jumps: list[AV], objective: ObjectiveConfig, rate: float, metered: bool
) -> Metrics:
    """The fake-score model learns what the generator makes now; `loss/fake_fresh` is its loss on samples that it has not seen, and in a
    metered step `health/fake_lag` by how much this step's updates have lowered it, on the same samples with the same noise.
    """
    fake = networks.fake
    assert fake is not None, "a stage with DMD has a fake-score model"
    metrics: Metrics = {}

    def score(models: Models, m: _Micro, g: AV, update: int) -> Loss:
        assert m.rollout is not None
        return fake_score(models, g, m.batch, m.rollout, m.noise, objective, update)

    for update in range(objective.fake.updates):
        now: Metrics = {}
        for m, g in zip(micros, jumps, strict=True):
            loss = score(replace(m.models, fake=fake), m, g, update)
            fake.backward(Loss(m.share * loss.value, {}), last=m is micros[-1])
            _add(now, {"fake": loss.value.detach()}, m.share)
        done = fake.step(rate)
        metrics.setdefault("loss/fake_fresh", now["fake"])
        metrics |= {"loss/fake": now["fake"], "grad_norm_fake": done.grad_norm}
        metrics["skipped_fake"] = metrics.get("skipped_fake", 0.0) + float(not done.applied)
    if metered:
        again: Metrics = {}
        with torch.no_grad():
            for m, g in zip(micros, jumps, strict=True):
                _add(again, {"fake": score(m.models, m, g, 0).value}, m.share)
        metrics["health/fake_lag"] = metrics["loss/fake_fresh"] - again["fake"]
    return metrics


def _named(loss: Loss) -> Metrics:
    return {f"loss/{name}": value for name, value in loss.parts.items()}


@torch.no_grad()
def probe(
    models: Models, batch: AVBatch, rollout: Rollout | None, noise: PositionalNoise, objective: ObjectiveConfig, mutual: bool
) -> Metrics:
    """The regressions that a stage trains, for `models.live` on a fixed batch, history and noise: what two moments of it are compared by.

    A step's own losses draw other clips and times at every step, and that spread hides what a short stage learns. ShortCut's target is the
    teacher's of the moment. A stage that trains no regression (DMD alone) has nothing to show here.
    """
    o = objective
    weights = {"fm": o.w_fm if mutual else 1.0, "sc": o.w_shortcut if mutual else 0.0}
    total: Tensor | float = 0.0
    metrics: Metrics = {}
    for name, part in (("fm", flow_matching), ("sc", shortcut)):
        if weights[name] > 0:
            loss = part(models, batch, rollout, noise, o)
            total = total + weights[name] * loss.value
            metrics |= {f"probe/{key}": value for key, value in loss.parts.items()} | {"probe/loss": total}
    return metrics
