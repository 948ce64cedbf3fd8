"""One optimizer step: which parts it computes with whose weights, what it minimises, and what it reports."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import pytest
import torch
from step_material import BASE, Slope, Watched, material
from torch import Tensor, nn
from torch.testing import assert_close

from mutual_forcing.model.health import GradientMeter
from mutual_forcing.model.losses import Loss, Models, dmd, fake_score, flow_matching, jump_to_zero, shortcut
from mutual_forcing.model.objective import ObjectiveConfig, Teacher, variants
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import MODALITIES
from mutual_forcing.workers.optimizer import OptimizerConfig
from mutual_forcing.workers.plain_engine import PlainEngine
from mutual_forcing.workers.train_step import Metrics, Networks, flow_step, mutual_step, probe

RECIPES = variants(BASE)
RATE = 0.25


class Nets:
    """Four networks of different weights."""

    def __init__(self, fake: bool = True, frozen: bool = True) -> None:
        self.live, self.ema, self.fake, self.frozen = Watched(Slope(0)), Slope(1), Watched(Slope(2)), Slope(3)
        teachers = [cast(AVTransformer, x) for x in (self.ema, self.frozen)]  # a step calls them and nothing more
        self.networks = Networks(self.live, teachers[0], self.fake if fake else None, teachers[1] if frozen else None)

    def step(self, objective: ObjectiveConfig, rollouts: bool = True, exits: bool = True) -> Metrics:
        batch, rollout, noise = material(exits)
        return mutual_step(self.networks, batch, rollout if rollouts else None, noise, objective, RATE)

    def forwards(self) -> dict[str, int]:
        """Forwards of each network, and those of them with gradient."""
        through = {f"{name} trained": x.events.count("forward") for name, x in (("live", self.live), ("fake", self.fake))}
        every = {"live": self.live.network, "ema": self.ema, "fake": self.fake.network, "frozen": self.frozen}
        return {name: x.forwards for name, x in every.items()} | through


def teacher_of(nets: Nets, objective: ObjectiveConfig) -> Slope:
    return {"ema": nets.ema, "live": nets.live.network, "frozen": nets.frozen}[objective.teacher]


def parts_of(nets: Nets, objective: ObjectiveConfig) -> dict[str, Loss]:
    """Every part of an objective by itself, on the same material."""
    batch, rollout, noise = material()
    models = Models(nets.live.network, teacher_of(nets, objective), nets.fake.network)
    return {
        "fm": flow_matching(models, batch, rollout, noise, objective),
        "sc": shortcut(models, batch, rollout, noise, objective),
        "dmd": dmd(models, jump_to_zero(models, batch, rollout, objective), batch, rollout, noise, objective),
    }


def weights_of(o: ObjectiveConfig) -> dict[str, float]:
    """What the sum gives each part (method 5)."""
    return {"fm": o.w_fm, "sc": o.w_distil * o.shortcut.weight, "dmd": o.w_distil * o.dmd.weight}


def assert_value(actual: Tensor | float, wanted: float) -> None:
    assert float(actual) == pytest.approx(wanted, rel=1e-9)


# --- the dual-mode step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_the_loss_is_the_weighted_sum_of_the_regressions_and_dmd_stands_apart(name: str) -> None:
    nets, o = Nets(), RECIPES[name]
    metrics, parts, weights = nets.step(o), parts_of(nets, o), weights_of(o)

    def summed(part: str) -> float:
        return o.video_weight * float(metrics[f"loss/{part}_video"]) + o.audio_weight * float(metrics[f"loss/{part}_audio"])

    computed = {part for part, weight in weights.items() if weight > 0}
    for part in computed:
        for m in MODALITIES:
            assert_value(metrics[f"loss/{part}_{m}"], float(parts[part].parts[f"{part}_{m}"]))
    regressions = computed & {"fm", "sc"}
    if regressions:
        assert_value(metrics["loss"], sum(weights[part] * summed(part) for part in regressions))
    if "dmd" in computed:
        assert_value(metrics["dmd"], weights["dmd"] * summed("dmd"))
    totals = {"grad_norm", "skipped"} | ({"loss"} if regressions else set())
    scores = {"dmd", "loss/fake", "loss/fake_fresh", "grad_norm_fake", "skipped_fake"} if "dmd" in computed else set()
    assert set(metrics) == totals | scores | {f"loss/{part}_{m}" for part in computed for m in MODALITIES}
    assert not any(x.requires_grad for x in metrics.values() if isinstance(x, Tensor))


@pytest.mark.parametrize("name", RECIPES)
def test_parts_one_by_one_give_the_gradient_of_the_sum(name: str) -> None:
    nets, o = Nets(), RECIPES[name]
    metrics, weight = nets.step(o), nets.live.network.weight
    total = torch.stack([w * parts_of(nets, o)[part].value for part, w in weights_of(o).items()]).sum()
    want = torch.autograd.grad(total, weight)[0]
    assert_close(nets.live.gradients[0], want, rtol=1e-9, atol=1e-12)
    assert_value(metrics["grad_norm"], float(want.norm()))
    assert nets.live.rates == [RATE]


@pytest.mark.parametrize("name", RECIPES)
def test_each_part_has_its_forward_before_its_backward_and_the_last_closes_the_step(name: str) -> None:
    """What DeepSpeed needs (see `Engine`): its accumulation begins at the forward that follows a backward."""
    nets = Nets()
    nets.step(RECIPES[name])
    count = sum(w > 0 for w in weights_of(RECIPES[name]).values())
    assert nets.live.events == ["forward", "backward"] * (count - 1) + ["forward", "last backward", "step"]
    updates = BASE.fake.updates if RECIPES[name].w_dmd > 0 else 0
    assert nets.fake.events == ["forward", "last backward", "step"] * updates


# forwards of: the live weights (all with gradient), the teacher (3 sub-steps of ShortCut, 1 of DMD), the fake score (1 of DMD, 2 updates)
FORWARDS = {
    "mutual": (3, 4, 3),
    "mutual-paper": (3, 4, 3),
    "mutual-no-dmd": (2, 3, 0),
    "mutual-no-sc": (2, 1, 3),
    "mutual-true-history": (3, 4, 3),
    "sc-tf": (2, 3, 0),
    "dmd-tf": (1, 1, 3),
    "dmd-sf": (1, 1, 3),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_part_without_weight_is_not_computed(name: str) -> None:
    nets, teacher = Nets(), RECIPES[name].teacher
    nets.step(RECIPES[name])
    live, taught, fake = FORWARDS[name]
    none = {"ema": 0, "frozen": 0}
    trained = {"live trained": live, "fake trained": BASE.fake.updates if fake else 0}
    assert nets.forwards() == none | {"live": live, teacher: taught, "fake": fake} | trained


@pytest.mark.parametrize("name", ["mutual-no-dmd", "sc-tf"])
def test_without_dmd_neither_a_fake_model_nor_exit_states_are_needed(name: str) -> None:
    with_all, without = Nets(), Nets(fake=False, frozen=False)
    assert without.step(RECIPES[name], exits=False) == with_all.step(RECIPES[name])


def test_without_generated_histories_and_dmd_no_rollout_is_needed() -> None:
    o = RECIPES["sc-tf"]
    assert Nets(fake=False).step(o, rollouts=False) == Nets().step(o)
    with pytest.raises(AssertionError, match="reads rollouts"):
        Nets().step(BASE, rollouts=False)


def test_true_history_alone_changes_what_flow_matching_and_shortcut_see() -> None:
    """DMD goes on reading the rollout's own history: its states were made on it."""
    generated, true = Nets().step(BASE), Nets().step(RECIPES["mutual-true-history"])
    for m in MODALITIES:
        assert float(generated[f"loss/fm_{m}"]) != float(true[f"loss/fm_{m}"])
        assert float(generated[f"loss/sc_{m}"]) != float(true[f"loss/sc_{m}"])
        assert float(generated[f"loss/dmd_{m}"]) == float(true[f"loss/dmd_{m}"])


