"""A skipped step again, in one process of plain PyTorch: what is the first thing in it that is not finite?

The order is that of a step: its inputs, its weights, then part by part the loss and its gradient. The noise comes from the positions,
so it is the noise of the training; sums over ranks and the arithmetic of ZeRO are not repeated.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..model.health import GradientMeter
from ..model.lora import LoraAdapter
from ..model.losses import Loss, dmd, fake_score, flow_matching, jump_to_zero, shortcut
from ..model.noise import PositionalNoise
from ..model.transformer import AVTransformer
from .bad_step import REMEDY, ROLES, BadStep
from .checkpoint import Weights
from .optimizer import OptimizerConfig
from .plain_engine import PlainEngine
from .train_step import Networks, Trained

ALSO = {"sc": " or objective.shortcut.guidance", "dmd": " or objective.dmd.guidance", "fake": " or objective.fake.lr_ratio"}


@dataclass(frozen=True)
class Check:
    """Something that a step reads. first: where it is not finite, None where all of it is; largest: the largest finite magnitude;
    remedy: what to do where it is not finite.
    """

    name: str
    first: str | None
    largest: float
    remedy: str

    @property
    def finite(self) -> bool:
        return self.first is None


@dataclass(frozen=True)
class Part:
    """A part of the objective by itself, unweighted: its loss and the norm of its gradient by modality."""

    name: str
    loss: float
    gradient_norms: dict[str, float]

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss) and all(map(math.isfinite, self.gradient_norms.values()))


@dataclass(frozen=True)
class Replayed:
    """What came of it. first: the name of the first thing that is not finite, None where everything is; verdict: one line on it."""

    checks: tuple[Check, ...]
    parts: tuple[Part, ...]
    first: str | None
    verdict: str


def replay(bad: BadStep) -> Replayed:
    """Compute a step again.

    Raises:
        ValueError: the weights do not belong to the network that the header describes.
    """
    networks = _networks(bad)
    checks = (*_inputs(bad), *(_weights(bad, role) for role in ROLES if role in bad.weights))
    parts = tuple(_parts(bad, networks))
    first, verdict = _verdict(bad, checks, parts)
    return Replayed(checks, parts, first, verdict)


# --- what the step reads ----------------------------------------------------------------------------------------------------


def _inputs(bad: BadStep) -> Iterator[Check]:
    lower = f"the averaged weights made it: lower stages.{bad.header.origin.stage}.optimizer.lr or objective.w_distil"
    clips = list(zip(bad.header.sample_ids, bad.header.positions, strict=True))

    def checked(name: str, x: Tensor, remedy: str) -> Check:
        first = next((f"clip {clips[i][0]} (position {clips[i][1]})" for i in _not_finite(x)), None)
        return Check(name, first, _largest([x]), remedy)

    for modality, x in bad.batch.latents.items():
        yield checked(f"real latents, {modality}", x, "take its source file out, or repair it, and prepare the data again")
    yield checked("times of the words", bad.batch.controls.words_time_BW2, "correct its sidecar and prepare the data again")
    if bad.rollout is not None:
        for modality, x in bad.rollout.history.items():
            yield checked(f"history, {modality}", x, lower)
        for modality, x in bad.rollout.exit_state.items() if bad.rollout.exit_state is not None else ():
            yield checked(f"exit states, {modality}", x, lower)


def _weights(bad: BadStep, role: str) -> Check:
    weights = bad.weights[role]
    first = next((name for name, x in weights.items() if not bool(x.isfinite().all())), None)
    remedy = f"an earlier step moved them there: lower stages.{bad.header.origin.stage}.optimizer.lr"
    return Check(f"weights, {role}", first, _largest(weights.values()), remedy)


def _not_finite(x: Tensor) -> list[int]:
    """Clips with a number that is not finite."""
    return [i for i, clip in enumerate(x) if not bool(clip.isfinite().all())]


def _largest(tensors: Iterable[Tensor]) -> float:
    return max((float(torch.nan_to_num(x.float(), 0.0, 0.0, 0.0).abs().max()) for x in tensors if x.numel()), default=0.0)


# --- what it computes -------------------------------------------------------------------------------------------------------


def _networks(bad: BadStep) -> Networks:
    objective = bad.header.origin.setup.objective
    still = {role: _network(bad, role).requires_grad_(False) for role in ("ema", "frozen") if role in bad.weights}
    theta, fake = _network(bad, "live"), None
    if "fake" in bad.weights:
        phi = _network(bad, "fake") if objective.fake.kind == "full" else _adapter(bad, theta)
        fake = _engine(phi)
    return Networks(_engine(theta), still["ema"], fake, still.get("frozen"))


def _network(bad: BadStep, role: str) -> AVTransformer:
    """A network of a role's weights, without memory of its own: a header that asks for more than the file holds takes none."""
    setup, weights = bad.header.origin.setup, bad.weights[role]
    if setup.model.depth > len(weights):
        raise ValueError(f"bad step: {len(weights)} {role} weights cannot be those of model.depth={setup.model.depth}; {REMEDY}")
    with torch.device("meta"):
        network = AVTransformer(setup.model, setup.timeline)
    _take_over(network, role, weights, assign=True)
    return network


