"""DeepSpeed against plain torch: two processes at every ZeRO stage train exactly as one process does on the same global batch.

And where the loss of one process is not finite, no process takes the step: it leaves no trace in weights, moments or step counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import deepspeed
import pytest
import torch
import torch.distributed as dist
import zero_material
from processes_material import run_processes
from torch import Tensor, nn
from zero_material import BATCH, OBJECTIVE, OPTIMIZER, WORLD, clips, each, network, plain, sharded, together, whole

from mutual_forcing.datasets.reading.order import rank_positions
from mutual_forcing.model.ema import ema_decay, ema_update
from mutual_forcing.model.health import GradientMeter
from mutual_forcing.model.lora import LoraAdapter
from mutual_forcing.model.losses import Loss, Models, flow_matching
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.types import AV, MODALITIES, AVBatch
from mutual_forcing.workers.engine import EngineConfig
from mutual_forcing.workers.train_step import Metrics, Networks, Trained, flow_step, mutual_step

pytestmark = pytest.mark.timeout(600)

Stage = Literal[0, 1, 2, 3]
Kind = Literal["flow", "mutual", "self-taught", "adapted", "micro-flow", "micro", "apart", "summed"]
Bad = Literal["clip", "history", "exit"]
Trace = dict[str, list[float]]

STEPS = 3
TOLERANCE = 1e-5
SELF_TAUGHT = replace(OBJECTIVE, teacher="live")
DUAL = {"mutual": OBJECTIVE, "self-taught": SELF_TAUGHT, "adapted": OBJECTIVE, "micro": OBJECTIVE}


def two_parts(engine: Trained, batch: AVBatch, noise: PositionalNoise, rate: float, apart: bool) -> Metrics:
    """A step on two losses: with a `backward` each, or with one for their sum."""
    other = PositionalNoise([(12, "zero", p) for p in batch.positions])
    models = Models(engine, engine)
    first = flow_matching(models, batch, None, noise, OBJECTIVE)
    if apart:
        engine.backward(first, last=False)
    second = flow_matching(models, batch, None, other, OBJECTIVE)
    engine.backward(second if apart else Loss(first.value + second.value, {}), last=True)
    return {"loss": (first.value + second.value).detach(), "grad_norm": engine.step(rate).grad_norm}


def train(kind: Kind, engine: Callable[[nn.Module], Trained], rank: int, world: int) -> Trace:
    """Some steps of a kind; every metric of every step, averaged over the ranks, and a probe of the trained weights."""
    ema = network().requires_grad_(False)
    theta = network()
    fake = LoraAdapter(theta, rank=2) if kind == "adapted" else network()
    nets = Networks(engine(theta), ema, engine(fake) if kind in DUAL else None)
    trace: Trace = {}
    for step in range(STEPS):
        batch, rollout, noise = clips(rank_positions(step, BATCH, rank, world))
        rate = OPTIMIZER.rate(step, STEPS)
        micro = 1 if kind.startswith("micro") else 0
        if kind.endswith("flow"):
            metrics = flow_step(nets, batch, noise, OBJECTIVE, rate, micro)
        elif kind in DUAL:
            metrics = mutual_step(nets, batch, rollout, noise, DUAL[kind], rate, micro=micro)
        else:
            metrics = two_parts(nets.live, batch, noise, rate, kind == "apart")
        ema_update(ema.parameters(), each(nets.live), ema_decay(0.9, step))
        for name, value in metrics.items():
            trace.setdefault(name, []).append(mean_over_ranks(float(value)))
    trace["ema"] = [float(p.double().norm()) for p in ema.parameters()]
    return trace


def mean_over_ranks(value: float) -> float:
    values = of_all_ranks(value)
    return sum(values) / len(values)


def of_all_ranks(value: float) -> list[float]:
    if not dist.is_initialized():
        return [value]
    values = [0.0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


# --- a step that is not finite --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Skipped:
    """Three steps of which the second was bad on rank 1; beside them the two good steps alone."""

    losses: list[float]
    skipped: list[float]
    before: list[Tensor]
    after: list[Tensor]
    end: list[Tensor]
    without: list[Tensor]


def weights_of(nets: Networks) -> list[Tensor]:
    """All weights under training, those of the fake score too."""
    copies = []
    for engine in (nets.live, nets.fake):
        if engine is not None:
            with whole(engine) as weights:
                copies += [x.detach().clone() for x in weights]
    return copies


def damaged(x: AV) -> AV:
    return x.map(lambda y: y * float("nan"))


def take(nets: Networks, step: int, rank: int, bad: Bad | None = None) -> Metrics:
    """A step of flow matching (a bad clip), or of the dual mode (a bad rollout), at the full rate."""
    batch, rollout, noise = clips(rank_positions(step, BATCH, rank, WORLD))
    if nets.fake is None:
        here = replace(batch, latents=damaged(batch.latents)) if bad == "clip" else batch
        return flow_step(nets, here, noise, OBJECTIVE, OPTIMIZER.lr)
    if bad == "history":
        rollout = replace(rollout, history=damaged(rollout.history))
    if bad == "exit":
        assert rollout.exit_state is not None
        rollout = replace(rollout, exit_state=damaged(rollout.exit_state))
    return mutual_step(nets, batch, rollout, noise, OBJECTIVE, OPTIMIZER.lr)


def skip(bad: Bad, engine: Callable[[nn.Module], Trained], rank: int) -> Skipped:
    def fresh() -> Networks:
        return Networks(engine(network()), network().requires_grad_(False), None if bad == "clip" else engine(network()))

    nets = fresh()
    take(nets, 0, rank)
    before = weights_of(nets)
    metrics = take(nets, 5, rank, bad if rank == 1 else None)
    after = weights_of(nets)
    take(nets, 1, rank)
    end = weights_of(nets)
    alone = fresh()
    for step in (0, 1):
        take(alone, step, rank)
    name = "dmd" if bad == "exit" else "loss"
    return Skipped(of_all_ranks(float(metrics[name])), of_all_ranks(float(metrics["skipped"])), before, after, end, weights_of(alone))


def metered(engine: Callable[[nn.Module], Trained], rank: int) -> dict[str, float]:
    """The norms of the gradient that each part adds in the first step, of this rank's share of the batch."""
    theta = network()
    nets = Networks(engine(theta), network().requires_grad_(False), engine(network()))
    meter = GradientMeter({m: theta.branch_parameters((m,)) for m in MODALITIES})
    batch, rollout, noise = clips(rank_positions(0, BATCH, rank, WORLD))
    metrics = mutual_step(nets, batch, rollout, noise, OBJECTIVE, OPTIMIZER.lr, meter)
    meter.close()
    return {name: float(value) for name, value in metrics.items() if name.startswith("grad/")}


