"""Replaying a skipped step: the same losses as in training, and the first thing that is not finite by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from bad_step_material import IDS, NETWORK, OBJECTIVE, bad_step, network, step_noise, with_exit, with_latent, with_weight

from mutual_forcing.model.objective import variants
from mutual_forcing.workers.bad_step import BadStep
from mutual_forcing.workers.optimizer import OptimizerConfig
from mutual_forcing.workers.plain_engine import PlainEngine
from mutual_forcing.workers.replay import replay
from mutual_forcing.workers.train_step import Networks, flow_step, mutual_step

OUT = "branches.audio.out.weight"


def huge_audio() -> BadStep:
    """Inputs and weights are finite, and the loss is not."""
    return with_weight(bad_step("flow"), "live", OUT, 1e38)


def lora() -> BadStep:
    return bad_step(objective=replace(OBJECTIVE, fake=replace(OBJECTIVE.fake, kind="lora")))


@pytest.mark.parametrize("name", list(variants(OBJECTIVE)))
def test_the_losses_are_those_of_the_step(name: str) -> None:
    bad = bad_step(objective=variants(OBJECTIVE)[name])
    o = bad.header.origin.setup.objective
    replayed = {part.name: part for part in replay(bad).parts}
    engines = [PlainEngine(net, [(1.0, list(net.parameters()))], OptimizerConfig()) for net in (network(0), network(2))]
    networks = Networks(engines[0], network(1), engines[1] if o.w_dmd > 0 else None, network(3) if o.teacher == "frozen" else None)
    metrics = mutual_step(networks, bad.batch, bad.rollout, step_noise(), o, rate=0.0)
    for part in ("fm", "sc", "dmd"):
        known = [float(metrics[n]) for n in (f"loss/{part}_video", f"loss/{part}_audio") if n in metrics]
        assert (part in replayed) == bool(known)
        if known:
            assert replayed[part].loss == pytest.approx(sum(known), rel=1e-4)
            assert all(norm > 0 for norm in replayed[part].gradient_norms.values())
            assert replayed[part].gradient_norms.keys() == {"video", "audio"}
    assert ("fake" in replayed) == (o.w_dmd > 0)
    if "fake" in replayed:
        assert replayed["fake"].loss == pytest.approx(float(metrics["loss/fake_fresh"]), rel=1e-4)


@pytest.mark.parametrize("modalities", [("video",), ("audio",), ("video", "audio")])
def test_a_flow_stage_has_flow_matching_alone(modalities: tuple[str, ...]) -> None:
    bad = bad_step("flow", modalities=modalities)
    [part] = replay(bad).parts
    net = network(0)
    engine = PlainEngine(net, [(1.0, list(net.parameters()))], OptimizerConfig())
    metrics = flow_step(Networks(engine, network(1)), bad.batch, step_noise(), OBJECTIVE, rate=0.0)
    assert (part.name, part.finite) == ("fm", True)
    assert part.loss == pytest.approx(float(metrics["loss"]), rel=1e-4)
    assert part.gradient_norms.keys() == set(modalities)
    assert math.hypot(*part.gradient_norms.values()) == pytest.approx(float(metrics["grad_norm"]), rel=1e-4)


@pytest.mark.parametrize(
    ("make", "first", "words"),
    [
        (lambda: with_latent(bad_step(), 1), "real latents, audio", f"clip {IDS[1]} (position 9)"),
        (lambda: with_latent(bad_step("flow"), 0, torch.inf), "real latents, audio", f"clip {IDS[0]} (position 8)"),
        (lambda: with_weight(bad_step(), "live", OUT, torch.nan), "weights, live", OUT),
        (lambda: with_weight(bad_step(), "ema", OUT, torch.inf), "weights, ema", "optimizer.lr"),
        (lambda: with_weight(bad_step(), "fake", OUT, torch.nan), "weights, fake", OUT),
        (lambda: with_exit(bad_step(), 1), "exit states, video", f"clip {IDS[1]}"),
        (lambda: with_latent(with_weight(bad_step(), "live", OUT, torch.nan), 0), "real latents, audio", IDS[0]),
        (huge_audio, "loss of fm", "largest weight 1e+38"),
        (lambda: with_weight(bad_step(), "fake", OUT, 1e38), "loss of dmd", "optimizer.lr or objective.dmd.guidance"),
    ],
)
def test_the_first_thing_that_is_not_finite_is_named(make: Callable[[], BadStep], first: str, words: str) -> None:
    replayed = replay(make())
    assert replayed.first == first
    assert replayed.verdict.startswith("first not finite: ")
    assert first in replayed.verdict
    assert words in replayed.verdict
    assert "\n" not in replayed.verdict


@pytest.mark.parametrize("make", [bad_step, lora, lambda: bad_step("flow")])
def test_a_finite_step_is_said_to_be_one(make: Callable[[], BadStep]) -> None:
    replayed = replay(make())
    assert replayed.first is None
    assert replayed.verdict.startswith("everything is finite here")
    assert all(check.finite for check in replayed.checks)
    assert all(part.finite for part in replayed.parts)


def test_a_nan_in_an_exit_state_reaches_dmd_alone() -> None:
    finite = {part.name: part.finite for part in replay(with_exit(bad_step(), 0)).parts}
    assert finite == {"fm": True, "sc": True, "dmd": False, "fake": False}


def test_weights_of_another_network_are_refused() -> None:
    bad = bad_step("flow")
    missing = replace(bad, weights=bad.weights | {"ema": {n: x for n, x in bad.weights["ema"].items() if n != OUT}})
    with pytest.raises(ValueError, match=f"its ema weights are not those of the network.*{OUT}"):
        replay(missing)


@pytest.mark.parametrize("change", [{"depth": 10**9}, {"video_width": 2**20}])
def test_a_header_that_asks_for_a_giant_takes_no_memory(change: dict[str, int]) -> None:
    bad = bad_step("flow")
    setup = bad.header.origin.setup
    giant = replace(bad.header.origin, setup=replace(setup, model=replace(NETWORK, **change)))
    with pytest.raises(ValueError, match="weights"):
        replay(replace(bad, header=replace(bad.header, origin=giant)))
