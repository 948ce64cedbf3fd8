"""What each objective teaches, proven on Gaussian clips: the minimiser of the real loss against the closed form.

Data: c ~ N(0, SIGMA^2), h ~ N(0, 1), x_0 | h, c ~ N(A h + B c, S^2), so x_0 | h ~ N(A h, S^2 + B^2 SIGMA^2). `Law` derives velocities,
posterior means and flow maps of both (`gaussian_material.py`). Velocities are linear in (1, x, h, c) with coefficients of their own for
each chunk, whose times are chosen; the draws have exact second moments, so there is no Monte-Carlo error. Tolerances: 1e-10 where
the loss takes its times in float64, 3e-5 for ShortCut, whose grid is float32 and whose Euler errors are extrapolated away.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import pytest
import torch
from gaussian_material import F64, Draws, Law, clips, coefficients, design, exact, features, minimiser, past, video
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.testing import assert_close

from mutual_forcing.model.losses import Models, dmd, fake_score, flow_matching, jump_to_zero, shortcut
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.objective import DmdConfig, DropConfig, FewConfig, FewSampler, HistoryConfig, ObjectiveConfig, ShortcutConfig
from mutual_forcing.model.path import PathConfig
from mutual_forcing.model.types import AVBatch, Rollout

A, B, S, SIGMA = 0.7, 0.5, 0.6, 1.2
TOLD, SILENT = Law((0.0, A, B), S), Law((0.0, A, 0.0), (S**2 + B**2 * SIGMA**2) ** 0.5)
GENERATED = Law((0.3, 0.4, -0.2), 0.9)  # what a generator that is not there yet makes
TEACHER = exact(TOLD, SILENT)
COUNT, CHUNKS = 64, 3
RAW = torch.tensor([0.15, 0.5, 0.93], dtype=F64)
SHIFT = 3.0
Time = TypeVar("Time", float, Tensor)
CONFIG = ObjectiveConfig(
    path=PathConfig(shift_video=SHIFT),
    video_weight=1.7,
    history=HistoryConfig(real_share=0.0),
    dmd=DmdConfig(guidance=1.0, time_low=0.1, time_high=0.9),
)


def shift(raw: Time) -> Time:
    return SHIFT * raw / (1 + (SHIFT - 1) * raw)


class Data:
    """Clips whose (c, h, w, e) are uncorrelated, a chunk each but for c, and rollouts that hold h as the past of each chunk."""

    def __init__(self, law: Law, copies: int = 1) -> None:
        z = design(1 + 3 * CHUNKS, COUNT, seed=5).repeat(copies, 1)
        self.count, self.c = COUNT * copies, SIGMA * z[:, 0]
        self.h, w, self.e = z[:, 1:].split(CHUNKS, dim=1)
        one, of_h, of_c = law.mean
        self.x = one + of_h * self.h + of_c * self.c[:, None] + law.std * w
        self.batch: AVBatch = clips(torch.cat([torch.full_like(self.h[:, :1], 9.0), self.x], dim=1), self.c)
        self.rollout: Rollout = past(self.h)

    def draws(self, tag: str, uniforms: dict[str, Tensor]) -> Draws:
        return Draws({tag: self.e}, {"drop": torch.tensor(0.99), "real-history": torch.tensor(0.5), **uniforms}, self.count)


# --- flow matching and the fake score -------------------------------------------------------------------------------------


def test_flow_matching_learns_the_conditional_velocity_and_without_text_the_unconditional_one() -> None:
    """Half the clips of every kind lose their text; the coefficient of a dropped c has no meaning, so it is left out."""
    data = Data(TOLD, copies=2)
    drop = torch.tensor([0.25, 0.75]).repeat_interleave(COUNT)
    draws = data.draws("fm noise", {"fm time": RAW, "drop": drop})
    config = replace(CONFIG, drop=DropConfig(all=0.5, caption=0.0, transcript=0.0))

    def loss(w: Tensor) -> Tensor:
        told, silent = w[:4].T, torch.cat([w[4:], torch.zeros_like(w[:1])]).T
        live = coefficients(told, silent)
        return flow_matching(Models(live, live), data.batch, data.rollout, draws, config).value

    best = minimiser(loss, 7, CHUNKS)
    t = shift(RAW)
    assert_close(best[:4].T, TOLD.velocity(t), rtol=0, atol=1e-10)
    assert_close(best[4:].T, SILENT.velocity(t)[:, :3], rtol=0, atol=1e-10)


def test_flow_matching_on_the_true_past_learns_from_it_alone() -> None:
    """Without a rollout h is the clip's own latent before: a chunk whose past says nothing gets the coefficient 0."""
    data = Data(Law((0.0, 0.0, B), S))
    draws = data.draws("fm noise", {"fm time": RAW})

    def loss(w: Tensor) -> Tensor:
        live = coefficients(w)
        batch = clips(torch.cat([data.h[:, :1], data.x], dim=1), data.c)
        return flow_matching(Models(live, live), batch, None, draws, replace(CONFIG, drop=DropConfig(0.0, 0.0, 0.0))).value

    assert_close(minimiser(loss, CHUNKS, 4), Law((0.0, 0.0, B), S).velocity(shift(RAW)), rtol=0, atol=1e-10)