@dataclass(frozen=True)
class Rounded:
    """Training in bf16. trace: as `train` makes it; ahead: after a step too small for most weights in bf16, the share of the optimizer's
    own weights that have moved, and that of the network's.
    """

    trace: Trace
    ahead: tuple[float, float]


def rounded(stage: Stage, rank: int) -> Rounded:
    def engine(net: nn.Module) -> Trained:
        return sharded(net, EngineConfig(stage, "bf16"))

    trace, theta = train("mutual", engine, rank, WORLD), network()
    start = [p.detach().clone() for p in theta.parameters()]
    nets = Networks(engine(theta), network().requires_grad_(False))
    batch, _, noise = clips(rank_positions(0, BATCH, rank, WORLD))
    flow_step(nets, batch, noise, OBJECTIVE, 1e-7)

    def share(weights: Iterable[Tensor]) -> float:
        differ = [(x.detach().float() != before.bfloat16().float()).flatten() for x, before in zip(weights, start, strict=True)]
        return float(torch.cat(differ).float().mean())

    with whole(nets.live) as masters:
        moved = share(masters)
    with deepspeed.zero.GatheredParameters(list(theta.parameters())) if stage == 3 else nullcontext():
        still = share(theta.parameters())
    return Rounded(trace, (moved, still))


# --- the processes --------------------------------------------------------------------------------------------------------


