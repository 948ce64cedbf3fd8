"""A step on another device than the CPU: every tensor follows the networks there, and the numbers stay the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from far_device import FAR, Far, FarTensor, moved
from zero_material import BATCH, OBJECTIVE, OPTIMIZER, clips, network, plain

from mutual_forcing.model.health import GradientMeter, few_health
from mutual_forcing.model.lora import LoraAdapter
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.sampler import SamplerConfig, generate, roll_out
from mutual_forcing.workers.train_step import Metrics, Networks, flow_step, mutual_step, probe
from mutual_forcing.workers.wire import pack_weights, rollout_to_arrays, unpack_weights

KEYS = [(11, "zero", p) for p in range(BATCH)]


def stepped(far: bool, kind: str) -> dict[str, float]:
    """The metrics of two steps with all that a training loop measures beside them."""
    batch, rollout, _ = clips(range(BATCH))
    place = moved if far else lambda x: x
    device = FAR if far else torch.device("cpu")
    batch, rollout, noise = batch.to(device), rollout.to(device), PositionalNoise(KEYS, device)
    theta, ema = place(network()), place(network()).requires_grad_(False)
    fake = LoraAdapter(theta, 2) if kind == "lora" else place(network())  # an adapter is made where its base is
    nets = Networks(plain(theta), ema, plain(fake))
    found: Metrics = {}
    for step in range(2):
        if kind == "flow":
            made = flow_step(nets, batch, noise, OBJECTIVE, OPTIMIZER.lr, micro=2)
        else:
            meter = GradientMeter({"all": theta.parameters()})
            made = mutual_step(nets, batch, rollout, noise, OBJECTIVE, OPTIMIZER.lr, meter, micro=2)
            meter.close()
        found |= {f"{name}, step {step}": x for name, x in made.items() if not name.startswith("share/")}
    models = replace(nets.models("ema"), live=ema)
    found |= probe(models, batch, rollout, noise, OBJECTIVE, mutual=kind != "flow")
    if kind != "flow":
        found |= few_health(ema, batch, OBJECTIVE, 2, noise)
        rolled = roll_out(ema, batch.latents, batch.controls, batch.layout, OBJECTIVE, noise, version=3)
        found |= {f"rolled {name}": float(x.astype("float64").sum()) for name, x in rollout_to_arrays(rolled).items()}
        first = batch.latents.get("video")[:, :1]
        for chunk in generate(ema, batch.controls, first, (BATCH, 5), 2, SamplerConfig("multi", 2, guidance=2.0), noise):
            found["generated"] = chunk.get("audio").square().sum()
        sent = pack_weights(1, theta.parameters())
        unpack_weights(sent, ema.parameters())
        found |= {"sent": sum(float(p.detach().sum()) for p in ema.parameters())}
    return {name: float(x) for name, x in found.items()}


@pytest.mark.parametrize("kind", ["flow", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("mutual", "lora"))])
def test_a_step_on_another_device_is_the_same_step(kind: str) -> None:
    with Far():
        there = stepped(True, kind)
    assert there == pytest.approx(stepped(False, kind), rel=1e-4, abs=1e-6)


def test_the_device_refuses_what_was_left_behind() -> None:
    """Without this the test above would see nothing."""
    with Far():
        here, there = torch.ones(3), torch.ones(3, device=FAR)
        assert isinstance(there, FarTensor)
        assert (there + 1).device == FAR
        assert (there + torch.tensor(2.0)).sum().item() == 9.0
        with pytest.raises(RuntimeError, match="meets one of the device"):
            _ = there + here
        assert torch.equal((there.cpu() + here), torch.full((3,), 2.0))