@pytest.mark.parametrize("teacher", ["ema", "live", "frozen"])
def test_the_teacher_is_the_network_that_was_asked_for(teacher: Teacher) -> None:
    """By its forwards here, and by its values in the sums above, where all networks differ."""
    nets, o = Nets(), replace(BASE, teacher=teacher)
    metrics, parts = nets.step(o), parts_of(Nets(), o)
    want = {"live": 3, "ema": 0, "frozen": 0, "fake": 3, "live trained": 3, "fake trained": 2}
    want[teacher] += 4
    assert nets.forwards() == want
    for part in ("sc", "dmd"):
        assert_value(metrics[f"loss/{part}_video"], float(parts[part].parts[f"{part}_video"]))
    others = [parts_of(Nets(), replace(BASE, teacher=t))["sc"].parts["sc_video"] for t in ("ema", "live", "frozen") if t != teacher]
    assert all(float(x) != float(parts["sc"].parts["sc_video"]) for x in others)
    for module in (nets.ema, nets.frozen):
        assert module.weight.grad is None


def test_a_frozen_teacher_that_was_not_kept_is_named() -> None:
    with pytest.raises(AssertionError, match="teacher=frozen"):
        Nets(frozen=False).step(replace(BASE, teacher="frozen"))


def test_the_fake_score_follows_with_its_own_rate_and_no_gradient_to_the_generator() -> None:
    nets = Nets()
    metrics = nets.step(BASE)
    batch, rollout, noise = material()
    models = Models(nets.live.network, nets.ema, nets.fake.network)
    g = jump_to_zero(models, batch, rollout, BASE)
    scores = [fake_score(models, g, batch, rollout, noise, BASE, update) for update in (0, 1)]
    for made, score in zip(nets.fake.gradients, scores, strict=True):
        assert_close(made, torch.autograd.grad(score.value, nets.fake.network.weight)[0], rtol=1e-9, atol=1e-12)
    assert_value(metrics["loss/fake_fresh"], float(scores[0].value))
    assert_value(metrics["loss/fake"], float(scores[1].value))
    assert nets.fake.rates == [RATE * BASE.fake.lr_ratio] * 2
    assert nets.live.network.weight.grad is None
    assert len(nets.live.gradients) == 1