def worker(rank: int, folder: str, stages: tuple[Stage, ...]) -> None:
    """One of the processes: every kind of step at some ZeRO stages."""
    made: dict[str, dict] = {"traces": {}, "skips": {}, "norms": {}, "rounded": {}}
    with together(rank, folder):
        for stage in stages:
            config = EngineConfig(zero_stage=stage)

            def engine(net: nn.Module, config: EngineConfig = config) -> Trained:
                return sharded(net, config)

            kinds: tuple[Kind, ...] = ("flow", "mutual", "self-taught", "micro-flow", "micro", "apart")
            for kind in (*kinds, "adapted") if stage < 3 else kinds:
                made["traces"][stage, kind] = train(kind, engine, rank, WORLD)
            for bad in get_args(Bad):
                made["skips"][stage, bad] = vars(skip(bad, engine, rank))
            made["norms"][stage] = metered(engine, rank)
            if stage:
                made["rounded"][stage] = vars(rounded(stage, rank))
        torch.save(made, f"{folder}/made-{rank}.pt")


Made = list[dict[str, dict]]
QUICK: tuple[Stage, ...] = (1,)  # the default; 13 s of both cores, stage 3 five times as much
SLOW: tuple[Stage, ...] = (0, 2, 3)


@pytest.fixture(scope="module")
def made_by(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[Stage, ...]], Made]:
    """What each process has to tell of some stages, made when it is first asked for."""

    @cache
    def made_by(stages: tuple[Stage, ...]) -> Made:
        folder = tmp_path_factory.mktemp("zero")
        run_processes(worker, (str(folder), stages), WORLD)
        return [torch.load(Path(folder) / f"made-{rank}.pt", weights_only=True) for rank in range(WORLD)]

    return made_by


@pytest.fixture
def made(made_by: Callable[[tuple[Stage, ...]], Made], stage: Stage) -> Made:
    """What each process has to tell of the stage under test."""
    return made_by(QUICK if stage in QUICK else SLOW)


@pytest.fixture
def traces(made: Made) -> dict[tuple[int, str], Trace]:
    return made[0]["traces"]


def at_stages(*stages: Stage) -> pytest.MarkDecorator:
    """A test for each of these stages, those of `SLOW` left out of `make test`."""
    return pytest.mark.parametrize("stage", [pytest.param(s, marks=pytest.mark.slow) if s in SLOW else s for s in stages])


@pytest.fixture(scope="module")
def alone() -> dict[str, Trace]:
    return {kind: train(kind, plain, 0, 1) for kind in get_args(Kind)}


def assert_same(together: Trace, single: Trace, stage: Stage) -> None:
    assert together.keys() == single.keys()
    for name, values in single.items():
        if name.startswith("grad_norm") and stage == 0:
            assert all(math.isnan(x) for x in together[name])  # DeepSpeed has none there, and we do not invent one
        else:
            assert together[name] == pytest.approx(values, rel=TOLERANCE, abs=TOLERANCE), name


@at_stages(0, 1, 2)
def test_an_adapter_as_fake_score_trains_in_two_processes_as_in_one(traces: dict, alone: dict[str, Trace], stage: Stage) -> None:
    """Under stage 3 the configuration refuses it: the adapter needs theta's whole weights."""
    assert_same(traces[stage, "adapted"], alone["adapted"], stage)


@pytest.mark.parametrize("kind", ["flow", "mutual", "self-taught"])
@at_stages(0, 1, 2, 3)
def test_two_processes_train_as_one(traces: dict, alone: dict[str, Trace], stage: Stage, kind: Kind) -> None:
    """`self-taught` is the dual mode with the network under training as its own teacher, the same partitioned weights."""
    assert_same(traces[stage, kind], alone[kind], stage)


def some(rank: int, folder: str, world: int, stages: tuple[Stage, ...], kinds: tuple[Kind, ...]) -> None:
    """One of `world` processes: these kinds of step at these stages."""
    zero_material.WORLD = world
    with together(rank, folder):
        traces = {}
        for stage in stages:
            for kind in kinds:
                traces[stage, kind] = train(kind, lambda net, s=stage: sharded(net, EngineConfig(zero_stage=s)), rank, world)
        torch.save(traces, f"{folder}/made-{rank}.pt")


