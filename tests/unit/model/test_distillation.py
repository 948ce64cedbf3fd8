"""DMD and the fake score against a slow reference: loops over clips and latents, written from the equations of method 5.3 and 5.4."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from loss_material import CHUNKS, CONFIG, Field, assert_loss, every_latent, exits_of, no_grad_reached, rollout_of, shift, text_of
from model_material import assert_near, clip_batch, clip_noise, latents
from torch import Tensor, nn

from mutual_forcing.model.losses import Models, dmd, fake_score, jump_to_zero, shortcut
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import HistoryConfig
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.types import AV, AVBatch, Controls, Reading, future


@pytest.mark.parametrize("history", [HistoryConfig(real_share=1.0), HistoryConfig(source="real")])
def test_the_jump_to_zero_equals_the_loop_and_carries_gradient(history: HistoryConfig) -> None:
    """It too continues from the rollout's own history."""
    batch, field = clip_batch(CHUNKS), Field(0)
    rollout = rollout_of(batch)
    state, times = exits_of(rollout)
    g = jump_to_zero(Models(field, Field(1)), batch, rollout, replace(CONFIG, history=history))
    for m, b, i, k in every_latent(g):
        t, y = shift(times[b, k].item(), m), state.get(m)[b, i]
        want = y - t * field.rule(y, rollout.history.get(m)[b, i], t, 0.0, text_of(batch.controls, b))
        assert_near(g.get(m)[b, i], want, rtol=2e-6, atol=1e-9)
    g.get("video").sum().backward()
    assert field.weight.grad is not None


def loop_direction(real: Field, fake: Field, g: AV, history: AV, batch: AVBatch, noise: PositionalNoise) -> AV:
    """d = (p_fake - p_real) / (mean|g - p_real| + eps), a scale for each clip and modality."""
    e, u = noise.normal_like(g, "dmd", "noise"), noise.uniform((CHUNKS,), "dmd", "time").tolist()
    p_real, p_fake = (g.detach().map(torch.zeros_like) for _ in range(2))
    for m, b, i, k in every_latent(g):
        s, past, text = shift(0.02 + 0.96 * u[b][k], m), history.get(m)[b, i], text_of(batch.controls, b)
        x = (1 - s) * g.get(m)[b, i].detach() + s * e.get(m)[b, i]
        with torch.no_grad():
            bare, conditional = real.rule(x, past, s, s, 0.0), real.rule(x, past, s, s, text)
            p_real.get(m)[b, i] = x - s * (bare + CONFIG.dmd.guidance * (conditional - bare))
            p_fake.get(m)[b, i] = x - s * fake.rule(x, past, s, s, text)
    made = {}
    for m, x in g.detach().items():
        rows = [
            (p_fake.get(m)[b] - p_real.get(m)[b]) / ((x[b] - p_real.get(m)[b]).abs().mean() + CONFIG.dmd.epsilon) for b in range(x.shape[0])
        ]
        made[m] = torch.stack(rows)
    return AV(**made)


@pytest.mark.parametrize("history", [HistoryConfig(real_share=0.0), HistoryConfig(real_share=1.0), HistoryConfig(source="real")])
def test_dmd_equals_the_loop_and_its_gradient_is_the_direction(history: HistoryConfig) -> None:
    """Scores see the rollout's own history whatever flow matching and ShortCut see: the state was made on it."""
    config = replace(CONFIG, history=history)
    batch, noise, real, fake = clip_batch(CHUNKS), clip_noise(), Field(1), Field(2)
    rollout = rollout_of(batch)
    g = future(latents(CHUNKS, seed=30)).map(lambda x: x.requires_grad_())
    d = loop_direction(real, fake, g, rollout.history, batch, noise)
    loss = dmd(Models(Field(0), real, fake), g, batch, rollout, noise, config)
    assert_loss(loss, {m: [0.5 * x.square().flatten()] for m, x in d.items()}, "dmd")
    loss.value.backward()
    for m, weight in (("video", CONFIG.video_weight), ("audio", CONFIG.audio_weight)):
        grad = g.get(m).grad
        assert grad is not None
        assert_near(grad, weight * d.get(m) / d.get(m).numel(), rtol=2e-6, atol=1e-9)
    assert no_grad_reached(real, fake)


def test_dmd_reaches_the_generator_alone_through_the_jump() -> None:
    """The chain of method 5.3 with the generator as its own teacher: its gradient is d . dg/dtheta and nothing else."""
    batch, noise, model, fake = clip_batch(CHUNKS), clip_noise(), Field(0), Field(2)
    rollout = rollout_of(batch)
    models = Models(model, model, fake)
    g = jump_to_zero(models, batch, rollout, CONFIG)
    d = loop_direction(deepcopy(model), fake, g, rollout.history, batch, noise)
    inner = CONFIG.video_weight * (g.get("video") * d.get("video")).mean() + CONFIG.audio_weight * (g.get("audio") * d.get("audio")).mean()
    want = torch.autograd.grad(inner, model.weight, retain_graph=True)[0]
    dmd(models, g, batch, rollout, noise, CONFIG).value.backward()
    assert model.weight.grad is not None
    assert_near(model.weight.grad, want, rtol=1e-5, atol=1e-8)
    assert no_grad_reached(fake)