def test_the_fake_score_learns_the_velocity_of_what_was_generated() -> None:
    data = Data(GENERATED)
    other = clips(torch.full((COUNT, 1 + CHUNKS), 7.0, dtype=F64), data.c)  # the real clips have no part in it
    draws = data.draws("fake 2", {"fake-2 time": RAW})

    def loss(w: Tensor) -> Tensor:
        return fake_score(Models(TEACHER, TEACHER, coefficients(w)), video(data.x), other, data.rollout, draws, CONFIG, 2).value

    assert_close(minimiser(loss, CHUNKS, 4), GENERATED.velocity(shift(RAW)), rtol=0, atol=1e-10)


# --- ShortCut -------------------------------------------------------------------------------------------------------------

STARTS, JUMPS = torch.tensor([0.1, 0.3, 0.9]), torch.tensor([0.0, 0.9, 0.9])  # of 4 moves: 1 -> 0, 0.75 -> 0.5, 0.25 -> 0
INTERVALS = {"ode": ([1.0, 0.75, 0.25], [0.0, 0.5, 0.0]), "renoise": ([1.0, 0.75, 0.25], [0.0, 0.0, 0.0])}

TOLERANCE = 3e-5


def learnt_shortcut(guidance: float, sub_steps: int, sampler: FewSampler = "ode") -> Tensor:
    data = Data(TOLD)
    draws = data.draws("sc noise", {"sc grid": torch.tensor(0.5), "sc interval": STARTS, "sc jump": JUMPS})
    config = replace(CONFIG, few=FewConfig(4, sampler), shortcut=ShortcutConfig(1.0, sub_steps, guidance, to_zero_share=0.25))

    def loss(w: Tensor) -> Tensor:
        return shortcut(Models(coefficients(w), TEACHER), data.batch, data.rollout, draws, config).value

    return minimiser(loss, CHUNKS, 4)


def extrapolated(guidance: float, sampler: FewSampler = "ode", sub_steps: int = 40) -> Tensor:
    """Without the Euler errors of order 1 / sub_steps and 1 / sub_steps^2: what remains is of third order."""
    one, two, four = (learnt_shortcut(guidance, n * sub_steps, sampler) for n in (1, 2, 4))
    return (8 * four - 6 * two + one) / 3


def spans(sampler: FewSampler) -> list[tuple[float, float]]:
    return list(zip(*INTERVALS[sampler], strict=True))


def slope(at: float, x: np.ndarray, weight_told: float) -> np.ndarray:
    """The field weight told + (1 - weight) silent at x_r, both in coefficients of (1, x_t, h, c)."""
    t = torch.tensor(at, dtype=F64)
    v = (weight_told * TOLD.velocity(t) + (1 - weight_told) * SILENT.velocity(t)).numpy()
    return v[1] * x + v * np.array([1.0, 0.0, 1.0, 1.0])


X_T = np.array([0.0, 1.0, 0.0, 0.0])


def integrated(weight_told: float, sampler: FewSampler = "ode") -> Tensor:
    """Average velocity along that field by a Runge-Kutta method."""
    rows = []
    for raw_t, raw_r in spans(sampler):
        t, r = shift(raw_t), shift(raw_r)
        end = solve_ivp(slope, (t, r), X_T, args=(weight_told,), rtol=1e-9, atol=1e-11).y[:, -1]
        rows.append((X_T - end) / (t - r))
    return torch.tensor(np.array(rows))


def stepped(weight_told: float, sub_steps: int) -> Tensor:
    """Average velocity along that field by Euler steps, even in raw time, each with the velocity where it begins."""
    rows = []
    for raw_t, raw_r in spans("ode"):
        times = [shift(raw_t + (raw_r - raw_t) * i / sub_steps) for i in range(sub_steps + 1)]
        x = X_T
        for t, r in pairwise(times):
            x = x - (t - r) * slope(t, x, weight_told)
        rows.append((X_T - x) / (times[0] - times[-1]))
    return torch.tensor(np.array(rows))


