"""`bench plan`: its arithmetic with measurements that are made up, and its engine in bf16. No process is started, nothing is measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mutual_forcing.benchmarks._half_engine import half_engine
from mutual_forcing.benchmarks.plan import (
    CASES,
    OBJECTIVE,
    Case,
    calibration_of,
    in_precision,
    load_of,
    main,
    precision_of,
    row_of,
    small,
    step_of,
    summary,
    timed,
)
from mutual_forcing.benchmarks.step import material
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import MODALITIES, AVBatch
from mutual_forcing.orchestration.planning.memory import moments
from mutual_forcing.orchestration.planning.timing import work
from mutual_forcing.workers.optimizer import OptimizerConfig
from mutual_forcing.workers.plain_engine import PlainEngine
from mutual_forcing.workers.train_step import Networks, flow_step

JOINT = small(Case("joint", 768, 4, 2))


def test_a_row_holds_what_is_predicted_against_what_was_measured() -> None:
    every = moments(load_of(JOINT, gpu=False))
    start = max(m.total for m in every if m.name == "start")
    step = max(m.total for m in every if m.name != "start")
    assert step > start
    row = row_of(JOINT, {"start": start, "step": step / 1.25, "seconds": 0.0123456}, gpu=False)
    assert row["peak_error"] == pytest.approx(0.25, abs=1e-3)
    assert row["seconds"] == 0.012346
    assert row["precision"] == "fp32"
    assert row["bytes"] == (7 + 3) * 4 * row["parameters"]  # AdamW reads 4 numbers of a weight and writes 3, the average 2 and 1
    assert row["flops"] == work(step_of(JOINT)).flops
    assert f"most {100 * row['peak_error']:+.1f} %" in summary({"device": "cpu", "engine": "plain", "rows": [row]})


def test_the_row_that_is_predicted_has_no_say_in_the_speeds() -> None:
    """2 x 10^12 FLOP/s and 10^10 bytes/s: 0.6 s and 0.3 s calibrate; 1e12 FLOPs and 2e9 bytes are then 0.7 s."""
    rows = [
        {"use": "calibrate", "flops": 1e12, "bytes": 1e9, "seconds": 0.6},
        {"use": "calibrate", "flops": 2e11, "bytes": 2e9, "seconds": 0.3},
        {"use": "predict", "flops": 1e12, "bytes": 2e9, "seconds": 0.56},
    ]
    steps = timed(rows)
    assert [s.seconds for s in steps] == [0.6, 0.3]
    assert rows[2]["seconds_predicted"] == pytest.approx(0.7)
    assert rows[2]["seconds_error"] == pytest.approx(0.25)


def test_a_calibration_has_the_device_and_the_precision_of_its_rows() -> None:
    found = {"start": 1e8, "step": 2e8, "seconds": 0.25}
    cases = [in_precision(small(case), "bf16") for case in CASES if case.ranks == 1]
    made = calibration_of({"device": "NVIDIA H200", "rows": [row_of(case, found, gpu=True) for case in cases]})
    assert (made.device, made.precision) == ("NVIDIA H200", "bf16")
    assert [step.seconds for step in made.steps] == [0.25, 0.25]


def test_the_time_part_has_the_precision_that_is_asked_for() -> None:
    half = [in_precision(case, "bf16") for case in CASES]
    assert {precision_of(case) for case in half if case.use != "memory"} == {"bf16"}
    assert [case for case in half if case.use == "memory"] == [case for case in CASES if case.use == "memory"]
    assert [in_precision(case, "fp32") for case in half] == list(CASES)


def test_a_calibration_without_a_case_that_measures_speeds_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--use", "memory", "--calibrate", str(tmp_path / "c.json"), "--device", "cpu"])
    assert "--calibrate: none of these cases" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()


def stepped(engine: PlainEngine, network: AVTransformer, batch: AVBatch, noise: PositionalNoise) -> list[float]:
    return [float(flow_step(Networks(engine, network), batch, noise, OBJECTIVE, 1e-3)["loss"]) for _ in range(3)]


def test_the_engine_in_bf16_keeps_masters_that_learn_as_those_of_fp32() -> None:
    size = replace(JOINT, clips=1, chunks=2).size
    batch, _, noise = material(size, "cpu")

    def made() -> AVTransformer:
        torch.manual_seed(0)
        return AVTransformer(size.model, size.timeline)

    whole, rounded = made(), made()
    options = OptimizerConfig()
    plain = PlainEngine(whole, whole.parameter_groups(MODALITIES, 1.0), options)
    half = half_engine(rounded, rounded.parameter_groups(MODALITIES, 1.0), options)
    assert {p.dtype for p in rounded.parameters()} == {torch.bfloat16}
    before = [p.clone() for p in rounded.parameters()]
    exact, near = stepped(plain, whole, batch, noise), stepped(half, rounded, batch, noise)
    assert near == pytest.approx(exact, rel=0.02)
    assert exact[-1] < exact[0]
    assert any(not torch.equal(p, was) for p, was in zip(rounded.parameters(), before, strict=True))
