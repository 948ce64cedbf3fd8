"""Health signals on clips whose answer is known."""

from __future__ import annotations

import pytest
import torch
from model_material import clip_batch, clip_noise, latents, network

from mutual_forcing.model.health import GradientMeter, few_health, history_health
from mutual_forcing.model.objective import FewConfig, ObjectiveConfig, ShortcutConfig
from mutual_forcing.model.sampler import few_mode, generate
from mutual_forcing.model.types import AV, MODALITIES

CHUNKS = 3


def test_the_real_clip_is_healthy() -> None:
    signals = {name: float(x) for name, x in history_health(latents(CHUNKS), clip_batch(CHUNKS)).items()}
    assert signals == {"loudness": 1.0, "motion": 1.0, "saturation_video": 0.0, "saturation_audio": 0.0}


def test_silence_stills_and_excess_are_seen() -> None:
    batch = clip_batch(CHUNKS)
    real = batch.latents
    still = AV(real.get("video")[:, :1].expand_as(real.get("video")), 0.25 * real.get("audio"))
    signals = history_health(still, batch)
    assert float(signals["motion"]) == pytest.approx(0.0, abs=1e-9)
    assert float(signals["loudness"]) == pytest.approx(0.25)
    assert float(history_health(real.map(lambda x: 100 * x), batch)["saturation_audio"]) > 0.9


def test_modes_that_are_one_agree_and_a_guided_one_does_not() -> None:
    """With one move, FEW ends where one Euler step of unguided MULTI ends, if nothing tells the modes apart."""
    net, batch = network(), clip_batch(CHUNKS)
    with torch.no_grad():
        for p in net.parameter_groups(MODALITIES, 1.0)[1][1]:
            p.zero_()
    one = ObjectiveConfig(shortcut=ShortcutConfig(guidance=1.0), few=FewConfig(moves=1))
    assert float(few_health(net, batch, one, 1, clip_noise())["mode_disagreement"]) == pytest.approx(0.0, abs=1e-9)
    assert float(few_health(net, batch, one, 16, clip_noise())["mode_disagreement"]) > 1e-3


def test_health_is_that_of_what_the_few_step_mode_makes_on_its_own_outputs() -> None:
    net, batch, config = network(), clip_batch(CHUNKS), ObjectiveConfig()
    found = few_health(net, batch, config, 1, clip_noise())
    first = batch.latents.get("video")[:, :1]
    chunks = list(generate(net, batch.controls, first, (2, 5), CHUNKS, few_mode(config), clip_noise()))
    made = AV(torch.cat([first, *(x.get("video") for x in chunks)], dim=1), torch.cat([x.get("audio") for x in chunks], dim=1))
    want = history_health(made, batch)
    assert {name: float(x) for name, x in want.items()} == {name: float(found[name]) for name in want}
    assert found.keys() == want.keys() | {"mode_disagreement"}


def test_the_meter_splits_the_gradient_by_group_and_by_backward() -> None:
    net = network()
    meter = GradientMeter({m: net.branch_parameters((m,)) for m in ("video", "audio")})
    wanted = {}
    for m in ("video", "audio"):
        parameters = net.branch_parameters((m,))
        loss = torch.stack([(i + 1.0) * p.square().sum() for i, p in enumerate(parameters)]).sum()
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
        wanted[m] = float(torch.stack([g.square().sum() for g in gradients]).sum().sqrt())
        meter.take()
        loss.backward()
        assert {name: float(x) for name, x in meter.take().items()} == pytest.approx({m: wanted[m]})
    meter.close()
    net.branch_parameters(("video",))[0].square().sum().backward()
    assert meter.take() == {}