def _adapter(bad: BadStep, theta: AVTransformer) -> LoraAdapter:
    adapter = LoraAdapter(theta, bad.header.origin.setup.objective.fake.rank)
    _take_over(adapter, "fake", bad.weights["fake"], assign=False)
    return adapter


def _take_over(network: nn.Module, role: str, weights: Weights, assign: bool) -> None:
    try:
        network.load_state_dict(weights, assign=assign)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"bad step: its {role} weights are not those of the network in its header ({reason}); {REMEDY}") from error


def _engine(network: nn.Module) -> PlainEngine:
    """Its optimizer is never asked for a step."""
    return PlainEngine(network, [(1.0, list(network.parameters()))], OptimizerConfig())


def _parts(bad: BadStep, networks: Networks) -> Iterator[Part]:
    """The parts that the step had, in its order."""
    origin, batch, rollout = bad.header.origin, bad.batch, bad.rollout
    o, mutual = origin.setup.objective, origin.kind == "mutual"
    noise = PositionalNoise([(origin.seed, origin.stage, p) for p in batch.positions])
    models = networks.models(o.teacher if mutual else "ema")
    live, fake = networks.live, networks.fake

    if not mutual or o.w_fm > 0:
        yield _part("fm", live, bad, lambda: flow_matching(models, batch, rollout if mutual else None, noise, o))
    if mutual and o.w_shortcut > 0:
        yield _part("sc", live, bad, lambda: shortcut(models, batch, rollout, noise, o))
    if mutual and o.w_dmd > 0 and fake is not None and rollout is not None:
        yield _part("dmd", live, bad, lambda: dmd(models, jump_to_zero(models, batch, rollout, o), batch, rollout, noise, o))
        with torch.no_grad():
            g = jump_to_zero(models, batch, rollout, o)
        yield _part("fake", fake, bad, lambda: fake_score(models, g, batch, rollout, noise, o, update=0))


def _part(name: str, trained: Trained, bad: BadStep, forward: Callable[[], Loss]) -> Part:
    named = list(trained.network.named_parameters())
    branches: dict[str, Iterable[nn.Parameter]] = {
        m: [p for n, p in named if m in re.split("[./]", n)] for m, _ in bad.batch.latents.items()
    }
    meter = GradientMeter(branches)
    loss = forward()
    trained.backward(loss, last=True)
    trained.network.zero_grad()
    meter.close()
    norms = meter.take()
    return Part(name, float(loss.value.detach()), {m: float(norms[m]) for m in branches if m in norms})


# --- the verdict ------------------------------------------------------------------------------------------------------------


def _verdict(bad: BadStep, checks: tuple[Check, ...], parts: tuple[Part, ...]) -> tuple[str | None, str]:
    for check in checks:
        if check.first is not None:
            return check.name, f"first not finite: {check.name}: {check.first}; {check.remedy}"
    largest = max(check.largest for check in checks if check.name.startswith("weights"))
    for part in parts:
        bad_norms = (f"gradient of {part.name}, {m}" for m, norm in part.gradient_norms.items() if not math.isfinite(norm))
        first = next(bad_norms, None) if math.isfinite(part.loss) else f"loss of {part.name}"
        if first is not None:
            remedy = f"lower stages.{bad.header.origin.stage}.optimizer.lr{ALSO.get(part.name, '')}"
            return first, f"first not finite: the {first}; inputs and weights are finite (largest weight {largest:.3g}): {remedy}"
    return None, "everything is finite here: replay the files of the other ranks; if theirs is too, the sum of the ranks was not"
