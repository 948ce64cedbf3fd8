"""What `plan` says of memory and time, against what processes are measured to take.

    memory   a case a process (or several, by gloo): networks, engine and steps as a stage has them; most at the start and in the third
             step, less what the process had after imports and a first small training. CPU: VmHWM; GPU: torch.cuda.max_memory_allocated
    time     the same steps, on a GPU in bf16; some cases calibrate, another one, of other size and other clips, is predicted

Without DeepSpeed (a bare GPU machine) the plain engine takes its place: one process, as ZeRO 0; in bf16 with masters as DeepSpeed has them.
Weights and clips are random.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..model.activations import FP32, Activations
from ..model.arithmetic import Arithmetic
from ..model.ema import ema_update
from ..model.execution import ExecutionConfig
from ..model.objective import ObjectiveConfig
from ..model.presets import Preset
from ..model.transformer import AVTransformer
from ..model.trunk import TransformerConfig
from ..model.types import MODALITIES
from ..orchestration.planning.calibration import Calibration, Measured, fitted, write_calibration
from ..orchestration.planning.gpus import GPUS
from ..orchestration.planning.memory import Load, moments, peak
from ..orchestration.planning.timing import Step, work
from ..workers.optimizer import OptimizerConfig
from ..workers.train_step import Networks, flow_step, mutual_step
from ._gauge import Gauge
from ._half_engine import half_engine
from .step import Size, material

GRID, STEPS = 16, 3
BF16 = 2
SMALL_PARAMETERS = 100_000  # `workers.engine.PERSISTENT`, which wants DeepSpeed
OBJECTIVE = ObjectiveConfig()


@dataclass(frozen=True)
class Case:
    """A stage in small. clips, chunks: of a process's forward; every: of `execution.checkpoint_every`; item: bytes of a number of a
    network; use: what it is for.
    """

    name: str
    width: int
    depth: int
    clips: int
    chunks: int = 4
    mutual: bool = False
    every: int = 0
    zero: int = 1
    ranks: int = 1
    item: int = FP32
    use: str = "memory"

    @property
    def size(self) -> Size:
        network = TransformerConfig(video_width=self.width, audio_width=self.width, depth=self.depth, heads=self.width // 64, head_dim=64)
        return Size(self.clips, self.chunks, GRID, 1, network)


CASES = (
    Case("joint", 768, 4, 2),
    Case("joint, all layers computed again", 768, 4, 2, every=1),
    Case("mutual, full fake score", 640, 3, 1, mutual=True),
    Case("joint, ZeRO 2, 2 processes", 768, 3, 1, zero=2, ranks=2),
    Case("joint, ZeRO 3, 2 processes", 768, 3, 1, zero=3, ranks=2),
    Case("narrow", 384, 4, 1, use="calibrate"),
    Case("narrow, 4 clips", 384, 4, 4, use="calibrate"),
    Case("wider, 2 clips", 512, 4, 2, use="predict"),
)


def small(case: Case) -> Case:
    """The same case for a test that has no minute: no figure of it means anything."""
    return replace(case, width=128, depth=2)


def precision_of(case: Case) -> str:
    return "fp32" if case.item == FP32 else "bf16"


def in_precision(case: Case, precision: str) -> Case:
    """A case of the time part in it; memory is measured in the precision that the case names."""
    return case if case.use == "memory" else replace(case, item=FP32 if precision == "fp32" else BF16)


def of_case(case: Case) -> tuple[Arithmetic, int]:
    """Its arithmetic, and the words of a clip; `material` has 8 words of caption and 16 of transcript."""
    size = case.size
    return Arithmetic(Preset(size.model, size.timeline), GRID, GRID, torch.empty(0, 2), 8), 16


def load_of(case: Case, gpu: bool) -> Load:
    """What the plan's model of memory is given."""
    of, words = of_case(case)
    sizes = [p.numel() for p in of.preset.meta().parameters()]
    live, total = Activations(of, case.chunks, words, case.item), sum(sizes)
    return Load(
        weights=total,
        trained=total,
        largest=max(sizes),
        small=sum(n for n in sizes if n <= SMALL_PARAMETERS),
        item=case.item,
        zero=case.zero,
        ranks=case.ranks,
        live=live,
        teacher=replace(live, item=FP32),
        every=case.every,
        clips=case.clips,
        backwards=3 if case.mutual else 1,
        read=2 * case.clips if case.mutual else 0,
        fake=total if case.mutual else 0,
        lazy=not gpu,
    )


