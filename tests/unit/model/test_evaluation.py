"""Figures of merit of latents against closed forms: Gaussians of known covariance, sequences of known seams, velocities of known use."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from loss_material import chunk_of
from model_material import CLOCK, assert_near, clip_batch, clip_noise, controls, latents, network, rows_of
from scipy.linalg import sqrtm
from torch import Tensor

from mutual_forcing.model.evaluation import chunk_features, frechet, history_use, joined, principal, seams
from mutual_forcing.model.objective import ObjectiveConfig
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.types import AV, MODALITIES, Controls, future

CHUNKS = 3


def samples(mean: list[float], covariance: list[list[float]], count: int = 64, seed: int = 0) -> Tensor:
    """Samples [N, D] whose mean and covariance are exactly these, up to rounding."""
    x = torch.randn(count, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    white = x @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    return white @ torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64)).T + torch.tensor(mean, dtype=torch.float64)


# --- Fréchet distance -----------------------------------------------------------------------------------------------------


def test_frechet_of_aligned_gaussians_is_the_difference_of_deviations() -> None:
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    a = samples([1.0, -2.0, 0.5], [[4.0, 0, 0], [0, 1.0, 0], [0, 0, 0.25]])
    b = samples([0.0, 1.0, 0.5], [[1.0, 0, 0], [0, 9.0, 0], [0, 0, 0.25]], count=90, seed=1)
    assert frechet(a, b) == pytest.approx(1 + 9 + (2 - 1) ** 2 + (1 - 3) ** 2, rel=1e-9)


def test_frechet_of_turned_gaussians_equals_the_closed_form_in_two_dimensions() -> None:
    """Covariances that do not commute: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for M = S1 S2 of size 2."""
    s1, s2 = [[2.0, 1.2], [1.2, 1.0]], [[1.0, -0.4], [-0.4, 3.0]]
    product = torch.tensor(s1, dtype=torch.float64) @ torch.tensor(s2, dtype=torch.float64)
    root = math.sqrt(float(product.trace()) + 2 * math.sqrt(float(torch.linalg.det(product))))
    a, b = samples([0.0, 0.0], s1), samples([0.3, -0.4], s2, seed=1)
    assert frechet(a, b) == pytest.approx(0.25 + 3 + 4 - 2 * root, rel=1e-9)
    assert frechet(b, a) == pytest.approx(frechet(a, b), rel=1e-9)


def test_frechet_in_many_dimensions_equals_the_matrix_root() -> None:
    g = torch.Generator().manual_seed(3)
    mix = [torch.randn(12, 12, generator=g, dtype=torch.float64) for _ in range(2)]
    a, b = (torch.randn(80, 12, generator=g, dtype=torch.float64) @ m for m in mix)
    root = np.asarray(sqrtm((torch.cov(a.T) @ torch.cov(b.T)).numpy()))
    want = (a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * np.trace(root).real
    assert frechet(a, b) == pytest.approx(float(want), rel=1e-8)


@pytest.mark.parametrize("count", [6, 64])
def test_frechet_of_equal_sets_is_0(count: int) -> None:
    """Also where there are fewer samples than dimensions, and in another order."""
    a = torch.randn(count, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet(a, a.flip(0)) == pytest.approx(0, abs=1e-6)
    assert frechet(a, a + 0.5) == pytest.approx(8 * 0.25, abs=1e-6)


def test_principal_components_keep_distances_and_order() -> None:
    """All of them only turn the space; the first ones hold the widest directions of the real features."""
    real = samples([1.0, 2.0, 3.0, 4.0], [[9.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 0.1]])
    made = samples([1.5, 2.0, 2.0, 4.0], [[4.0, 1, 0, 0], [1, 4.0, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 0.3]], seed=1)
    every = principal(real)
    assert frechet(every(real), every(made)) == pytest.approx(frechet(real, made), rel=1e-8)
    two = principal(real, components=2)
    assert two(made).shape == (64, 2)
    assert_near(torch.cov(two(real).T), torch.diag(torch.tensor([9.0, 4.0])), atol=1e-9)
    assert frechet(two(real), two(made)) == pytest.approx(frechet(real[:, :2], made[:, :2]), rel=1e-8)


# --- features -------------------------------------------------------------------------------------------------------------


def test_features_hold_one_vector_a_chunk_though_chunks_hold_unequal_audio() -> None:
    """The first frame is left out, and of each chunk's audio as much as the shortest chunk has, from its start."""
    chunks = 6
    clips, layout = latents(chunks), Layout(CLOCK, chunks)
    counts = [CLOCK.audio_latents(k + 1) - CLOCK.audio_latents(k) for k in range(chunks)]
    assert len(set(counts)) > 1, "chunks are unequal on this clock"
    made = chunk_features(clips, layout)
    video, audio = future(clips).get("video"), clips.get("audio")
    for b in range(2):
        for k in range(chunks):
            mine = [video[b, i] for i in range(video.shape[1]) if chunk_of("video", i, chunks) == k]
            heard = [audio[b, i] for i in range(audio.shape[1]) if chunk_of("audio", i, chunks) == k][: min(counts)]
            assert torch.equal(made.get("video")[b, k], torch.stack(mine).flatten())
            assert torch.equal(made.get("audio")[b, k], torch.stack(heard).flatten())
    assert torch.equal(joined(made), torch.cat([made.get("video"), made.get("audio")], dim=-1))


