"""The rectified-flow path: round trips, guidance identities, the time shift, and the preconditioning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_material import CLOCK, assert_near, latents
from torch import Tensor

from mutual_forcing.model.path import (
    PathConfig,
    clean_prediction,
    few_grid,
    guided,
    interpolate,
    move,
    per_latent,
    preconditioned,
    shifted,
    velocity,
)
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.types import AV, future

TIME = st.floats(0.0, 1.0)
SHIFT = st.floats(0.05, 20.0)


def constant(value: float, like: AV) -> AV:
    return like.map(lambda x: torch.full([1] * x.dim(), value, dtype=torch.float64))


def pair() -> tuple[AV, AV]:
    return latents(2, seed=1), latents(2, seed=2)


def assert_same(a: AV, b: AV, tolerance: float = 1e-12) -> None:
    assert_near(a, b, atol=tolerance)


@given(t=TIME, r=TIME)
def test_a_move_along_the_true_velocity_stays_on_the_path(t: float, r: float) -> None:
    x_0, e = pair()
    at, to = constant(t, x_0), constant(r, x_0)
    x_t, v = interpolate(x_0, e, at), velocity(x_0, e)
    assert_same(move(x_t, v, at, to), interpolate(x_0, e, to))
    assert_same(clean_prediction(x_t, v, at), x_0)
    assert_same(clean_prediction(x_t, v, at), move(x_t, v, at, constant(0.0, x_0)))
    assert_same(move(move(x_t, v, at, to), v, to, at), x_t)


def test_the_path_ends_at_data_and_noise() -> None:
    x_0, e = pair()
    assert_same(interpolate(x_0, e, constant(0.0, x_0)), x_0, 0.0)
    assert_same(interpolate(x_0, e, constant(1.0, x_0)), e, 0.0)


@given(scale=st.floats(0.0, 10.0), other=st.floats(0.0, 10.0))
def test_guidance_is_linear_from_unconditional_through_conditional(scale: float, other: float) -> None:
    cond, uncond = pair()
    assert_same(guided(cond, uncond, 0.0), uncond)
    assert_same(guided(cond, uncond, 1.0), cond)
    assert_same(guided(cond, cond, scale), cond)
    middle = guided(cond, uncond, scale).map(lambda a, b: (a + b) / 2, guided(cond, uncond, other))
    assert_same(middle, guided(cond, uncond, (scale + other) / 2), 1e-10)
    # At scale 5 the text's effect counts five times.
    assert_same(guided(cond, uncond, 5.0), uncond.map(lambda u, c: u + 5 * (c - u), cond))


@given(raw=st.lists(TIME, min_size=2, max_size=20, unique=True), video=SHIFT, audio=SHIFT)
def test_the_shift_is_monotone_and_keeps_the_ends(raw: list[float], video: float, audio: float) -> None:
    like, config = latents(1), PathConfig(video, audio)
    tau = torch.tensor([[0.0, *sorted(raw), 1.0]], dtype=torch.float64)
    t = shifted(tau, config, like)
    for (_, x), s in zip(t.items(), (video, audio), strict=True):
        assert x[0, 0] == 0.0
        assert x[0, -1] == 1.0
        assert bool((x.diff() >= 0).all())
        inner = tau.diff() > 1e-9
        assert bool((x.diff()[inner] > 0).all())
        away = (x - tau) * (1 if s > 1 else -1)
        assert bool((away >= -1e-12).all()), "above 1 the shift moves times towards the noise, below 1 away from it"
    back = shifted(t.get("video"), PathConfig(1 / video, 1.0), like)
    assert_near(back.get("video"), tau, atol=1e-9)


@given(s=SHIFT)
def test_shifted_ends_are_exact_in_fp32(s: float) -> None:
    """At t = 1 nothing of the clean latent may remain: history.strength 1 is pure noise."""
    ends = shifted(torch.tensor([[0.0, 1.0]]), PathConfig(s, s), latents(1)).get("audio")
    assert ends.tolist() == [[0.0, 1.0]]


def test_no_shift_leaves_time_as_it_is() -> None:
    tau = torch.linspace(0, 1, 11, dtype=torch.float64)[None]
    assert_near(shifted(tau, PathConfig(), latents(1)).get("video"), tau, atol=1e-12)


def test_a_missing_modality_has_no_times() -> None:
    only_audio = latents(1).only(("audio",))
    assert shifted(torch.ones(2, 1), PathConfig(2.0, 3.0), only_audio).video is None
    assert per_latent(shifted(torch.ones(2, 1), PathConfig(), only_audio), only_audio, Layout(CLOCK, 1)).video is None


@pytest.mark.parametrize("name", ["shift_video", "shift_audio"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_shift_must_be_positive(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"path.{name}"):
        PathConfig(**{name: value})


@pytest.mark.parametrize("first", [0, 3])
def test_per_latent_gives_every_latent_the_value_of_its_chunk(first: int) -> None:
    layout, clip = Layout(CLOCK, 4, first=first), future(latents(4))
    audio = len(layout.audio()[0])
    clip = AV(clip.video, torch.zeros(2, audio, 5))
    chunk_numbers = torch.tensor([[0.0, 1, 2, 3], [10, 11, 12, 13]])
    spread = per_latent(clip.map(lambda _: chunk_numbers), clip, layout)
    assert spread.get("video").shape == (2, 12, 1, 1, 1)
    for k in range(4):
        video = spread.get("video")[:, k * CLOCK.chunk_video : (k + 1) * CLOCK.chunk_video].flatten(1)
        span, start = CLOCK.audio_slice(first + k), CLOCK.audio_latents(first)
        sound = spread.get("audio")[:, span.start - start : span.stop - start].flatten(1)
        for part in (video, sound):
            assert part.shape[1] > 0
            assert part.tolist() == [[k] * part.shape[1], [10 + k] * part.shape[1]]


@given(moves=st.integers(1, 50))
def test_the_few_grid_falls_evenly_from_1_to_0(moves: int) -> None:
    grid = few_grid(moves)
    assert grid[0] == 1
    assert grid[-1] == 0
    assert_near(-grid.diff(), torch.full((moves,), 1 / moves), atol=1e-6)


def test_the_few_grid_needs_a_move() -> None:
    with pytest.raises(ValueError, match="moves=0"):
        few_grid(0)


# --- preconditioning ------------------------------------------------------------------------------------------------------


def unit_pairs(count: int = 4000) -> tuple[Tensor, Tensor]:
    """Data and noise whose sample moments are exactly those of independent unit variables."""
    g = torch.Generator().manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(count, 2, generator=g, dtype=torch.float64))
    return q[:, 0] * count**0.5, q[:, 1] * count**0.5


@given(t=TIME)
def test_zero_output_is_the_best_linear_guess(t: float) -> None:
    """Regression of v on x_t over unit-variance data: E[v x_t] / E[x_t^2] = (2t - 1) / ((1 - t)^2 + t^2)."""
    x_0, e = unit_pairs()
    x_t, v = (1 - t) * x_0 + t * e, e - x_0
    slope = (v * x_t).mean() / (x_t * x_t).mean()
    at = torch.tensor(t, dtype=torch.float64)
    assert_near(preconditioned(torch.zeros_like(x_t), x_t, at), slope * x_t, atol=1e-12)


@given(t=TIME)
def test_the_network_has_a_target_of_unit_variance_uncorrelated_with_its_input(t: float) -> None:
    """Solve preconditioned(F) = v for F, which is affine in F: F = (v - u(0)) / (u(1) - u(0))."""
    x_0, e = unit_pairs()
    x_t, v = (1 - t) * x_0 + t * e, e - x_0
    at = torch.tensor(t, dtype=torch.float64)
    zero, one = (preconditioned(torch.full_like(x_t, f), x_t, at) for f in (0.0, 1.0))
    target = (v - zero) / (one - zero)
    assert_near(target.square().mean(), torch.ones((), dtype=torch.float64), atol=1e-9)
    assert_near((target * x_t).mean(), torch.zeros((), dtype=torch.float64), atol=1e-9)
    n = (1 - t) ** 2 + t**2
    assert_near(target, (t * x_0 - (1 - t) * e) / n**0.5, atol=1e-9)


@given(t=TIME, value=st.floats(-3, 3))
def test_preconditioning_keeps_the_dtype_of_the_state(t: float, value: float) -> None:
    at = torch.tensor(t)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        x = torch.tensor([0.5, -1.0], dtype=dtype)
        u = preconditioned(torch.full((2,), value, dtype=torch.bfloat16), x, at)
        exact = preconditioned(torch.full((2,), value, dtype=torch.bfloat16).double(), x.double(), at.double())
        assert u.dtype == dtype
        assert_near(u.double(), exact, atol=tolerance)
