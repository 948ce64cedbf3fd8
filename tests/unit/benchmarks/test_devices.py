"""A comparison on a device that is not the CPU, without one: `meta` tensors hold no values, but refuse to meet those of another device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mutual_forcing.benchmarks._toy_training import QUICK
from mutual_forcing.benchmarks._training import made_on, new_network, noise_of
from mutual_forcing.model.losses import Models, dmd, fake_score, flow_matching, jump_to_zero, shortcut
from mutual_forcing.model.objective import variants
from mutual_forcing.model.sampler import SamplerConfig, few_mode, generate, roll_out
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import AVBatch

RECIPES = variants(QUICK.objective)
WORLD = replace(QUICK.world, network=replace(QUICK.world.network, depth=2, window=1))
CHUNKS = 3  # the window rolls


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> AVTransformer:
    """On the device. What is fetched from there gets values: draws of few-step moves decide how many of them are made."""
    to_cpu = Tensor.cpu

    def fetched(x: Tensor) -> Tensor:
        return torch.full(x.shape, 1, dtype=x.dtype) if x.is_meta else to_cpu(x)

    monkeypatch.setattr(Tensor, "cpu", fetched)
    return new_network(WORLD, 0, "cpu").to("meta")


@pytest.fixture
def batch() -> AVBatch:
    return WORLD.clips(0, 2, CHUNKS).to("meta")


@pytest.mark.parametrize("name", ["mutual", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sc-tf", "dmd-sf"))])
def test_a_step_keeps_to_its_device(name: str, network: AVTransformer, batch: AVBatch) -> None:
    o, models, noise = RECIPES[name], Models(network, network, network), noise_of(0, "any", batch.positions, "meta")
    rollout = None
    if o.needs_rollouts:
        rollout = made_on(roll_out(network, batch.latents, batch.controls, batch.layout, o, noise, 0), "meta")
    losses = [part(models, batch, rollout, noise, o) for part in (flow_matching, shortcut)]
    if o.w_dmd > 0:
        assert rollout is not None
        g = jump_to_zero(models, batch, rollout, o)
        losses += [dmd(models, g, batch, rollout, noise, o), fake_score(models, g, batch, rollout, noise, o, 0)]
    for loss in losses:
        assert loss.value.is_meta
        loss.value.backward()


@pytest.mark.parametrize("sampler", [few_mode(QUICK.objective, 2), few_mode(RECIPES["dmd-sf"], 2), SamplerConfig("multi", 2, guidance=3.0)])
def test_sampling_keeps_to_its_device(sampler: SamplerConfig, network: AVTransformer, batch: AVBatch) -> None:
    first, audio = batch.latents.get("video")[:, :1], batch.latents.get("audio")
    noise = noise_of(0, "any", batch.positions, "meta")
    made = generate(network, batch.controls, first, (audio.shape[0], audio.shape[2]), CHUNKS, sampler, noise)
    assert all(x.is_meta for chunk in made for _, x in chunk.items())


def test_the_device_notices_a_stranger(network: AVTransformer, batch: AVBatch) -> None:
    """The times of a rollout as they were drawn: what the other tests are worth."""
    o, noise = RECIPES["mutual"], noise_of(0, "any", batch.positions, "meta")
    rollout = roll_out(network, batch.latents, batch.controls, batch.layout, o, noise, 0)
    with pytest.raises(RuntimeError, match="device"):
        jump_to_zero(Models(network, network, network), batch, rollout, o)
