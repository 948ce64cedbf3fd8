"""The trap of method 5.1 on an AR(1) process: which history coefficient flow matching teaches, by `history.strength` and `real_share`.

Real clips: x_k = A x_{k-1} + w, A = 0.8, Var x = 1. The model knows x_k | K_{k-1} ~ N(b K_{k-1}, s^2). Its history starts from the real
chunk noised to tau, y = (1 - tau) x_k + tau e, and its exact flow ends it:

    K_k = m + rho (y - (1 - tau) m),  m = b K_{k-1},  rho = s / q,  q^2 = (1 - tau)^2 s^2 + tau^2
        = beta K_{k-1} + alpha x_k + rho tau e,  alpha = rho (1 - tau),  beta = b (1 - alpha)

With c_k = Cov(x_k, K_k), V_k = Var K_k, and w independent of K_{k-1}, so that Cov(x_k, K_{k-1}) = A c_{k-1}:

    c_k = alpha + beta A c_{k-1}
    V_k = beta^2 V_{k-1} + alpha^2 + rho^2 tau^2 + 2 alpha beta A c_{k-1}

Flow matching has the real chunk as target and K_{k-1} as past: it teaches b' = A c_{k-1} / V_{k-1} and s'^2 = 1 - b'^2 V_{k-1}. At the
fixed point b' = b of long clips V = 1 (noising and finishing keeps a law that the model knows), which leaves

    b (1 - A b (1 - alpha)) = A alpha

Where clips differ in tau, or keep their true past (c = V = 1), the means of c and V take the place of c and V: b' is then the best linear
predictor, and the histories, which are no longer Gaussian, are still finished by the flow of N(b K, s^2).
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch
from gaussian_material import CLOCK, F64, Draws, Law, clips, coefficients, design, features, minimiser
from torch import Tensor
from torch.testing import assert_close

from mutual_forcing.model.losses import Models, flow_matching
from mutual_forcing.model.objective import DropConfig, FewConfig, HistoryConfig, ObjectiveConfig
from mutual_forcing.model.sampler import roll_out
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import AV

A = 0.8
STRENGTHS = (1.0, 0.8, 0.6, 0.5, 0.3)
QUOTED = (0.00, 0.21, 0.49, 0.60, 0.74)  # method 5.1: the fixed point, cut after two digits
DOCS = Path(__file__).parents[2] / "docs" / "history.md"
Known = tuple[float, float]  # (b, s)
TRUTH: Known = (A, (1 - A * A) ** 0.5)

# --- the closed form ------------------------------------------------------------------------------------------------------


def moments(known: Known, tau: float, chunks: int) -> list[tuple[float, float]]:
    """(c, V) of the latents before chunks 0, 1, ...; the first of them is the true first frame."""
    b, s = known
    rho = s / ((1 - tau) ** 2 * s**2 + tau**2) ** 0.5
    alpha = rho * (1 - tau)
    beta = b * (1 - alpha)
    made = [(1.0, 1.0)]
    while len(made) < chunks:
        c, v = made[-1]
        made.append((alpha + beta * A * c, beta**2 * v + alpha**2 + (rho * tau) ** 2 + 2 * alpha * beta * A * c))
    return made


def taught(known: Known, levels: tuple[float, ...], real_share: float, chunks: int) -> list[Known]:
    """(b', s') of chunks 0, 1, ... when equally many clips start from each level."""
    result = []
    for pairs in zip(*(moments(known, tau, chunks) for tau in levels), strict=True):
        c, v = (real_share + (1 - real_share) * sum(x) / len(levels) for x in zip(*pairs, strict=True))
        b = A * c / v
        result.append((b, (1 - b * b * v) ** 0.5))
    return result


def fixed_point(levels: tuple[float, ...], real_share: float = 0.0) -> Known:
    known = TRUTH
    for _ in range(100):
        known = taught(known, levels, real_share, 100)[-1]
    return known


def snapped(strength: float, moves: int) -> float:
    """The grid level at which a history starts: it must be one of the few-step mode's times, and not 0."""
    return 1 - min(round((1 - strength) * moves), moves - 1) / moves


# --- the real rollout and the real loss -----------------------------------------------------------------------------------


