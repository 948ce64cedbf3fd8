"""Clips of different lengths in one batch: padding changes no result, and every clip counts the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loss_material import CONFIG
from model_material import CLOCK, assert_near, clip_batch, controls, latents, network, rows_of, times
from torch import Tensor

from mutual_forcing.model.health import history_health
from mutual_forcing.model.losses import Loss, Models, dmd, fake_score, flow_matching, jump_to_zero, shortcut
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import ObjectiveConfig
from mutual_forcing.model.sampler import SamplerConfig, generate
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import AV, AVBatch, Rollout, future

LONG = 4
LENGTHS = (2, 4)
GARBAGE = 50.0


class LongNoise(PositionalNoise):
    """Draws for long clips, cut to what is asked: a clip's noise does not depend on the length that it is padded to."""

    def normal(self, shape, *tag):
        return super().normal((64, *shape[1:]), *tag)[:, : shape[0]]

    def uniform(self, shape, *tag):
        return super().uniform((64,), *tag)[:, : shape[0]] if shape else super().uniform(shape, *tag)


def cut(x: AV, clip: int, chunks: int) -> AV:
    """One clip without its padding; `x` begins with the first frame."""
    return AV(
        x.get("video")[clip : clip + 1, : CLOCK.video_latents(chunks)], x.get("audio")[clip : clip + 1, : CLOCK.audio_latents(chunks)]
    )


def predicted(x: AV, clip: int, chunks: int) -> AV:
    """The same of predicted latents, which have no first frame."""
    video = x.get("video")[clip : clip + 1, : CLOCK.video_latents(chunks) - 1]
    return AV(video, x.get("audio")[clip : clip + 1, : CLOCK.audio_latents(chunks)])


def padded(x: AV) -> AV:
    """The clips of LENGTHS with garbage behind the shorter one."""
    video, audio = x.get("video").clone(), x.get("audio").clone()
    for clip, chunks in enumerate(LENGTHS):
        video[clip, video.shape[1] - (LONG - chunks) * CLOCK.chunk_video :] = GARBAGE
        audio[clip, CLOCK.audio_latents(chunks) :] = -GARBAGE
    return AV(video, audio)


def batch_of_both() -> AVBatch:
    return replace(clip_batch(LONG), latents=padded(latents(LONG)), chunks_B=LENGTHS)


def alone(clip: int) -> AVBatch:
    chunks = LENGTHS[clip]
    return AVBatch(cut(latents(LONG), clip, chunks), rows_of(controls(), [clip]), Layout(CLOCK, chunks), (clip,), (f"clip-{clip}",))


def test_padding_changes_no_velocity() -> None:
    net, both = network(), batch_of_both()
    noisy = padded(future(latents(LONG, seed=2)))
    t, r = times(LONG, noisy)
    with torch.no_grad():
        whole = net(noisy, both.latents, t, r, both.controls, both.layout)
        read = net.read(both.latents, both.controls, both.layout)(noisy, t, r)
        for clip, chunks in enumerate(LENGTHS):
            one = alone(clip)
            own_t, own_r = (x.map(lambda y, clip=clip, chunks=chunks: y[clip : clip + 1, :chunks]) for x in (t, r))
            want = net(predicted(noisy, clip, chunks), one.latents, own_t, own_r, one.controls, one.layout)
            for made in (whole, read):
                assert_near(predicted(made, clip, chunks), want, atol=1e-9)


def test_a_shorter_clip_is_a_longer_one_cut() -> None:
    """Generation asks for one length: its first chunks are those of a shorter clip."""
    net, noise = network(), LongNoise([(7, "sample", 0), (7, "sample", 1)])
    first = latents(LONG).get("video")[:, :1]
    sampler = SamplerConfig("few", 2)
    long, short = (list(generate(net, controls(), first, (2, 5), n, sampler, noise)) for n in (LONG, 2))
    for a, b in zip(long, short, strict=False):
        assert_near(a, b, atol=1e-9)


def rollout_of(x: AV, state: AV, chunks: int) -> Rollout:
    return Rollout(x, state, torch.tensor([[1.0, 0.5, 0.25, 1.0][:chunks]] * x.batch))


def losses(models: Models, batch: AVBatch, rollout: Rollout, noise: PositionalNoise, config: ObjectiveConfig) -> dict[str, Loss]:
    g = jump_to_zero(models, batch, rollout, config)
    found = {
        "fm": flow_matching(models, batch, rollout, noise, config),
        "sc": shortcut(models, batch, rollout, noise, config),
        "dmd": dmd(models, g, batch, rollout, noise, config),
        "fake": fake_score(models, g, batch, rollout, noise, config, 0),
    }
    models.forget()
    return found


def gradients(loss: Tensor, net: AVTransformer) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(net.parameters(), found, strict=True)]


def test_losses_and_gradients_are_the_mean_over_clips_however_they_are_padded() -> None:
    live, teacher, fake = (network(seed=s) for s in range(3))
    models, both = Models(live, teacher, fake), batch_of_both()
    made, state = latents(LONG, seed=21), future(latents(LONG, seed=22))
    found = losses(models, both, rollout_of(padded(made), padded(state), LONG), LongNoise([(7, "x", 0), (7, "x", 1)]), CONFIG)
    single = []
    for clip, chunks in enumerate(LENGTHS):
        own = rollout_of(cut(made, clip, chunks), predicted(state, clip, chunks), chunks)
        single.append(losses(models, alone(clip), own, LongNoise([(7, "x", clip)]), CONFIG))
    for name, loss in found.items():
        assert_near(loss.value, torch.stack([x[name].value for x in single]).mean(), atol=1e-9)
        trained = fake if name == "fake" else live
        want = [torch.stack(pair).mean(0) for pair in zip(*(gradients(x[name].value, trained) for x in single), strict=True)]
        assert any(bool(g.abs().max() > 1e-6) for g in want)
        for g, w in zip(gradients(loss.value, trained), want, strict=True):
            assert_near(g, w, atol=1e-9)


def test_health_does_not_count_padding() -> None:
    both = batch_of_both()
    made = padded(latents(LONG, seed=21))
    signals = history_health(made, both)
    assert abs(float(signals["saturation_video"])) < 0.01
    assert 0.5 < float(signals["loudness"]) < 2
    squares = [[x.get("audio").square().mean() for x in (cut(made, c, n), cut(both.latents, c, n))] for c, n in enumerate(LENGTHS)]
    over, under = (torch.stack(x).mean().sqrt() for x in zip(*squares, strict=True))
    assert_near(signals["loudness"], over / under, rtol=1e-6)


@pytest.mark.parametrize("chunks_B", [(2,), (0, 4), (2, 5), (2, 4, 4)])
def test_impossible_lengths_are_refused(chunks_B: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"batch\.chunks_B"):
        replace(clip_batch(LONG), chunks_B=chunks_B)
