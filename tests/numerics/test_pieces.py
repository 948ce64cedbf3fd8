"""State in pieces: what one set of processes saves, any other takes up, at any ZeRO stage, and goes on as if nothing had happened."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
import zero_material
from processes_material import run_processes
from safetensors.torch import load_file, save_file
from zero_material import BATCH, OBJECTIVE, OPTIMIZER, clips, groups, network, together

from mutual_forcing.datasets.reading.order import rank_positions
from mutual_forcing.model.lora import LoraAdapter
from mutual_forcing.workers.engine import Engine, EngineConfig
from mutual_forcing.workers.pieces import Source, shapes_of
from mutual_forcing.workers.train_step import Networks, mutual_step

pytestmark = pytest.mark.timeout(600)

Stage = Literal[0, 1, 2, 3]
Precision = Literal["fp32", "bf16"]
BEFORE, AFTER = 3, 2


def built(
    stage: Stage, precision: Precision, world: int, saved: dict[str, Source] | None, adapter: bool
) -> tuple[Networks, dict[str, Engine]]:
    """The networks of a mutual step, of saved state or new."""
    theta, ema = network(), network().requires_grad_(False)
    phi: Any = LoraAdapter(theta, 2) if adapter else network()
    for name, net in {"live": theta, "fake": phi}.items():
        if saved:
            net.load_state_dict(saved[name].weights())
    config = EngineConfig(stage, precision)
    engines = {
        "live": Engine(theta, groups(theta), OPTIMIZER, config, BATCH // world),
        "fake": Engine(phi, groups(phi), OPTIMIZER, config, BATCH // world),
    }
    return Networks(engines["live"], ema, engines["fake"]), engines


def trained(networks: Networks, steps: range, rank: int, world: int) -> list[dict[str, str]]:
    """Losses and gradient norms of some steps, averaged over the ranks; the average of the weights stands still here."""
    losses = []
    for step in steps:
        batch, rollout, noise = clips(rank_positions(step, BATCH, rank, world))
        metrics = mutual_step(networks, batch, rollout, noise, OBJECTIVE, OPTIMIZER.rate(step, BEFORE + AFTER))
        row = torch.tensor([float(metrics[name]) for name in sorted(metrics)], dtype=torch.float64) / world
        dist.all_reduce(row)
        losses.append({name: repr(x) for name, x in zip(sorted(metrics), row.tolist(), strict=True)})  # as text: NaN is NaN
    return losses


def one_life(rank: int, folder: str, world: int, stage: Stage, precision: Precision, adapter: bool) -> None:
    """Train, save after some steps, train on."""
    zero_material.WORLD = world
    with together(rank, folder):
        networks, engines = built(stage, precision, world, None, adapter)
        trained(networks, range(BEFORE), rank, world)
        about = {}
        for role, engine in engines.items():
            tensors = dict(x for piece in engine.pieces() for x in piece.tensors())
            save_file({key: x.float().clone() for key, x in tensors.items()}, f"{folder}/{role}.{rank}.safetensors")
            about[role] = {"steps": engine.steps, "shapes": shapes_of(engine.network.named_parameters())}
        rest = trained(networks, range(BEFORE, BEFORE + AFTER), rank, world)
        Path(folder, f"life.{rank}.json").write_text(json.dumps({"about": about, "rest": rest}))


def another_life(rank: int, folder: str, before: str, world: int, stage: Stage, precision: Precision, adapter: bool) -> None:
    """Go on from what the first one saved."""
    zero_material.WORLD = world
    with together(rank, folder):
        about = json.loads(Path(before, "life.0.json").read_text())["about"]
        saved = {role: source_of(before, role, about[role]["shapes"]) for role in about}
        networks, engines = built(stage, precision, world, saved, adapter)
        for role, engine in engines.items():
            engine.restore(saved[role], about[role]["steps"])
            assert engine.steps == about[role]["steps"] == BEFORE * (OBJECTIVE.fake.updates if role == "fake" else 1)
        rest = trained(networks, range(BEFORE, BEFORE + AFTER), rank, world)
        Path(folder, f"life.{rank}.json").write_text(json.dumps({"rest": rest}))


def source_of(folder: str, role: str, shapes: dict[str, list[int]]) -> Source:
    tensors = {key: x for file in sorted(Path(folder).glob(f"{role}.*")) for key, x in load_file(file).items()}
    source = Source({name: tuple(s) for name, s in shapes.items()}, {key: len(x) for key, x in tensors.items()}, tensors.__getitem__)
    source.check()
    return source


def rest_of(folder: Path) -> list[dict[str, str]]:
    return json.loads((folder / "life.0.json").read_text())["rest"]


WAYS: list[tuple[Stage, Precision]] = [(1, "fp32"), (0, "fp32"), (2, "fp32"), (3, "fp32"), (3, "bf16"), (1, "bf16"), (2, "bf16")]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision"), WAYS)
def test_what_is_taken_up_goes_on_bit_for_bit(tmp_path: Path, stage: Stage, precision: Precision) -> None:
    """Two processes, two engines: not one digit of the next losses and norms differs."""
    first, again, alone = (tmp_path / name for name in ("first", "again", "alone"))
    for folder in (first, again, alone):
        folder.mkdir()
    run_processes(one_life, (str(first), 2, stage, precision, False), 2)
    run_processes(another_life, (str(again), str(first), 2, stage, precision, False), 2)
    assert rest_of(again) == rest_of(first)
    other: Stage = (3, 0 if precision == "fp32" else 3, 1, 2)[stage]
    near = 1e-4 if precision == "fp32" else 3e-2
    run_processes(another_life, (str(alone), str(first), 1, other, precision, False), 1)
    for a, b in zip(rest_of(alone), rest_of(first), strict=True):
        numbers = [{name: float(x) for name, x in row.items() if "norm" not in name} for row in (a, b)]  # stage 0 knows no norm
        assert numbers[0] == pytest.approx(numbers[1], rel=near, abs=near / 10), f"one process at stage {other}"


@pytest.mark.slow
def test_an_adapter_is_taken_up_too(tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    for folder in (first, again):
        folder.mkdir()
    run_processes(one_life, (str(first), 2, 1, "fp32", True), 2)
    run_processes(another_life, (str(again), str(first), 2, 1, "fp32", True), 2)
    assert rest_of(again) == rest_of(first)


def test_state_that_is_not_whole_is_refused() -> None:
    shapes = {"a": (2, 3), "b": (4,)}
    lengths = {"a@0/weight": 4, "a@4/weight": 2, "b@0/weight": 4, "b@0/exp_avg": 4}
    tensors = {key: torch.arange(float(n)) for key, n in lengths.items()}
    whole = Source(shapes, lengths, tensors.__getitem__)
    whole.check()
    assert whole.read("a").tolist() == [[0, 1, 2], [3, 0, 1]]
    assert whole.stretch("a", "weight", 3, 5).tolist() == [3, 0]
    assert (whole.moments("a"), whole.moments("b")) == ([], ["exp_avg"])
    for change, words in [
        ({"a@4/weight": None}, "a: its weight is not there exactly once from element 4 of 6 on"),
        ({"a@3/weight": 3}, "a: its weight is not there exactly once from element 4 of 6 on"),
        ({"a@6/weight": 1}, "a: its weight"),
        ({"b@0/exp_avg": 3}, "b: its exp_avg is not there exactly once from element 3 of 4 on"),
        ({"c@0/weight": 1}, "c: there are pieces of it, and it is no parameter"),
    ]:
        other = {key: n for key, n in (lengths | change).items() if n is not None}
        with pytest.raises(ValueError, match=words):
            Source(shapes, other, tensors.__getitem__).check()