def step_of(case: Case) -> Step:
    """What the plan's model of time is given."""
    held = load_of(case, gpu=False)
    of, words = of_case(case)
    clips, counts = (case.clips, case.clips), (held.weights, held.trained, held.fake)
    return Step(of, case.chunks, words, *clips, case.mutual, OBJECTIVE, *counts, case.zero, case.ranks, case.item, case.every)


# --- in a process of its own ----------------------------------------------------------------------------------------------


def _engine(case: Case, network: AVTransformer) -> Any:
    groups, optimizer = network.parameter_groups(MODALITIES, 1.0), OptimizerConfig()
    if find_spec("deepspeed") is None:
        from ..workers.plain_engine import PlainEngine

        return PlainEngine(network, groups, optimizer) if case.item == FP32 else half_engine(network, groups, optimizer)
    from ..workers.engine import Engine, EngineConfig

    return Engine(network, groups, optimizer, EngineConfig(case.zero, precision_of(case)), case.clips)  # pyright: ignore[reportArgumentType]


class Stage:
    """The networks of a stage, in the order in which `StageRun` makes them."""

    def __init__(self, case: Case, device: str) -> None:
        size, execution = case.size, ExecutionConfig(checkpoint_every=case.every)

        def new() -> AVTransformer:
            torch.manual_seed(0)
            return AVTransformer(size.model, size.timeline, execution).to(device)

        self._ema = new().requires_grad_(False)
        self._live = _engine(case, new())
        self._fake = _engine(case, new()) if case.mutual else None
        self._batch, self._rollout, self._noise = material(size, device)
        self._mutual = case.mutual

    def step(self) -> None:
        networks = Networks(self._live, self._ema, self._fake)
        if self._mutual:
            mutual_step(networks, self._batch, self._rollout, self._noise, OBJECTIVE, 1e-4)
        else:
            flow_step(networks, self._batch, self._noise, OBJECTIVE, 1e-4)
        each = self._live.each() if hasattr(self._live, "each") else self._live.network.parameters()
        ema_update(self._ema.parameters(), each, 0.99)


