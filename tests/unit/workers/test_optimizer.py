"""Learning rates by group: what tells the modes apart learns at its own rate, everything else at the stage's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mutual_forcing.model.losses import Loss
from mutual_forcing.workers.optimizer import OptimizerConfig, set_rate
from mutual_forcing.workers.plain_engine import PlainEngine

QUIET = OptimizerConfig(lr=1e-3, weight_decay=0.0, clip=1e9)


def test_a_group_moves_by_its_ratio() -> None:
    """Adam's first step moves every weight by its learning rate, whatever the gradient."""
    slow, fast = (nn.Parameter(torch.zeros(3)) for _ in range(2))
    both = nn.ParameterList([slow, fast])
    engine = PlainEngine(both, [(1.0, [slow]), (20.0, [fast])], QUIET)
    engine.backward(Loss((slow + fast).sum(), {}), last=True)
    engine.step(1e-3)
    assert slow.detach().tolist() == pytest.approx([-1e-3] * 3, rel=1e-4)
    assert fast.detach().tolist() == pytest.approx([-2e-2] * 3, rel=1e-4)


def test_the_rate_is_set_for_every_group_and_an_empty_group_is_left_out() -> None:
    p, q = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    adamw = QUIET.adamw([(1.0, [p]), (5.0, []), (20.0, [q])])
    set_rate(adamw.param_groups, 0.5)
    assert [group["lr"] for group in adamw.param_groups] == [0.5, 10.0]


def test_no_clipping_is_no_clipping() -> None:
    """DeepSpeed reads clip = 0 as off; so must the plain engine, or it would learn nothing."""
    weights = []
    for clip in (0.0, 1e9):
        p = nn.Parameter(torch.zeros(2))
        engine = PlainEngine(nn.ParameterList([p]), [(1.0, [p])], replace(QUIET, clip=clip))
        engine.backward(Loss((torch.tensor([3.0, -4.0]) * p).sum(), {}), last=True)
        assert engine.step(1e-3).grad_norm == pytest.approx(5.0)
        weights.append(p.detach().clone())
    assert torch.equal(*weights)
    assert weights[0].abs().min() > 0