class Own:
    """The network in a rollout: average velocities of the exact flow of N(b K, s^2), K the chunk committed last."""

    timeline = CLOCK

    def __init__(self, known: Known) -> None:
        self.law = Law((0.0, known[0], 0.0), known[1])

    def start(self, controls: object, modalities: object) -> KnownStream:
        return KnownStream(self.law)


class KnownStream:
    """A stream of it."""

    def __init__(self, law: Law) -> None:
        self.law, self.past = law, torch.empty(0)

    def commit(self, clean: AV, chunk: int) -> None:
        self.past = clean.get("video")

    def velocity(self, noisy: AV, t: AV, r: AV, chunk: int) -> AV:
        x = noisy.get("video")
        z = features(x, torch.cat([self.past, x], dim=1), torch.zeros(x.shape[0], dtype=F64))
        return AV(video=(self.law.average(t.get("video").to(F64), r.get("video").to(F64)) * z).sum(-1).view_as(x))


CHUNKS, COUNT = 6, 32
TIMES = torch.tensor([0.9, 0.3, 0.6, 0.5, 0.8, 0.4], dtype=F64)


def learnt(known: Known, history: HistoryConfig, moves: int, strengths: int = 1, shares: int = 1) -> Tensor:
    """Coefficients [K, 3] of (1, x, h) that the real loss has on real rollouts of a model that knows `known`.

    The clips come in every pair of a draw of the strength and a draw of the share, each spread evenly over (0, 1).
    """
    copies = strengths * shares
    z = design(1 + 3 * CHUNKS, COUNT, seed=8).repeat(copies, 1)
    first, w, e, other = z.split([1, CHUNKS, CHUNKS, CHUNKS], dim=1)
    latents = [first[:, 0]]
    for k in range(CHUNKS):
        latents.append(A * latents[-1] + TRUTH[1] * w[:, k])
    batch = clips(torch.stack(latents, dim=1), torch.zeros(len(z), dtype=F64))
    index = torch.arange(copies).repeat_interleave(COUNT)
    draws = Draws(
        {"fm noise": other, **{f"chunk {k}": e[:, k] for k in range(CHUNKS)}},
        {
            "strength": (index % strengths + 0.5) / strengths,
            "real-history": (index // strengths + 0.5) / shares,
            "fm time": TIMES,
            **{tag: torch.tensor(0.0) for tag in ("drop", "exit", "exit-last")},
        },
        len(z),
    )
    config = ObjectiveConfig(w_distil=0.0, history=history, few=FewConfig(moves), drop=DropConfig(0.0, 0.0, 0.0))
    net = cast(AVTransformer, Own(known))
    rollout = roll_out(net, batch.latents, batch.controls, batch.layout, config, draws, version=0)

    def loss(x: Tensor) -> Tensor:
        live = coefficients(torch.cat([x, torch.zeros_like(x[:, :1])], dim=1))
        return flow_matching(Models(live, live), batch, rollout, draws, config).value

    return minimiser(loss, CHUNKS, 3)


def at_strength(strength: float, real_share: float = 0.0) -> HistoryConfig:
    return HistoryConfig("generated", strength, strength, real_share)


def velocities(known: list[Known]) -> Tensor:
    return torch.stack([Law((0.0, b, 0.0), s).velocity(t)[:3] for (b, s), t in zip(known, TIMES, strict=True)])


def known_from(coefficients_3: Tensor, t: float) -> Known:
    """(b, s) of a learnt velocity x k - (1 + (1 - t) k) b h, k = (t - (1 - t) s^2) / ((1 - t)^2 s^2 + t^2)."""
    _, k, of_h = coefficients_3.tolist()
    variance = (t - k * t**2) / ((1 - t) * (1 + (1 - t) * k))
    return -of_h / (1 + (1 - t) * k), variance**0.5


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_real_loss_on_real_rollouts_teaches_the_closed_form(strength: float) -> None:
    """Every chunk, from the second (whose past is the first generated chunk) to the last; 1e-6 because the sampler's grid is float32."""
    known = fixed_point((strength,))
    want = taught(known, (strength,), 0.0, CHUNKS)
    best = learnt(known, at_strength(strength), moves=10)
    assert_close(best, velocities(want), rtol=0, atol=1e-6)
    assert want[0][0] == A, "the first chunk follows the true first frame"
    assert known_from(best[-1], float(TIMES[-1])) == pytest.approx(known, abs=3e-3), "and late chunks are at the fixed point"


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_true_histories_pull_the_coefficient_back(share: float) -> None:
    known = fixed_point((0.8,), share)
    want = taught(known, (0.8,), share, CHUNKS)
    assert_close(learnt(known, at_strength(0.8, share), moves=10, shares=4), velocities(want), rtol=0, atol=1e-6)
    assert known[0] > fixed_point((0.8,))[0] + 0.1
    if share == 1:
        assert known == pytest.approx(TRUTH)


MIXED = HistoryConfig(strength_low=0.2, strength_high=0.6, real_share=0.25)


def levels_of(history: HistoryConfig) -> list[float]:
    """Where the histories of a dial start on the moves of the recipe `mutual`, each equally often."""
    low, high = history.strength_low, history.strength_high
    return sorted(snapped(low + (high - low) * (i + 0.5) / 16, FewConfig().moves) for i in range(16))


@pytest.mark.parametrize(("dial", "levels"), [(HistoryConfig(), [0.25] * 16), (MIXED, [0.25] * 7 + [0.5] * 9)])
def test_the_default_dial_and_a_mixed_one_on_their_grid(dial: HistoryConfig, levels: list[float]) -> None:
    """strength ~ U(0.2, 0.6) on four moves is 0.5 for 9 clips in 16 and 0.25 for 7; a quarter keep the true past."""
    assert levels_of(dial) == levels
    known = fixed_point(tuple(levels), dial.real_share)
    best = learnt(known, dial, FewConfig().moves, strengths=16, shares=4)
    assert_close(best, velocities(taught(known, tuple(levels), dial.real_share, CHUNKS)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("strength", [0.8, 0.5])
def test_training_on_its_own_histories_leads_from_the_truth_to_the_fixed_point(strength: float) -> None:
    """Rollout, minimiser, rollout with it, ...: nothing but the real functions."""
    known = want = TRUTH
    for _ in range(6):
        known = known_from(learnt(known, at_strength(strength), moves=10)[-1], float(TIMES[-1]))
        want = taught(want, (strength,), 0.0, CHUNKS)[-1]
        assert known == pytest.approx(want, abs=1e-5)
    assert known == pytest.approx(fixed_point((strength,)), abs=3e-3)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_fixed_point_solves_its_equation_and_is_what_the_method_quotes(strength: float) -> None:
    b, s = fixed_point((strength,))
    q = ((1 - strength) ** 2 * s**2 + strength**2) ** 0.5
    alpha = s / q * (1 - strength)
    assert b * (1 - A * b * (1 - alpha)) == pytest.approx(A * alpha, abs=1e-12)
    assert s**2 + b**2 == pytest.approx(1, abs=1e-12), "V = 1"
    assert 0 <= b + 1e-9 - QUOTED[STRENGTHS.index(strength)] < 0.0101


# --- the table of docs/history.md -----------------------------------------------------------------------------------------


def table() -> str:
    head = ["strength", "first pass", "fixed point", "real share 0.25", "real share 0.5", "starts on 4 moves at", "fixed point there"]
    rows = [head, ["---:"] * len(head)]
    for strength in STRENGTHS:
        level = snapped(strength, 4)
        first = taught(TRUTH, (strength,), 0.0, 100)[-1][0]
        values = [first, fixed_point((strength,))[0], *(fixed_point((strength,), share)[0] for share in (0.25, 0.5))]
        rows.append([f"{strength:g}", *(f"{v:.3f}" for v in values), f"{level:g}", f"{fixed_point((level,))[0]:.3f}"])
    default = fixed_point(tuple(levels_of(HistoryConfig())), HistoryConfig().real_share)[0]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + f"\n\nThe defaults of the recipe `mutual` teach {default:.3f}.\n"


def test_the_table_of_the_documentation_is_this_one() -> None:
    """`pytest -s -k table` prints it."""
    print("\n\n" + table())
    assert table() in DOCS.read_text(encoding="utf-8")
