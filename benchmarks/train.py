"""What the system costs around the maths: Ray Train, loader, DeepSpeed, checkpoints and tracking against a bare loop of plain PyTorch.

    bare loop         one process: batch, flow matching, backward, clip, AdamW, average, and nothing else        samples/s, memory
    the system        a whole run of the same stage on the same clips, one worker of one thread                  samples/s, memory
    with checkpoints  the same, one every so many steps: how much longer do steps take                           share at one a minute
    cold start        from the command to the first step; beside it a bare Ray Train that imports DeepSpeed      seconds

The two loops take turns, because machines are noisy; figures are medians over the rounds. Steps count from the fourth on. The bare loop
draws the same batches in the same order with the same noise: both end with the same loss, or the comparison is void.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
from torch import nn

from ..datasets.reading.loader import LatentDataset
from ..model.ema import ema_decay, ema_update
from ..model.losses import Models, flow_matching
from ..model.noise import PositionalNoise, position_seed
from ..model.transformer import AVTransformer
from ..orchestration.config import RunConfig, SamplesConfig, from_tree, with_settings
from ..orchestration.recipes import recipe
from ..orchestration.run_record import loop_config

WARM = 3  # steps before the first that counts
STAGE = "joint"
COMMAND = "from mutual_forcing.orchestration.main import app_entry; app_entry()"
BARE = "import sys; from mutual_forcing.benchmarks.train import bare_main; bare_main(*sys.argv[1:])"
SYSTEM = """
import json, sys
from pathlib import Path
from mutual_forcing.orchestration.config import from_tree
from mutual_forcing.orchestration.launch import train
train(from_tree(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]), ["bench train"], lambda *_: None, print)
"""
CONTROL = """
import logging, os, sys, time
os.environ |= {"RAY_TRAIN_V2_ENABLED": "1", "DS_ACCELERATOR": "cpu"}
import ray, ray.train
from ray.train.torch import TorchTrainer
def work(settings):
    import deepspeed, torch
    torch.nn.Linear(4, 4)(torch.zeros(1, 4)).sum().backward()
    with open(settings["file"], "w") as file:
        file.write(str(time.time()))
ray.init(num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
scaling = ray.train.ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5})
TorchTrainer(work, train_loop_config={"file": sys.argv[1]}, scaling_config=scaling).fit()
"""


@dataclass(frozen=True)
class Amount:
    """rounds: turns of each loop; steps: of a turn; every: steps between two checkpoints in the turn with checkpoints."""

    rounds: int
    steps: int
    every: int


FULL, QUICK = Amount(rounds=3, steps=120, every=30), Amount(rounds=1, steps=12, every=5)


def config_of(steps: int, settings: list[str]) -> RunConfig:
    """One flow-matching stage of the demo's network on one worker of one thread."""
    base = recipe("demo")
    stage = replace(next(s for s in base.stages if s.name == STAGE), batch=4, steps=steps)
    made = replace(
        base, data=replace(base.data, synthetic_count=24), stages=(stage,), samples=SamplesConfig(clips=1, shown=1, multi_steps=1)
    )
    return with_settings(made, ["workers.count=1", *settings])


@dataclass(frozen=True)
class Turn:
    """What one loop came to. step_s: seconds of each step that counts; rss_mb: the most its processes held together."""

    step_s: list[float]
    rss_mb: float
    loss: float
    cold_s: float = 0.0


def bare(config: RunConfig, run: Path, steps: int) -> Turn:
    """The loop of a paper's repository."""
    loop, (stage,) = loop_config(config, run), config.stages
    clips = LatentDataset(run / "data", config.model.text).stage(config.seed, stage.name, stage.batch)
    torch.manual_seed(position_seed(config.seed, "init"))
    network = AVTransformer(loop.network, loop.timeline)
    average = AVTransformer(loop.network, loop.timeline).requires_grad_(False)
    average.load_state_dict(network.state_dict())
    o, times, loss = stage.optimizer, [], torch.tensor(0.0)
    adamw = torch.optim.AdamW(network.parameters(), lr=o.lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay)
    for step in range(steps):
        start = time.perf_counter()
        positions = range(step * stage.batch, (step + 1) * stage.batch)
        batch = clips.batch(positions)
        noise = PositionalNoise([(config.seed, stage.name, p) for p in positions])
        loss = flow_matching(Models(network, average), batch, None, noise, config.objective).value
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), o.clip)
        for group in adamw.param_groups:
            group["lr"] = o.rate(step, stage.steps)
        adamw.step()
        adamw.zero_grad()
        ema_update(average.parameters(), network.parameters(), ema_decay(stage.ema, step))
        times.append(time.perf_counter() - start)
    return Turn(times[WARM:], psutil.Process().memory_info().rss / 1e6, float(loss))


