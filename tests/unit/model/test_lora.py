"""The fake score as an adapter: it begins as theta, learns alone, follows theta, and never gives theta a gradient."""

from __future__ import annotations

import torch
from model_material import assert_near, clip_batch, clip_noise, network
from torch import Tensor

from mutual_forcing.model.lora import LoraAdapter
from mutual_forcing.model.losses import Models, fake_score
from mutual_forcing.model.objective import ObjectiveConfig
from mutual_forcing.model.types import AV, Rollout, future

CHUNKS = 3


def velocity(net: torch.nn.Module, at: float = 0.4) -> AV:
    batch = clip_batch(CHUNKS)
    t = AV(*(torch.full((2, CHUNKS), at, dtype=torch.float64),) * 2)
    return net(future(batch.latents), batch.latents, t, t, batch.controls, batch.layout)


def loss_of(adapter: LoraAdapter) -> Tensor:
    batch = clip_batch(CHUNKS)
    rollout = Rollout(batch.latents, None, None)
    return fake_score(Models(adapter, adapter, adapter), future(batch.latents), batch, rollout, clip_noise(), ObjectiveConfig(), 0).value


def test_it_begins_as_its_base() -> None:
    base = network()
    for name, x in velocity(LoraAdapter(base, rank=4)).items():
        assert torch.equal(x, velocity(base).get(name))


def test_only_the_adapter_gets_a_gradient() -> None:
    base = network()
    adapter = LoraAdapter(base, rank=4)
    loss_of(adapter).backward()
    assert all(p.grad is None for p in base.parameters())
    assert all(p.requires_grad for p in base.parameters()), "the base itself stays trainable"
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in adapter.up.values())
    assert not {id(p) for p in adapter.parameters()} & {id(p) for p in base.parameters()}


def test_it_equals_a_network_with_the_product_added_to_its_weights() -> None:
    """The reference: W + up @ down at every linear layer, by hand."""
    base, merged = network(), network()
    adapter = LoraAdapter(base, rank=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, up in adapter.up.items():
            up += 0.1 * torch.randn(up.shape, generator=generator, dtype=up.dtype)
            merged.get_submodule(name.replace("/", ".")).weight += up @ adapter.down[name]
    for name, x in velocity(adapter).items():
        assert_near(x, velocity(merged).get(name), atol=1e-9)


def test_it_follows_its_base_and_leaves_no_hook_behind() -> None:
    base = network()
    adapter = LoraAdapter(base, rank=4)
    before = velocity(base)
    velocity(adapter)
    assert torch.equal(velocity(base).get("video"), before.get("video"))
    with torch.no_grad():
        for p in base.parameters():
            p *= 1.1
    assert torch.equal(velocity(adapter).get("video"), velocity(base).get("video"))


def test_it_learns_what_its_base_cannot_unlearn() -> None:
    base = network()
    adapter = LoraAdapter(base, rank=4)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = loss_of(adapter)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_its_trained_share_is_small() -> None:
    base = network()
    adapter = LoraAdapter(base, rank=1)
    assert sum(p.numel() for p in adapter.parameters()) < 0.25 * sum(p.numel() for p in base.parameters())