def measured(case: Case, rank: int, port: int, device: str) -> dict[str, Any]:
    """One process of a case: bytes at most at its start and in its last step, seconds of its steps after the first."""
    torch.set_num_threads(1)
    if find_spec("deepspeed") is not None:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(case.ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        torch.distributed.init_process_group("gloo" if device == "cpu" else "nccl", rank=rank, world_size=case.ranks)
    first = Stage(small(case), device)  # what is loaded and made once: libraries, kernels, groups
    for _ in range(2):
        first.step()
    del first
    gc.collect()
    gauge = Gauge(device)
    stage = Stage(case, device)
    start, seconds = gauge.most(), []
    step = 0
    for _ in range(STEPS):
        began = time.perf_counter()
        stage.step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        step = gauge.most()
    return {"start": start, "step": step, "seconds": median(seconds[1:])}


# --- the table -------------------------------------------------------------------------------------------------------------


def run_case(case: Case, device: str) -> dict[str, Any]:
    """The case in processes of its own; the first one's figures.

    Raises:
        RuntimeError: one of them failed; its last line.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back at once
    root = Path(__file__).resolve().parents[1]
    child = [sys.executable, str(root), "bench", "plan", "--case", json.dumps(asdict(case)), "--device", device, "--port", str(port)]
    running = [
        subprocess.Popen([*child, "--rank", str(rank)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(case.ranks)
    ]
    told = [process.communicate() for process in running]
    for process, (_, error) in zip(running, told, strict=True):
        if process.returncode:
            raise RuntimeError(f"case {case.name!r}: {(error.strip().splitlines() or ['it failed'])[-1]}")
    return json.loads(told[0][0].strip().splitlines()[-1])


def row_of(case: Case, found: dict[str, Any], gpu: bool) -> dict[str, Any]:
    """Predicted next to measured, in GB."""
    held = load_of(case, gpu)
    every = moments(held)
    start = max(m.total for m in every if m.name.startswith("start"))
    step = max((m for m in every if not m.name.startswith("start")), key=lambda m: m.total)
    done = work(step_of(case))
    return {
        "name": case.name,
        "use": case.use,
        "precision": precision_of(case),
        "parameters": held.weights,
        "start_gb": round(found["start"] / 1e9, 3),
        "start_predicted_gb": round(start / 1e9, 3),
        "step_gb": round(found["step"] / 1e9, 3),
        "step_predicted_gb": round(step.total / 1e9, 3),
        "peak_error": round(peak(held).total / max(found["start"], found["step"]) - 1, 4),
        "moment": step.name,
        "parts_gb": {name: round(value / 1e9, 3) for name, value in step.parts.items() if value},
        "flops": done.flops + done.taught,
        "bytes": done.moved,
        "seconds": round(found["seconds"], 6),
    }


def timed(rows: list[dict[str, Any]], bandwidth: float = 10e9) -> tuple[Measured, ...]:
    """The rows that calibrate; speeds are then set by them alone. bandwidth: bytes/s of memory, where they do not tell."""
    steps = tuple(Measured(r["flops"], r["bytes"], r["seconds"]) for r in rows if r["use"] == "calibrate")
    if steps:
        speed, moved = fitted(steps, bandwidth)
        for row in rows:
            if row["use"] == "predict":
                row["seconds_predicted"] = round(row["flops"] / speed + row["bytes"] / moved, 6)
                row["seconds_error"] = round(row["seconds_predicted"] / row["seconds"] - 1, 4)
    return steps


def measure(cases: list[Case], device: str) -> dict[str, Any]:
    """All cases, one after the other."""
    deepspeed = find_spec("deepspeed") is not None
    fitting = [c if deepspeed else replace(c, zero=0) for c in cases if deepspeed or c.ranks == 1]
    rows = [row_of(case, run_case(case, device), device == "cuda") for case in fitting]
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    timed(rows, next((card.bandwidth for card in GPUS.values() if card.name == name), 10e9))
    memory = [abs(row["peak_error"]) for row in rows if row["use"] == "memory"]
    times = [abs(row["seconds_error"]) for row in rows if "seconds_error" in row]
    return {
        "name": "plan",
        "device": name,
        "engine": "deepspeed" if deepspeed else "plain",
        "rows": rows,
        "worst_memory_error": max(memory, default=None),
        "worst_time_error": max(times, default=None),
    }


def calibration_of(figures: dict[str, Any]) -> Calibration:
    """Of the rows that calibrate, which are all of one precision."""
    steps = timed(figures["rows"])
    (precision,) = {row["precision"] for row in figures["rows"] if row["use"] == "calibrate"}
    return Calibration(figures["device"], precision, steps)


def summary(figures: dict[str, Any]) -> str:
    """A line a case."""
    lines = [f"{figures['device']}, {figures['engine']}: GB at the start and in a step, predicted / measured"]
    for r in figures["rows"]:
        lines.append(
            f"  {r['name']:<34} {r['precision']} {r['parameters'] / 1e6:6.1f} M  "
            f"start {r['start_predicted_gb']:.2f} / {r['start_gb']:.2f}  step {r['step_predicted_gb']:.2f} / {r['step_gb']:.2f}  "
            f"most {100 * r['peak_error']:+.1f} %  {r['seconds']:.2f} s"
            + (f", predicted {r['seconds_predicted']:.2f} s ({100 * r['seconds_error']:+.1f} %)" if "seconds_error" in r else "")
        )
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench plan", description="What `plan` says, against what is measured.")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--quick", action="store_true", help="tiny networks: whether it runs, not what is true")
    parser.add_argument("--use", choices=("memory", "time"), help="one of the two parts alone")
    parser.add_argument("--only", type=int, action="append", help="the case of that number alone (repeatable)")
    parser.add_argument("--calibrate", help="write the measured speeds here, for `plan --calibration`")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="of the time part (default: bf16 on cuda, fp32 on cpu)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        print(json.dumps(measured(Case(**json.loads(options.case)), options.rank, options.port, options.device)))
        return 0
    cases = [c for i, c in enumerate(CASES) if not options.only or i in options.only]
    cases = [c for c in cases if not options.use or (c.use == "memory") == (options.use == "memory")]
    precision = options.precision or ("bf16" if options.device == "cuda" else "fp32")
    cases = [in_precision(c, precision) for c in cases]
    if options.calibrate and not any(c.use == "calibrate" for c in cases):
        parser.error("--calibrate: none of these cases measures speeds; leave out --only, or give --use time")
    figures = measure([small(c) for c in cases] if options.quick else cases, options.device)
    if options.calibrate:
        write_calibration(Path(options.calibrate), calibration_of(figures))
    print(json.dumps(figures) if options.json else summary(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
