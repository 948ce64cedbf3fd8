"""Each objective against a slow reference: loops over clips and latents, written from the equations of the method alone."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from loss_material import CHUNKS, CONFIG, Field, assert_loss, every_latent, no_grad_reached, past_of, rollout_of, shift, text_of
from model_material import CLOCK, assert_near, clip_batch, clip_noise, latents, network, rows_of
from torch import Tensor, nn

from mutual_forcing.model.losses import (
    Loss,
    Models,
    choose_history,
    dmd,
    fake_score,
    flow_matching,
    guided_reading,
    jump_to_zero,
    noisy_context,
    shortcut,
)
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import FewConfig, FewSampler, ObjectiveConfig
from mutual_forcing.model.path import PathConfig
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.types import AV, MODALITIES, AVBatch, Controls, Rollout, future

# --- flow matching --------------------------------------------------------------------------------------------------------


def expected_drop(batch: AVBatch, noise: PositionalNoise) -> Controls:
    """Cut [0, 1) into: all text, caption alone, transcript alone, nothing."""
    hidden = {"caption": [], "transcript": []}
    for u in noise.uniform((), "drop").tolist():
        hidden["caption"].append(u < CONFIG.drop.all + CONFIG.drop.caption)
        hidden["transcript"].append(u < CONFIG.drop.all or 0 <= u - CONFIG.drop.all - CONFIG.drop.caption < CONFIG.drop.transcript)
    return batch.controls.drop(torch.tensor(hidden["caption"]), torch.tensor(hidden["transcript"]))


@pytest.mark.parametrize("stage", ["a", "b", "c"])
@pytest.mark.parametrize("law", ["uniform", "logit_normal"])
def test_flow_matching_equals_the_loop(law: str, stage: str) -> None:
    batch, noise, field = clip_batch(CHUNKS), clip_noise(stage=stage), Field(0)
    config = replace(CONFIG, time_sampling=law)
    rollout = rollout_of(batch)
    history = past_of(batch, rollout, noise)
    clean = future(batch.latents)
    e = noise.normal_like(clean, "fm", "noise")
    u = noise.uniform((CHUNKS,), "fm", "time")
    raw = (u if law == "uniform" else torch.distributions.Normal(0, 1).icdf(u).sigmoid()).tolist()
    controls = expected_drop(batch, noise)
    squares: dict[str, list[Tensor]] = {"video": [], "audio": []}
    for m, b, i, k in every_latent(clean):
        t = shift(raw[b][k], m)
        x, n = clean.get(m)[b, i], e.get(m)[b, i]
        v = field.rule((1 - t) * x + t * n, history.get(m)[b, i], t, t, text_of(controls, b))
        squares[m].append((v - (n - x)).square())
    loss = flow_matching(Models(field, field), batch, rollout, noise, config)
    assert_loss(loss, squares, "fm")
    loss.value.backward()
    assert field.weight.grad is not None
    want = torch.autograd.grad(1.3 * torch.stack(squares["video"]).mean() + 0.6 * torch.stack(squares["audio"]).mean(), field.weight)[0]
    assert_near(field.weight.grad, want, rtol=1e-5, atol=1e-7)


def test_flow_matching_of_the_true_velocity_is_zero() -> None:
    """The target is the real clip's velocity whatever the history holds."""
    batch, noise = clip_batch(CHUNKS), clip_noise()
    clean = future(batch.latents)
    truth = noise.normal_like(clean, "fm", "noise").map(lambda n, x: n - x, clean)

    def perfect(noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        return truth

    for rollout in (None, rollout_of(batch)):
        assert flow_matching(Models(perfect, perfect), batch, rollout, noise, CONFIG).value == 0


def test_text_is_dropped_in_the_configured_shares() -> None:
    count, audio = 3000, torch.zeros(1, CLOCK.audio_latents(1), 1)
    one = clip_batch(1).controls
    controls = rows_of(one, [0] * count)
    batch = AVBatch(AV(audio=audio.expand(count, -1, -1)), controls, Layout(CLOCK, 1), (), ())
    seen: list[Controls] = []

    def record(noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        seen.append(controls)
        return noisy

    flow_matching(Models(record, record), batch, None, clip_noise(count), CONFIG)
    caption, words = seen[0].caption_mask_BW.any(1), seen[0].words_mask_BW.any(1)
    shares = [(~caption & ~words), (~caption & words), (caption & ~words), (caption & words)]
    for share, want in zip(shares, (0.4, 0.2, 0.2, 0.2), strict=True):
        assert share.float().mean().item() == pytest.approx(want, abs=4 * (want * (1 - want) / count) ** 0.5)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_each_clip_keeps_its_past_or_takes_its_rollout_whole(share: float) -> None:
    count = 400
    real = AV(video=torch.zeros(count, 4, 1, 1, 1), audio=torch.zeros(count, 3, 1))
    batch = AVBatch(real, clip_batch(1).controls, Layout(CLOCK, 1), (), ())
    made = Rollout(real.map(torch.ones_like), None, None)
    config = replace(CONFIG, history=replace(CONFIG.history, real_share=share))
    history = choose_history(batch, made, clip_noise(count), config)
    video, audio = history.get("video").flatten(1), history.get("audio").flatten(1)
    assert torch.equal(video[:, 0], audio[:, 0]), "both modalities of a clip share one past"
    assert bool((video == video[:, :1]).all())
    assert 1 - video[:, 0].mean().item() == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


@pytest.mark.parametrize("changes", [{"source": "real"}, {"real_share": 1.0}])
def test_flow_matching_and_shortcut_see_the_true_past_where_it_is_asked_for(changes: dict) -> None:
    """A rollout that is there for DMD does not reach them; the loops above hold for their histories."""
    batch, noise, models = clip_batch(CHUNKS), clip_noise(), Models(Field(0), Field(1))
    config = replace(CONFIG, history=replace(CONFIG.history, **changes))
    for loss in (flow_matching, shortcut):
        true = loss(models, batch, None, noise, config).value
        assert torch.equal(loss(models, batch, rollout_of(batch), noise, config).value, true)
        assert not torch.equal(loss(models, batch, rollout_of(batch), noise, CONFIG).value, true)


# --- ShortCut -------------------------------------------------------------------------------------------------------------


def expected_intervals(noise: PositionalNoise, config: ObjectiveConfig) -> list[list[tuple[float, float]]]:
    n = config.few.moves
    starts, jumps = noise.uniform((CHUNKS,), "sc", "interval").tolist(), noise.uniform((CHUNKS,), "sc", "jump").tolist()
    to_zero = 1.0 if config.few.sampler == "renoise" else config.shortcut.to_zero_share

    def interval(u: float, j: float) -> tuple[float, float]:
        move = int(u * n)
        return 1 - move / n, 0.0 if j < to_zero else 1 - (move + 1) / n

    return [[interval(u, j) for u, j in zip(us, js, strict=True)] for us, js in zip(starts, jumps, strict=True)]


def loop_target(teacher: Field, x: Tensor, past: Tensor, raw: tuple[float, float], m: str, text: float, config: ObjectiveConfig) -> Tensor:
    """Average velocity of guided Euler steps, uniform in raw time."""
    start, steps = x, config.shortcut.sub_steps
    for j in range(steps):
        at, to = (shift(raw[0] + (raw[1] - raw[0]) * n / steps, m) for n in (j, j + 1))
        conditional, bare = teacher.rule(x, past, at, at, text), teacher.rule(x, past, at, at, 0.0)
        x = x - (at - to) * (bare + config.shortcut.guidance * (conditional - bare))
    return (start - x) / (shift(raw[0], m) - shift(raw[1], m))


@pytest.mark.parametrize("sampler", ["ode", "renoise"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_shortcut_equals_the_loop(sampler: FewSampler, guidance: float) -> None:
    config = replace(CONFIG, few=FewConfig(sampler=sampler), shortcut=replace(CONFIG.shortcut, guidance=guidance))
    batch, noise, field, teacher = clip_batch(CHUNKS), clip_noise(), Field(0), Field(1)
    rollout, clean = rollout_of(batch), future(batch.latents)
    history = past_of(batch, rollout, noise)
    e, intervals = noise.normal_like(clean, "sc", "noise"), expected_intervals(noise, config)
    squares: dict[str, list[Tensor]] = {"video": [], "audio": []}
    for m, b, i, k in every_latent(clean):
        (t, r), past, text = intervals[b][k], history.get(m)[b, i], text_of(batch.controls, b)
        x_t = (1 - shift(t, m)) * clean.get(m)[b, i] + shift(t, m) * e.get(m)[b, i]
        target = loop_target(teacher, x_t, past, (t, r), m, text, config)
        squares[m].append((field.rule(x_t, past, shift(t, m), shift(r, m), text) - target).square())
    loss = shortcut(Models(field, teacher), batch, rollout, noise, config)
    assert_loss(loss, squares, "sc")
    loss.value.backward()
    assert field.weight.grad is not None
    assert no_grad_reached(teacher)


def test_the_shortcut_target_is_stopped_even_for_a_model_that_teaches_itself() -> None:
    batch = clip_batch(CHUNKS)
    alone, copy = Field(0), Field(0)
    for field, teacher in ((alone, alone), (copy, deepcopy(copy))):
        shortcut(Models(field, teacher), batch, rollout_of(batch), clip_noise(), CONFIG).value.backward()
    assert alone.weight.grad is not None
    assert copy.weight.grad is not None
    assert torch.equal(alone.weight.grad, copy.weight.grad)


@pytest.mark.parametrize("fine_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sampler", ["ode", "renoise"])
def test_shortcut_intervals_are_moves_of_the_sampler_or_jumps_to_zero(sampler: FewSampler, fine_share: float) -> None:
    """No interval is shorter than the smallest move of the two grids; with renoise every move is a jump to 0."""
    count = 600
    one = clip_batch(1, batch=1)
    tensors = (
        one.controls.caption_BWL,
        one.controls.caption_mask_BW,
        one.controls.words_BWL,
        one.controls.words_mask_BW,
        one.controls.words_time_BW2,
    )
    controls = Controls(*(x.expand(count, *x.shape[1:]) for x in tensors))
    batch = AVBatch(AV(audio=one.latents.get("audio").expand(count, -1, -1)), controls, one.layout, (), ())
    seen: list[tuple[float, float]] = []

    def record(noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        seen.extend(zip(t.get("audio").flatten().tolist(), r.get("audio").flatten().tolist(), strict=True))
        return noisy

    def still(noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        return noisy.map(torch.zeros_like)

    config = replace(CONFIG, path=PathConfig(), few=FewConfig(4, sampler), shortcut=replace(CONFIG.shortcut, fine_share=fine_share))
    shortcut(Models(record, still), batch, None, clip_noise(count), config)
    grids = {0.0: [4], 0.5: [4, 8], 1.0: [8]}[fine_share]
    jumps = {(1 - i / n, 0.0) for n in grids for i in range(n)}
    moves = {(1 - i / n, 1 - (i + 1) / n) for n in grids for i in range(n)}
    assert set(seen) == (jumps if sampler == "renoise" else jumps | moves)


# --- all of them ----------------------------------------------------------------------------------------------------------


def objectives(model: nn.Module, teacher: nn.Module, fake: nn.Module) -> dict[str, Callable[[AVBatch, PositionalNoise], Loss]]:
    models = Models(model, teacher, fake)

    def distilled(batch: AVBatch, noise: PositionalNoise) -> Loss:
        rollout = rollout_of(batch)
        return dmd(models, jump_to_zero(models, batch, rollout, CONFIG), batch, rollout, noise, CONFIG)

    def scored(batch: AVBatch, noise: PositionalNoise) -> Loss:
        learner, rollout = Models(teacher, teacher, model), Rollout(batch.latents, None, None)
        return fake_score(learner, future(batch.latents), batch, rollout, noise, CONFIG, 0)

    return {
        "fm": lambda batch, noise: flow_matching(models, batch, None, noise, CONFIG),
        "sc": lambda batch, noise: shortcut(models, batch, None, noise, CONFIG),
        "dmd": distilled,
        "fake": scored,
    }


@pytest.mark.parametrize("name", ["fm", "sc", "dmd", "fake"])
def test_the_real_network_learns_and_its_teachers_do_not(name: str) -> None:
    model, teacher, fake = network(seed=0), network(seed=1), network(seed=2)
    loss = objectives(model, teacher, fake)[name](clip_batch(CHUNKS), clip_noise())
    loss.value.backward()
    assert no_grad_reached(teacher, fake)
    for modality in MODALITIES:
        grads = [p.grad for p in model.branch_parameters((modality,))]
        assert any(g is not None and g.abs().max() > 0 for g in grads)
        assert all(g is None or bool(g.isfinite().all()) for g in grads)


@pytest.mark.parametrize("name", ["fm", "sc", "fake"])
def test_a_batch_is_the_mean_of_its_clips(name: str) -> None:
    """Clips do not mix: data-parallel ranks may share a batch in any way."""
    batch, objective = clip_batch(CHUNKS), objectives(network(seed=0), network(seed=1), network(seed=2))[name]
    whole = objective(batch, clip_noise()).value
    alone = []
    for b in (0, 1):
        clip = replace(batch, latents=batch.latents.map(lambda x, b=b: x[b : b + 1]), controls=rows_of(batch.controls, [b]))
        alone.append(objective(clip, PositionalNoise([(7, "test", b)])).value)
    assert_near(whole, torch.stack(alone).mean(), rtol=1e-9, atol=1e-9)


def test_guidance_shares_one_forward_and_equals_two() -> None:
    net, batch = network(), clip_batch(CHUNKS)
    x, t = future(latents(CHUNKS, seed=4)), AV(*(torch.full((2, CHUNKS), 0.4),) * 2)
    with torch.no_grad():
        conditional = net(x, batch.latents, t, t, batch.controls, batch.layout)
        bare = net(x, batch.latents, t, t, batch.controls.unconditional(), batch.layout)
    made = guided_reading(net, batch.latents, batch.controls, batch.layout, 5.0)(x, t)
    for m, v in made.items():
        assert_near(v, bare.get(m) + 5.0 * (conditional.get(m) - bare.get(m)), rtol=0.0, atol=1e-9)


def test_context_noise_spares_the_first_frame_and_stays_below_its_level() -> None:
    """Noise reaches every predicted latent of the history, never the first frame, and no clip gets more than the level."""
    history = AV(torch.zeros(16, 7, 2, 2, 2, dtype=torch.float64), torch.zeros(16, 300, 8, dtype=torch.float64))
    noise = PositionalNoise([(0, b) for b in range(16)])
    noised = noisy_context(history, noise, 0.5)
    assert noised.get("video")[:, 0].abs().max() == 0
    assert noised.get("video")[:, 1:].abs().min() > 0
    level_B = noised.get("audio").std(dim=(1, 2))
    assert level_B.max() < 0.55
    assert level_B.max() > 2 * level_B.min(), "each clip draws its own level"
    assert noisy_context(history, noise, 0.0) is history