@pytest.mark.parametrize("m", MODALITIES)
def test_features_of_one_modality_stand_alone(m: str) -> None:
    clips, layout = latents(CHUNKS, dtype=torch.float32), Layout(CLOCK, CHUNKS)
    made = chunk_features(clips.only((m,)), layout)
    assert [name for name, _ in made.items()] == [m]
    assert made.get(m).dtype == torch.float64
    assert torch.equal(joined(made), chunk_features(clips, layout).get(m))


# --- seams ----------------------------------------------------------------------------------------------------------------


def sequence(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[None, :, None]


def test_the_jump_is_the_square_step_over_borders_by_that_inside() -> None:
    """Steps of 1 inside, of 3 over the borders: 9. A level of the whole clip does not matter."""
    chunks = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    x = sequence([0, 1, 2, 5, 6, 7, 10, 11, 12])
    assert seams(x, chunks).jump == pytest.approx(9.0)
    assert seams(x + 100, chunks).jump == pytest.approx(9.0)
    assert seams(sequence([0, 1, 2, 3, 4, 5, 6, 7, 8]), chunks).jump == pytest.approx(1.0)


def test_a_border_that_repeats_has_correlation_1_and_no_jump_and_one_that_flips_has_minus_1() -> None:
    chunks = torch.tensor([0, 0, 1, 1, 2, 2])
    repeats, flips = seams(sequence([2, 1, 1, -3, -3, 2]), chunks), seams(sequence([2, 1, -1, -3, 3, -2]), chunks)
    assert repeats.correlation == pytest.approx(1.0)
    assert repeats.jump == 0.0
    assert flips.correlation == pytest.approx(-1.0)
    inside = (1 + 4 + 25) / 3
    assert flips.jump == pytest.approx(((1 + 1) ** 2 + (3 + 3) ** 2) / 2 / inside)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_chunks_that_continue_with_a_known_correlation_show_it(rho: float) -> None:
    """Inside a chunk neighbours correlate by 0.9, over a border by `rho`; a step's mean square is 2 (1 - correlation)."""
    g, count, per_chunk, dims = torch.Generator().manual_seed(6), 40, 4, 3
    chunks = torch.arange(count) // per_chunk
    x = [torch.randn(200, dims, generator=g, dtype=torch.float64)]
    for i in range(1, count):
        r = rho if i % per_chunk == 0 else 0.9
        x.append(r * x[-1] + (1 - r * r) ** 0.5 * torch.randn(200, dims, generator=g, dtype=torch.float64))
    made = seams(torch.stack(x, dim=1), chunks)
    assert made.correlation == pytest.approx(rho, abs=0.15), "the clip's own mean takes a little"
    assert made.jump == pytest.approx((1 - rho) / (1 - 0.9), rel=0.1)


def test_chunks_of_one_latent_have_no_inside_to_compare_with() -> None:
    assert seams(sequence([0, 3, 1, 5]), torch.arange(4)).jump == 1.0


# --- use of history -------------------------------------------------------------------------------------------------------


def test_a_velocity_that_ignores_its_past_uses_none() -> None:
    """Reading the first frame is no use of history: it is a control, and stays the clip's own."""

    def blind(noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        return noisy.map(lambda x: 0.3 * x + context.get("video")[:, 0].mean())

    assert history_use(blind, clip_batch(CHUNKS), clip_noise(), ObjectiveConfig()) == {"video": 0.0, "audio": 0.0}


def test_a_velocity_that_needs_its_past_loses_what_another_past_costs() -> None:
    """It reads the clean clip off its history, so it is perfect on its own, and errs by the distance of the clips over t on another."""
    batch, noise = replace(clip_batch(CHUNKS), latents=latents(CHUNKS, batch=3), controls=rows_of(controls(), [0, 1, 0])), clip_noise(3)

    def reader(noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        def read(m: str) -> Tensor:
            x, past = noisy.get(m), future(context).get(m)
            at = [t.get(m)[:, chunk_of(m, i, CHUNKS)] for i in range(x.shape[1])]
            return (x - past) / torch.stack(at, dim=1).view(*x.shape[:2], *[1] * (x.dim() - 2))

        return AV(**{m: read(m) for m in MODALITIES})

    made, clean = history_use(reader, batch, noise, ObjectiveConfig()), future(batch.latents)
    raw = noise.uniform((CHUNKS,), "fm", "time").tolist()
    assert set(made) == set(MODALITIES)
    for m, x in clean.items():
        errors = [
            ((x[b, i] - x[(b - 1) % 3, i]) / raw[b][chunk_of(m, i, CHUNKS)]).square().mean() for b in range(3) for i in range(x.shape[1])
        ]
        assert made[m] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-5)
        assert made[m] > 0


def test_one_clip_alone_has_no_other_to_take_a_past_from() -> None:
    """Its own past in both passes would tell of every model that it uses none."""
    with pytest.raises(ValueError, match="history_use: needs at least 2 clips, the batch has 1"):
        history_use(network(), clip_batch(CHUNKS, batch=1), clip_noise(1), ObjectiveConfig())


def test_only_the_past_is_exchanged() -> None:
    """Controls without dropping, times and noisy latents are the clip's own in both passes."""
    seen: list[tuple[AV, AV, AV, Controls]] = []
    batch = clip_batch(CHUNKS)

    def record(noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        seen.append((noisy, context, t, controls))
        return noisy

    noise = clip_noise(stage="f")
    assert noise.uniform((), "drop").min() < ObjectiveConfig().drop.all, "training would drop a clip's text here"
    history_use(record, batch, noise, ObjectiveConfig())
    (x1, other, t1, text1), (x2, own, t2, text2) = seen
    for m in MODALITIES:
        assert torch.equal(x1.get(m), x2.get(m))
        assert torch.equal(t1.get(m), t2.get(m))
        assert torch.equal(own.get(m), batch.latents.get(m))
        assert torch.equal(future(other).get(m), future(batch.latents).get(m).flip(0))
    assert torch.equal(other.get("video")[:, 0], batch.latents.get("video")[:, 0])
    for text in (text1, text2):
        assert torch.equal(text.caption_mask_BW, batch.controls.caption_mask_BW)
        assert torch.equal(text.words_mask_BW, batch.controls.words_mask_BW)