@pytest.mark.parametrize(
    ("world", "stages", "kinds"),
    [(2, (3,), ("mutual",)), pytest.param(4, get_args(Stage), ("flow", "mutual"), marks=pytest.mark.slow)],
    ids=["parameters in pieces", "four processes"],
)
def test_others_train_as_one(
    tmp_path: Path, alone: dict[str, Trace], world: int, stages: tuple[Stage, ...], kinds: tuple[Kind, ...]
) -> None:
    """What `make test` sees of stage 3, and what more than two processes do at every stage."""
    run_processes(some, (str(tmp_path), world, stages, kinds), world)
    for rank in range(world):
        for (stage, kind), trace in torch.load(tmp_path / f"made-{rank}.pt", weights_only=True).items():
            assert_same(trace, alone[kind], stage)


@pytest.mark.parametrize(("kind", "at_once"), [("micro-flow", "flow"), ("micro", "mutual")])
@at_stages(0, 1, 2, 3)
def test_micro_batches_train_as_the_whole_batch(traces: dict, alone: dict[str, Trace], stage: Stage, kind: Kind, at_once: Kind) -> None:
    """Two clips a process, one at a time: losses, norms and weights are those of all four clips at once in one process."""
    assert_same(traces[stage, kind], alone[at_once], stage)


@at_stages(1, 2, 3)
def test_bf16_trains_near_fp32_and_keeps_weights_of_its_own(made: Made, alone: dict[str, Trace], stage: Stage) -> None:
    """Losses within 3 %; an update far below the spacing of bf16 is not lost, because the optimizer has the weights in fp32."""
    got = made[0]["rounded"][stage]
    for name in ("loss", "loss/fm_video", "loss/sc_audio", "loss/fake"):
        assert got["trace"][name] == pytest.approx(alone["mutual"][name], rel=3e-2, abs=3e-3), name
    moved, still = got["ahead"]
    assert moved > 0.5
    assert still < 0.1


@at_stages(0, 1, 2, 3)
def test_parts_apart_are_parts_summed(traces: dict, alone: dict[str, Trace], stage: Stage) -> None:
    assert_same(traces[stage, "apart"], alone["summed"], stage)


def test_training_moves_the_losses(alone: dict[str, Trace]) -> None:
    """The comparisons above would hold for an optimizer that does nothing, and for a teacher that does not matter."""
    still = [float(p.double().norm()) for p in network().requires_grad_(False).parameters()]
    for kind in get_args(Kind):
        assert max(abs(a - b) for a, b in zip(alone[kind]["ema"], still, strict=True)) > 100 * TOLERANCE
    assert alone["mutual"]["loss/sc_video"][2] != pytest.approx(alone["self-taught"]["loss/sc_video"][2], rel=100 * TOLERANCE)


@pytest.mark.parametrize("bad", get_args(Bad))
@at_stages(0, 1, 2, 3)
def test_a_step_that_is_bad_on_one_rank_is_skipped_on_all_and_leaves_no_trace(made: Made, stage: Stage, bad: Bad) -> None:
    """A bad clip (flow matching), or a bad history or exit state of a rollout (one part of the dual-mode step).

    The good step that follows ends with the same bits as a run that never met the bad one.
    """
    ranks = [Skipped(**m["skips"][stage, bad]) for m in made]
    for r in ranks:
        assert math.isfinite(r.losses[0])
        assert math.isnan(r.losses[1])
        assert r.skipped == [1.0, 1.0]
        assert all(torch.equal(a, b) for a, b in zip(r.before, r.after, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(r.end, r.without, strict=True))
        assert not any(bool(x.isnan().any()) for x in r.end)
        assert not all(torch.equal(a, b) for a, b in zip(r.after, r.end, strict=True)), "good steps move the weights"
    assert all(torch.equal(a, b) for a, b in zip(ranks[0].end, ranks[1].end, strict=True))


@at_stages(0, 1, 2, 3)
def test_the_meter_sees_the_gradients_of_its_rank_whole(made: Made, stage: Stage) -> None:
    """Before they are reduced or partitioned: what one process without DeepSpeed has on the clips of that rank."""
    for rank in range(WORLD):
        expected = metered(plain, rank)
        assert {name.split("_")[0] for name in expected} == {"grad/fm", "grad/sc", "grad/dmd"}
        assert made[rank]["norms"][stage] == pytest.approx(expected, rel=TOLERANCE)
    assert made[0]["norms"][stage] != pytest.approx(made[1]["norms"][stage], rel=1e-2), "the ranks have other clips"