# --- what a step costs ----------------------------------------------------------------------------------------------------


def test_a_metered_step_says_how_its_time_was_spent() -> None:
    live, fake = (PlainEngine(net, [(1.0, list(net.parameters()))], OptimizerConfig()) for net in (Slope(0), Slope(2)))
    networks = Networks(live, cast(AVTransformer, Slope(1)), fake)
    meter = GradientMeter({"all": live.network.parameters()})
    metrics = mutual_step(networks, *material(), BASE, RATE, meter)
    shares = {name: float(value) for name, value in metrics.items() if name.startswith("share/")}
    assert set(shares) == {"share/fm", "share/sc", "share/dmd", "share/optimizer", "share/fake"}
    assert all(share > 0 for share in shares.values())
    assert sum(shares.values()) == pytest.approx(1.0)
    norms = {part: float(metrics[f"grad/{part}_all"]) for part in ("fm", "sc", "dmd")}
    assert metrics["health/pull"] == pytest.approx(math.hypot(norms["sc"], norms["dmd"]) / norms["fm"])
    meter.close()
    batch, rollout, noise = material()
    after = Models(Slope(0), Slope(1), fake.network)  # the generator as it was when the samples were made, the fake score as it is now
    again = fake_score(after, jump_to_zero(after, batch, rollout, BASE), batch, rollout, noise, BASE, 0).value
    assert_value(metrics["health/fake_lag"], float(metrics["loss/fake_fresh"]) - float(again))
    assert float(metrics["health/fake_lag"]) > 0
    plain = mutual_step(networks, *material(), BASE, RATE)
    assert not any(name.startswith(("share/", "health/")) for name in plain)


# --- steps that are not finite --------------------------------------------------------------------------------------------


def test_a_step_that_is_not_finite_is_reported_and_moves_nothing() -> None:
    """In plain PyTorch; `tests/numerics/test_zero.py` holds DeepSpeed to the same."""
    live, fake = (PlainEngine(net, [(1.0, list(net.parameters()))], OptimizerConfig()) for net in (Slope(0), Slope(2)))
    networks = Networks(live, cast(AVTransformer, Slope(1)), fake)
    batch, rollout, noise = material()
    before = copies(live.network, fake.network)
    bad = replace(rollout, exit_state=None if rollout.exit_state is None else rollout.exit_state.map(lambda x: x * math.nan))
    metrics = mutual_step(networks, batch, bad, noise, BASE, RATE)
    assert metrics["skipped"] == 1.0
    assert math.isnan(float(metrics["grad_norm"]))
    assert math.isfinite(float(metrics["loss"])), "flow matching and ShortCut were fine"
    assert all(torch.equal(a, b) for a, b in zip(before, copies(live.network, fake.network), strict=True))
    assert mutual_step(networks, batch, rollout, noise, BASE, RATE)["skipped"] == 0.0
    assert not any(torch.equal(a, b) for a, b in zip(before, copies(live.network, fake.network), strict=True))