@pytest.mark.parametrize("sampler", ["ode", "renoise"])
def test_shortcut_learns_the_average_velocity_of_the_flow(sampler: FewSampler) -> None:
    t, r = (shift(torch.tensor(x, dtype=F64)) for x in INTERVALS[sampler])
    flow = TOLD.average(t, r)
    assert_close(integrated(1.0, sampler), flow, rtol=0, atol=1e-7)
    assert_close(extrapolated(1.0, sampler), flow, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_error_of_few_sub_steps_is_that_of_euler_steps(guidance: float) -> None:
    exact_flow = integrated(guidance)
    for sub_steps in (1, 2, 5):
        learnt = learnt_shortcut(guidance, sub_steps)
        assert_close(learnt, stepped(guidance, sub_steps), rtol=0, atol=1e-6)
        assert (learnt - exact_flow).abs().max() > 1e-2


@pytest.mark.parametrize("guidance", [2.0, 5.0])
def test_guidance_is_uncond_plus_g_times_the_difference(guidance: float) -> None:
    """The other convention, `cond + g (cond - uncond)`, has the weights 1 + g and -g: the learnt flow is far from it."""
    learnt = extrapolated(guidance)
    assert_close(learnt, integrated(guidance), rtol=0, atol=TOLERANCE)
    assert (learnt - integrated(1 + guidance)).abs().max() > 1000 * TOLERANCE


# --- DMD ------------------------------------------------------------------------------------------------------------------


def direction(data: Data, fake: Law, guidance: float = 1.0) -> Tensor:
    """d of each latent, from the gradient of the loss by g."""
    g = data.x.clone().requires_grad_(True)
    config = replace(CONFIG, dmd=replace(CONFIG.dmd, guidance=guidance))
    draws = data.draws("dmd noise", {"dmd time": RAW})
    loss = dmd(Models(TEACHER, TEACHER, exact(fake)), video(g), data.batch, data.rollout, draws, config).value
    loss.backward()
    assert g.grad is not None
    d = g.grad * g.numel() / CONFIG.video_weight
    assert_close(loss.detach(), CONFIG.video_weight * 0.5 * d.square().mean(), rtol=1e-10, atol=0)
    return d


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_the_dmd_direction_is_the_normalised_difference_of_posterior_means(guidance: float) -> None:
    """s = 0.1 + 0.8 u, shifted; guidance acts on clean predictions as on velocities, because x_s - s v is linear in v."""
    data = Data(GENERATED)
    s = shift(0.1 + 0.8 * RAW)
    z = features((1 - s) * data.x + s * data.e, past(data.h).history.get("video"), data.c)
    p_fake, told, silent = ((law.clean(s) * z).sum(-1) for law in (GENERATED, TOLD, SILENT))
    p_real = silent + guidance * (told - silent)
    scale = (data.x - p_real).abs().mean(1, keepdim=True) + CONFIG.dmd.epsilon
    assert_close(direction(data, GENERATED, guidance), (p_fake - p_real) / scale, rtol=0, atol=1e-10)


def test_the_dmd_direction_vanishes_for_the_law_of_the_data_and_for_no_other() -> None:
    data = Data(TOLD)
    assert torch.count_nonzero(direction(data, TOLD)) == 0
    one, h, c = TOLD.mean
    for other in (Law((one + 0.01, h, c), S), Law((one, h + 0.01, c), S), Law((one, h, c + 0.01), S), Law(TOLD.mean, S + 0.01)):
        assert (direction(Data(other), other).abs().amax(0) > 1e-4).all(), "at every time"


def descend(steps: int, right: bool) -> list[Law]:
    """SGD of g = w . (1, z, h, c) under DMD; the fake score is the closed form of what g is now. Else the two scores are swapped."""
    data, rate = Data(TOLD), 0.3
    rollout = past(data.h, exit_state=data.e)
    z_BK4 = features(data.e, rollout.history.get("video"), data.c)
    w = torch.tensor([0.8, 1.7, 0.0, -0.6], dtype=F64, requires_grad=True)
    jump = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=F64)
    laws = []
    for step in range(steps):
        one, z, h, c = w.tolist()
        laws.append(Law((one, h, c), abs(z)))
        scores = (TEACHER, exact(laws[-1])) if right else (exact(laws[-1]), TEACHER)
        models = Models(coefficients(jump - w), *scores)  # from pure noise at t = 1: g = z - u(z, 1, 0)
        noise = PositionalNoise([(step, clip) for clip in range(COUNT)])
        g = jump_to_zero(models, data.batch, rollout, CONFIG)
        assert_close(g.get("video").flatten(1), (w * z_BK4).sum(-1), rtol=0, atol=1e-10)
        loss = dmd(models, g, data.batch, rollout, noise, CONFIG).value
        w = (w - rate * torch.autograd.grad(loss, w)[0]).detach().requires_grad_(True)
    return laws


def distance(law: Law) -> float:
    return max(abs(law.std - S), *(abs(x - y) for x, y in zip(law.mean, TOLD.mean, strict=True)))


def test_descent_on_dmd_ends_at_the_mean_and_deviation_of_the_data() -> None:
    laws = descend(100, right=True)
    assert distance(laws[0]) > 1
    assert distance(laws[-1]) < 1e-6
    away = descend(10, right=False)
    assert distance(away[-1]) > 5 * distance(away[0]), "with the sign turned it runs away"