def test_equal_scores_leave_nothing_to_learn() -> None:
    batch, field = clip_batch(CHUNKS), Field(1)
    g = future(latents(CHUNKS, seed=30))
    config = replace(CONFIG, dmd=replace(CONFIG.dmd, guidance=1.0))
    assert dmd(Models(Field(0), field, field), g, batch, rollout_of(batch), clip_noise(), config).value == 0


@pytest.mark.parametrize("update", [0, 3])
def test_the_fake_score_equals_the_loop(update: int) -> None:
    batch, noise, fake = clip_batch(CHUNKS), clip_noise(), Field(2)
    rollout = rollout_of(batch)
    g = future(latents(CHUNKS, seed=30)).map(lambda x: x.requires_grad_())
    e, raw = noise.normal_like(g, "fake", update), noise.uniform((CHUNKS,), f"fake-{update}", "time").tolist()
    squares: dict[str, list[Tensor]] = {"video": [], "audio": []}
    for m, b, i, k in every_latent(g):
        t, x, n = shift(raw[b][k], m), g.get(m)[b, i].detach(), e.get(m)[b, i]
        v = fake.rule((1 - t) * x + t * n, rollout.history.get(m)[b, i], t, t, text_of(batch.controls, b))
        squares[m].append((v - (n - x)).square())
    loss = fake_score(Models(Field(0), Field(1), fake), g, batch, rollout, noise, CONFIG, update)
    assert_loss(loss, squares, "fake")
    loss.value.backward()
    assert fake.weight.grad is not None
    assert all(x.grad is None for _, x in g.items())


def test_each_fake_update_draws_afresh() -> None:
    batch, models, g = clip_batch(CHUNKS), Models(Field(0), Field(1), Field(2)), future(latents(CHUNKS, seed=30))
    rollout = rollout_of(batch)
    values = [fake_score(models, g, batch, rollout, clip_noise(), CONFIG, update).value.item() for update in (0, 1, 0)]
    assert values[0] == values[2]
    assert values[0] != values[1]


def test_what_dmd_needs_is_named() -> None:
    """Exit states, and a fake-score model."""
    batch, g = clip_batch(CHUNKS), future(latents(CHUNKS, seed=30))
    rollout, models = rollout_of(batch), Models(Field(0), Field(1))
    with pytest.raises(ValueError, match=r"no exit states; .*objective\.dmd\.weight"):
        jump_to_zero(models, batch, replace(rollout, exit_state=None, exit_time_BK=None), CONFIG)
    for use in (
        lambda: dmd(models, g, batch, rollout, clip_noise(), CONFIG),
        lambda: fake_score(models, g, batch, rollout, clip_noise(), CONFIG, 0),
    ):
        with pytest.raises(ValueError, match=r"models\.fake"):
            use()


class Teacher(nn.Module):
    """A teacher that counts how often it reads a past."""

    def __init__(self) -> None:
        super().__init__()
        self.field, self.readings = Field(1), 0

    def forward(self, *inputs: Any) -> AV:
        return self.field(*inputs)

    def read(self, context: AV, controls: Controls, layout: Layout) -> Reading:
        self.readings += 1
        return lambda x, t, r: self.field(x, context, t, r, controls, layout).detach()


@pytest.mark.parametrize(("real_share", "readings"), [(0.0, 1), (0.5, 2)])
def test_shortcut_and_dmd_share_one_reading_of_the_same_past(real_share: float, readings: int) -> None:
    """Three guided sub-steps and p_real after one past; with true histories mixed in, ShortCut's past is another."""
    config = replace(CONFIG, history=HistoryConfig(real_share=real_share), shortcut=replace(CONFIG.shortcut, guidance=CONFIG.dmd.guidance))
    batch, noise, teacher = clip_batch(CHUNKS), clip_noise(), Teacher()
    rollout, g = rollout_of(batch), future(latents(CHUNKS, seed=30))
    shared, plain = Models(Field(0), teacher, Field(2)), Models(Field(0), teacher.field, Field(2))
    losses = [(shortcut(m, batch, rollout, noise, config), dmd(m, g, batch, rollout, noise, config)) for m in (shared, plain)]
    assert teacher.readings == readings
    for a, b in zip(*losses, strict=True):
        assert_near(a.value, b.value, rtol=0.0, atol=0.0)