def copies(*modules: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


# --- flow matching --------------------------------------------------------------------------------------------------------


def test_the_flow_step_minimises_flow_matching_on_true_history_alone() -> None:
    nets = Nets()
    batch, _, noise = material()
    metrics = flow_step(nets.networks, batch, noise, BASE, RATE)
    want = flow_matching(Models(nets.live.network, nets.ema), batch, None, noise, BASE)
    assert_value(metrics["loss"], float(want.value))
    assert set(metrics) == {"loss", "loss/fm_video", "loss/fm_audio", "grad_norm", "skipped"}
    assert_close(nets.live.gradients[0], torch.autograd.grad(want.value, nets.live.network.weight)[0], rtol=1e-9, atol=1e-12)
    assert nets.live.events == ["forward", "last backward", "step"]
    assert nets.live.rates == [RATE]
    assert (nets.ema.forwards, nets.frozen.forwards, nets.fake.network.forwards) == (0, 0, 0)


# --- the probe ------------------------------------------------------------------------------------------------------------


def probed(nets: Nets, objective: ObjectiveConfig, mutual: bool = True, rollouts: bool = True) -> Metrics:
    batch, rollout, noise = material()
    models = Models(nets.ema, teacher_of(nets, objective))
    return probe(models, batch, rollout if rollouts else None, noise, objective, mutual)


@pytest.mark.parametrize("teacher", ["ema", "frozen"])
def test_the_probe_is_the_weighted_regressions_of_the_averaged_weights(teacher: Teacher) -> None:
    nets, objective = Nets(), replace(BASE, teacher=teacher)
    batch, rollout, noise = material()
    models = Models(nets.ema, teacher_of(nets, objective))
    fm, sc = (part(models, batch, rollout, noise, objective) for part in (flow_matching, shortcut))
    found = probed(nets, objective)
    assert set(found) == {"probe/loss", *(f"probe/{part}_{m}" for part in ("fm", "sc") for m in MODALITIES)}
    assert float(found["probe/loss"]) == pytest.approx(float(0.7 * fm.value + 0.9 * 0.4 * sc.value))
    assert float(found["probe/sc_audio"]) == pytest.approx(float(sc.parts["sc_audio"]))
    assert all(isinstance(x, Tensor) and not x.requires_grad for x in found.values())


def test_the_probe_of_a_flow_stage_is_flow_matching_on_true_history_at_weight_one() -> None:
    nets = Nets()
    batch, _, noise = material()
    fm = flow_matching(Models(nets.ema, nets.ema), batch, None, noise, BASE)
    found = probed(nets, BASE, mutual=False, rollouts=False)
    assert set(found) == {"probe/loss", "probe/fm_video", "probe/fm_audio"}
    assert float(found["probe/loss"]) == pytest.approx(float(fm.value))


@pytest.mark.parametrize("recipe", ["dmd-tf", "dmd-sf"])
def test_dmd_alone_has_no_regression_to_probe(recipe: str) -> None:
    assert probed(Nets(), RECIPES[recipe]) == {}


def test_a_fake_update_that_is_not_finite_is_counted() -> None:
    live, fake = (PlainEngine(net, [(1.0, list(net.parameters()))], OptimizerConfig()) for net in (Slope(0), Slope(2)))
    with torch.no_grad():
        fake.network.weight.fill_(math.nan)  # type: ignore[union-attr]
    networks = Networks(live, cast(AVTransformer, Slope(1)), fake)
    batch, rollout, noise = material()
    metrics = mutual_step(networks, batch, rollout, noise, BASE, RATE)
    assert metrics["skipped_fake"] == BASE.fake.updates
    assert metrics["skipped"] == 1.0, "a direction of NaN reaches the generator too"
