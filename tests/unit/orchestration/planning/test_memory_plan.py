"""The arithmetic of memory: sums, shares, and what a choice saves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.planning.loads import Choice, load
from mutual_forcing.orchestration.planning.memory import PARTS, Load, moments, peak, share, trained
from mutual_forcing.orchestration.recipes import recipe

DEMO = with_settings(recipe("demo"), ["workers.use_gpu=true", "workers.count=1"])
STAGES = {s.name: s for s in DEMO.stages}


def of(stage: str, zero: int, ranks: int = 1, micro: int = 0, every: int = 0) -> Load:
    return load(DEMO, STAGES[stage], Choice(ranks, zero, micro, every))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_parts_are_the_whole(stage: str, zero: int) -> None:
    for moment in moments(of(stage, zero)):
        assert tuple(moment.parts) == PARTS
        assert moment.total == sum(moment.parts.values())
        assert min(moment.parts.values()) >= 0
    assert peak(of(stage, zero)).total == max(m.total for m in moments(of(stage, zero)))


def test_only_a_mutual_stage_has_a_fake_score() -> None:
    assert not any(m.parts["fake"] for m in moments(of("joint", 1)))
    full = next(m for m in moments(of("mutual", 1)) if m.name == "backward")
    net = of("mutual", 1)
    assert full.parts["fake"] == trained(net, net.fake, net.fake).held


@given(st.integers(1, 10**11), st.integers(1, 512))
def test_shares_of_all_processes_are_the_whole(numbers: int, ranks: int) -> None:
    each = share(numbers, 3, 3, ranks)
    assert 0 <= each * ranks - numbers < ranks
    assert share(numbers, 2, 3, ranks) == numbers


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.sampled_from(["joint", "mutual"]))
def test_state_of_zero_3_falls_as_processes_are_more(ranks: int, stage: str) -> None:
    one, many = (replace(of(stage, 3, n), small=0) for n in (1, ranks))
    whole, shared = (trained(x, x.weights, x.trained) for x in (one, many))
    assert shared.optimizer == pytest.approx(whole.optimizer / ranks, rel=1e-3)
    assert whole.weights == one.item * one.weights
    assert shared.weights == pytest.approx(whole.weights / ranks, rel=1e-3)


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_checkpointing_and_smaller_forwards_save_activations(zero: int) -> None:
    def activations(**choice: int) -> int:
        return max(m.parts["activations"] for m in moments(of("joint", zero, **choice)))

    assert activations(every=1) < activations(every=2) < activations()
    assert activations(micro=2) < activations(micro=8)


def test_a_later_stage_shares_out_more() -> None:
    held = [trained(x, x.weights, x.trained) for x in (replace(of("joint", zero, 4), small=0) for zero in (0, 1, 2, 3))]
    assert held[1].optimizer < held[0].optimizer * 12 / 8  # masters and moments, of a fourth
    assert held[2].between < held[1].between
    assert held[3].weights < held[2].weights


def test_offload_leaves_the_optimizer_to_the_host() -> None:
    here = of("joint", 2)
    assert trained(replace(here, offload=True), here.weights, here.trained).optimizer == 0
    assert trained(here, here.weights, here.trained).optimizer == 12 * here.trained


def test_a_host_counts_what_is_written_to() -> None:
    gpu = of("joint", 2)
    host = replace(gpu, lazy=True, start=True)
    assert next(m for m in moments(host)).parts["start"] == 4 * host.weights
    assert trained(gpu, gpu.weights, gpu.trained).reduced > 50 * trained(host, host.weights, host.trained).reduced  # a small network


def test_bf16_keeps_masters_under_every_stage() -> None:
    for zero in (1, 2, 3):
        half = replace(of("joint", zero), item=2)
        assert trained(half, half.weights, half.trained).optimizer == cast(Any, pytest).approx(12 * half.trained, rel=1e-3)


@pytest.mark.parametrize(("lazy", "copies"), [(True, 2), (False, 1)])
def test_the_optimizers_step_has_gradients_and_copies_and_no_buffer_of_the_reduction(lazy: bool, copies: int) -> None:
    """By hand for fp32 under stage 1: a gradient of 4 bytes a weight, and AdamW's copies of 4."""
    one = replace(of("joint", 1), lazy=lazy)
    step = next(m for m in moments(one) if m.name == "step")
    assert step.parts["buffers"] == 4 * one.trained * (1 + copies)
    reduction = next(m for m in moments(one) if m.name == "reduction")
    assert reduction.parts["buffers"] == 4 * (2 * one.trained if lazy else 500_000_000 + one.trained)