def system(config: RunConfig, run: Path, every: int = 0) -> Turn:
    """A whole run in a process of its own, as the command makes it, watched from outside. every: steps between two checkpoints."""
    uri = config.checkpoint.uri and f"{config.checkpoint.uri}/{run.name}"
    settled = replace(config, checkpoint=replace(config.checkpoint, every=every, uri=uri))
    tree, spool, most = run.with_suffix(".json"), run / "metrics" / f"{STAGE}.jsonl", [0.0]
    tree.write_text(json.dumps(asdict(settled)))
    start = time.time()
    with run.with_suffix(".log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-c", SYSTEM, str(tree), str(run)], stdout=log, stderr=log, env=_environment())
        watching = threading.Thread(target=_watch, args=(process.pid, most), daemon=True)
        watching.start()
        code = process.wait()
    if code:
        raise ValueError(f"the run failed: {run.with_suffix('.log').read_text().strip().splitlines()[-1]}")
    lines = [line for line in map(json.loads, spool.read_text().splitlines()) if line["metrics"]]
    times = [line["time"] for line in lines]
    gaps = [after - before for before, after in pairwise(times[WARM - 1 :])]
    return Turn(gaps, most[0], lines[-1]["metrics"]["loss"], times[0] - start)


def in_another_process(config: RunConfig, run: Path, steps: int) -> Turn:
    """The bare loop, with the memory of a process that does nothing else."""
    tree = run.with_suffix(".bare.json")
    tree.write_text(json.dumps(asdict(config)))
    made = subprocess.run(
        [sys.executable, "-c", BARE, str(tree), str(run), str(steps)], check=True, capture_output=True, text=True, env=_environment()
    )
    return Turn(**json.loads(made.stdout.splitlines()[-1]))


def bare_main(tree: str, run: str, steps: str) -> None:
    """What that process does."""
    torch.set_num_threads(1)
    print(json.dumps(asdict(bare(from_tree(json.loads(Path(tree).read_text())), Path(run), int(steps)))))


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def _watch(pid: int, most: list[float]) -> None:
    """The memory of a process and all that it started, shared pages counted once for each process that maps them in proportion."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        while process.is_running():
            total = 0.0
            for one in [process, *process.children(recursive=True)]:
                with suppress(psutil.Error):
                    total += one.memory_full_info().pss / 1e6
            most[0] = max(most[0], total)
            time.sleep(1.0)


def control_cold_start(folder: Path) -> float:
    """Seconds until a bare Ray Train worker has imported DeepSpeed and taken a step."""
    script, said = folder / "control.py", folder / "control.txt"
    script.write_text(CONTROL)
    start = time.time()
    subprocess.run([sys.executable, str(script), str(said)], check=True, capture_output=True, env=_environment())
    return float(said.read_text()) - start


def measured(amount: Amount, settings: list[str], folder: Path) -> dict[str, Any]:
    """All turns, and what they come to."""
    config = config_of(amount.steps, settings)
    words = [f"data.synthetic_count={config.data.synthetic_count}"]
    prepare = [sys.executable, "-c", COMMAND, "data", "prepare", "synthetic", "--recipe", "demo", "--out", str(folder / "data")]
    subprocess.run([*prepare, *(w for s in words for w in ("--set", s))], check=True, capture_output=True, env=_environment())
    config = replace(config, data=replace(config.data, prepared=str(folder / "data")))
    control = control_cold_start(folder)
    turns: list[tuple[Turn, Turn]] = []
    for i in range(amount.rounds):
        whole = system(config, folder / f"run-{i}")
        turns.append((in_another_process(config, folder / f"run-{i}", amount.steps), whole))
        _say(f"round {i}: bare {median(turns[-1][0].step_s) * 1e3:.0f} ms a step, the system {median(whole.step_s) * 1e3:.0f} ms")
    saving = system(config, folder / "run-saving", amount.every)
    plain = median(step for _, whole in turns for step in whole.step_s)
    checkpoints = (amount.steps - 1) // amount.every  # that of the end is waited for, and delays no step
    extra = max(0.0, sum(saving.step_s) - plain * len(saving.step_s)) / checkpoints
    ratios = [median(alone.step_s) / median(whole.step_s) for alone, whole in turns]
    colds = [whole.cold_s for _, whole in turns]
    return {
        "name": "train",
        "vs_bare_loop": median(ratios),
        "vs_bare_loop_rounds": ratios,
        "bare_step_ms": 1e3 * median(step for alone, _ in turns for step in alone.step_s),
        "step_ms": 1e3 * plain,
        "losses_differ_by": max(abs(alone.loss - whole.loss) for alone, whole in turns),
        "cold_start_s": median(colds),
        "cold_start_rounds": colds,
        "cold_start_bare_ray_s": control,
        "checkpoint_stall": extra / 60.0,
        "checkpoint_extra_s": extra,
        "rss_overhead_mb": median(whole.rss_mb - alone.rss_mb for alone, whole in turns),
        "rss_bare_mb": median(alone.rss_mb for alone, _ in turns),
        "zero_stage": config.engine.zero_stage,
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench train", description="What the system costs around the maths.")
    parser.add_argument("--quick", action="store_true", help="a few steps once: no figure to quote")
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--set", action="append", default=[], help="a setting of the run, such as engine.zero_stage=0 or checkpoint.uri=s3://bucket/path"
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mf-bench-") as folder:
        figures = measured(QUICK if options.quick else FULL, options.set, Path(folder))
    for key, value in figures.items():
        _say(f"{key:<24} {value if not isinstance(value, float) else f'{value:.4g}'}")
    if options.json:
        print(json.dumps(figures))
    return 0
