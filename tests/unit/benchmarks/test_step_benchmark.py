"""The benchmark of the step keeps its contract, and the arithmetic that it compares with is what the networks are asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mutual_forcing.benchmarks.step import Size, main, material, network
from mutual_forcing.model.losses import Models, dmd, fake_score, flow_matching, jump_to_zero, shortcut
from mutual_forcing.model.objective import DmdConfig, FakeConfig, ObjectiveConfig, ShortcutConfig, variants
from mutual_forcing.model.timeline import Layout, Timeline
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.model.types import AV, Controls, Velocity, future

TINY = Size(
    clips=1,
    chunks=2,
    grid=2,
    runs=2,
    model=TransformerConfig(video_channels=3, audio_channels=5, video_width=16, audio_width=16, depth=1, heads=2, head_dim=8, window=1),
    timeline=Timeline(audio_hop=2048),
)
OBJECTIVES = variants(ObjectiveConfig()) | {
    "unguided": ObjectiveConfig(shortcut=ShortcutConfig(guidance=1.0, sub_steps=3), dmd=DmdConfig(guidance=1.0), fake=FakeConfig(updates=2))
}


class Counted:
    """Forward passes of a network in clips, with those that carry gradient counted three times."""

    def __init__(self, model: Velocity, trained: bool) -> None:
        self.model, self.weight, self.forwards = model, 3 if trained else 1, 0

    def __call__(self, noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        self.forwards += self.weight * noisy.batch // TINY.clips
        return self.model(noisy, context, t, r, controls, layout)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_arithmetic_is_what_the_networks_are_asked_for(name: str) -> None:
    o = OBJECTIVES[name]
    batch, rollout, noise = material(TINY, "cpu")
    net = network(TINY, "cpu")

    def cost(part: str) -> float:
        live, teacher, fake = Counted(net, True), Counted(net, False), Counted(net, part == "fake")
        models = Models(live, teacher, fake)
        if part == "fm":
            flow_matching(models, batch, rollout, noise, o)
        elif part == "sc":
            shortcut(models, batch, rollout, noise, o)
        elif part == "dmd":
            dmd(models, jump_to_zero(models, batch, rollout, o), batch, rollout, noise, o)
        else:
            for update in range(o.fake.updates):
                fake_score(models, future(batch.latents), batch, rollout, noise, o, update)
        return float(live.forwards + teacher.forwards + fake.forwards)

    arithmetic = o.forward_equivalents()
    assert {part: cost(part) for part in arithmetic} == arithmetic


def test_the_papers_step_is_three_seven_six_and_fifteen() -> None:
    assert ObjectiveConfig().forward_equivalents() == {"fm": 3.0, "sc": 7.0, "dmd": 6.0, "fake": 15.0}
    assert replace(ObjectiveConfig(), w_distil=0.0).forward_equivalents() == {"fm": 3.0}


def test_it_prints_one_object_with_ratios_and_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"], TINY) == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made["forward_equivalents"]) == set(made["arithmetic"]) == {"fm", "sc", "dmd", "fake"}
    assert all(0 < x["low"] <= x["median"] <= x["high"] for x in made["forward_equivalents"].values())
    full, lora = made["fake"]["full"], made["fake"]["lora"]
    assert full["trained_parameters"] == made["parameters"] > lora["trained_parameters"] > 0
    assert full["held_bytes"] == 16 * full["trained_parameters"], "fp32 weights, gradients and two moments"
