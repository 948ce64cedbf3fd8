"""The paper's ablation on a toy: do the two modes lift each other, and do later windows of a long clip degrade?

For every seed one `joint` start is trained on true history; from it each recipe trains with the same clips, noise and number of steps.
Each is then asked for 25 s clips under held-out controls, with 4 and 8 evaluations a chunk and, where it has a MULTI mode, with 50 guided
steps (100 evaluations), and is judged in windows against real clips (`_toy_judge`).

    joint start  ->  train(recipe)  ->  generate  ->  judge  ->  OUT/seed-S/RECIPE.json  ->  summary of all seeds: table, plot, JSON

Every (recipe, seed) is one file, written when it is finished: the same command continues where it was stopped. The training step is the
trainers' own (`workers.train_step`), its rollouts are made in place by the averaged weights: `max_age = 0`. Needs PyTorch alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model.ema import ema_decay, ema_update
from ..model.evaluation import history_use
from ..model.noise import PositionalNoise, position_seed
from ..model.objective import DmdConfig, HistoryConfig, ObjectiveConfig, ShortcutConfig, variants
from ..model.sampler import SamplerConfig, few_mode, generate, roll_out
from ..model.transformer import AVTransformer
from ..model.types import AV, MODALITIES, AVBatch
from ..workers.optimizer import OptimizerConfig
from ..workers.plain_engine import PlainEngine
from ..workers.train_step import Metrics, Networks, flow_step, mutual_step
from ._toy import CHUNKS, CLOCK, NETWORK, collate, make_clip
from ._toy_judge import WINDOWS, Judge

RECIPES = tuple(variants(ObjectiveConfig()))
BASELINES = ("sc-tf", "dmd-tf", "dmd-sf")
START = "joint"
GUIDANCES = (1.0, 1.5, 2.0, 3.0, 5.0)
HELD_OUT, OTHER, PICK = 10_000_000, 20_000_000, 30_000_000  # where the clips of each use begin; training clips begin at 0


@dataclass(frozen=True)
class Scale:
    """How much of everything. clips: of each window's comparison; per_clip: chunks that each gives to a window."""

    joint_steps: int = 5000
    steps: int = 300
    batch: int = 16
    clips: int = 400
    per_clip: int = 10
    pick_clips: int = 100
    multi_steps: int = 50
    windows: dict[str, tuple[int, int]] = field(default_factory=lambda: dict(WINDOWS))
    joint_optimizer: OptimizerConfig = OptimizerConfig(lr=2e-3, clip=1.0, warmup=0.02, decay=0.5, final_lr_share=0.05)
    optimizer: OptimizerConfig = OptimizerConfig(lr=2e-4, clip=1.0, warmup=0.05)
    ema: float = 0.99
    objective: ObjectiveConfig = ObjectiveConfig(
        history=HistoryConfig(), shortcut=ShortcutConfig(guidance=1.5), dmd=DmdConfig(guidance=1.5)
    )


TOY = Scale()
QUICK = Scale(
    joint_steps=60, steps=4, batch=8, clips=24, per_clip=10, pick_clips=8, multi_steps=4, windows={"0-5": (0, 10), "5-10": (10, 20)}
)


@lru_cache(maxsize=4)
def _batch(first: int, count: int, chunks: int) -> AVBatch:
    """Clips `first`, `first` + 1, ...; what training draws is never among what it is judged by."""
    return collate([make_clip(first + i, chunks) for i in range(count)], chunks, range(first, first + count))


def _network(seed: int, device: str, weights: dict[str, Tensor] | None = None) -> AVTransformer:
    torch.manual_seed(position_seed(seed, "ablation", "init"))
    network = AVTransformer(NETWORK, CLOCK)
    if weights is not None:
        network.load_state_dict(weights)
    return network.to(device)


def _noise(seed: int, use: str, positions: tuple[int, ...], device: str) -> PositionalNoise:
    return PositionalNoise([(seed, use, p) for p in positions], device)


def train_joint(scale: Scale, seed: int, device: str) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """The start of all recipes: flow matching on true history from random weights; the averaged weights and a sparse record."""
    network = _network(seed, device)
    ema = _network(seed, device).requires_grad_(False)
    engine = PlainEngine(network, network.parameter_groups(MODALITIES, 1.0), scale.joint_optimizer)
    record: list[dict[str, float]] = []
    for step in range(scale.joint_steps):
        batch = _training_batch(scale, seed, START, step).to(device)
        noise = _noise(seed, START, batch.positions, device)
        metrics = flow_step(Networks(engine, ema), batch, noise, scale.objective, scale.joint_optimizer.rate(step, scale.joint_steps))
        ema_update(ema.parameters(), network.parameters(), ema_decay(0.999, step))
        _note(record, step, scale.joint_steps, metrics)
    return {k: v.cpu() for k, v in ema.state_dict().items()}, record


def train_recipe(
    scale: Scale, recipe: str, seed: int, start: dict[str, Tensor], device: str
) -> tuple[AVTransformer, list[dict[str, float]]]:
    """`scale.steps` dual-mode steps of a recipe from the joint start; the averaged network and a sparse record."""
    o = variants(scale.objective)[recipe]
    live, fake, ema, frozen = (_network(seed, device, start) for _ in range(4))
    networks = Networks(
        PlainEngine(live, live.parameter_groups(MODALITIES, o.few.lr_ratio), scale.optimizer),
        ema.requires_grad_(False),
        PlainEngine(fake, [(1.0, list(fake.parameters()))], scale.optimizer) if o.w_dmd > 0 else None,
        frozen.requires_grad_(False),
    )
    record: list[dict[str, float]] = []
    for step in range(scale.steps):
        batch = _training_batch(scale, seed, "mutual", step).to(device)  # the same clips and noise for every recipe
        noise = _noise(seed, "mutual", batch.positions, device)
        rollout = None
        if o.needs_rollouts:
            made = _noise(seed, "rollout", batch.positions, device)
            rollout = roll_out(ema, batch.latents, batch.controls, batch.layout, o, made, version=step)
        metrics = mutual_step(networks, batch, rollout, noise, o, scale.optimizer.rate(step, scale.steps))
        if not metrics["skipped"]:
            ema_update(ema.parameters(), live.parameters(), ema_decay(scale.ema, step))
        _note(record, step, scale.steps, metrics)
    return ema, record


def _training_batch(scale: Scale, seed: int, stage: str, step: int) -> AVBatch:
    """Fresh clips at every step: the toy has no end of data, so nothing is learnt by heart."""
    first = (seed * 2 + (stage != START)) * 1_000_000 + step * scale.batch
    return _batch(first, scale.batch, CHUNKS)


def _note(record: list[dict[str, float]], step: int, steps: int, metrics: Metrics) -> None:
    if step % max(1, steps // 50) == 0 or step + 1 == steps:
        record.append({"step": step} | {k: round(float(v), 5) for k, v in metrics.items()})


def sample(network: AVTransformer, batch: AVBatch, chunks: int, sampler: SamplerConfig, seed: int, device: str) -> AV:
    """Clips under the controls and first frames of `batch`, first frame included."""
    on_device = batch.to(device)
    first, audio = on_device.latents.get("video")[:, :1], on_device.latents.get("audio")
    noise = _noise(seed, "sample", batch.positions, device)
    made = list(generate(network, on_device.controls, first, (audio.shape[0], audio.shape[2]), chunks, sampler, noise))
    video = torch.cat([first, *(x.get("video") for x in made)], dim=1)
    return AV(video, torch.cat([x.get("audio") for x in made], dim=1)).to("cpu")


def _judge(scale: Scale, first: int, clips: int, windows: dict[str, tuple[int, int]]) -> tuple[AVBatch, Judge]:
    chunks = max(last for _, last in windows.values())
    batch = _batch(first, clips, chunks)
    return batch, Judge(batch.latents, _batch(OTHER, clips, chunks).latents, scale.per_clip, windows)


def pick_guidance(scale: Scale, network: AVTransformer, seed: int, device: str) -> tuple[float, dict[str, float]]:
    """MULTI's best guidance by the joint distance of the first window, on clips that are used for nothing else."""
    windows = dict(list(scale.windows.items())[:1])
    batch, judge = _judge(scale, PICK, scale.pick_clips, windows)
    chunks = max(last for _, last in windows.values())
    found = {}
    for g in GUIDANCES:
        made = sample(network, batch, chunks, SamplerConfig("multi", scale.multi_steps, guidance=g), seed, device)
        found[str(g)] = next(iter(judge.figures(made).values()))["frechet_joint"]
    return float(min(found, key=found.__getitem__)), found


def measure(scale: Scale, recipe: str, network: AVTransformer, seed: int, device: str) -> dict[str, Any]:
    """Figures of one trained network in each way of sampling it."""
    o = variants(scale.objective).get(recipe, scale.objective)
    batch, judge = _judge(scale, HELD_OUT, scale.clips, scale.windows)
    chunks = max(last for _, last in scale.windows.values())
    samplers = {f"few{n}": few_mode(o, n) for n in (4, 8)}
    record: dict[str, Any] = {}
    if o.w_fm > 0:  # the recipes of DMD alone let go of the MULTI mode
        record["guidance"], record["guidances"] = pick_guidance(scale, network, seed, device)
        samplers["multi"] = SamplerConfig("multi", scale.multi_steps, guidance=record["guidance"])
    for name, sampler in samplers.items():
        began = time.monotonic()
        made = sample(network, batch, chunks, sampler, seed, device)
        record[name] = {"evaluations": sampler.evaluations, "seconds": round(time.monotonic() - began, 1), "windows": judge.figures(made)}
    probe = _batch(HELD_OUT, min(128, scale.clips), CHUNKS).to(device)
    record["history_use"] = history_use(network, probe, _noise(seed, "history", probe.positions, device))
    return record


def run_task(scale: Scale, recipe: str, seed: int, device: str, out: str) -> str:
    """Train and measure one (recipe, seed), or the joint start of a seed; writes its file last."""
    torch.set_num_threads(1 if device == "cpu" else torch.get_num_threads())
    folder = Path(out) / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    weights = folder / "joint.pt"
    if recipe == START:
        start, training = train_joint(scale, seed, device)
        _save(weights, start)
        network = _network(seed, device, start)
    else:
        start = torch.load(weights, weights_only=True)
        network, training = train_recipe(scale, recipe, seed, start, device)
    trained = time.monotonic() - began
    network.eval().requires_grad_(False)
    record = {"recipe": recipe, "seed": seed, "scale": _plain(scale), "train_seconds": round(trained, 1), "training": training}
    record |= measure(scale, recipe, network, seed, device)
    record["seconds"] = round(time.monotonic() - began, 1)
    path = folder / f"{recipe}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record))
    os.replace(part, path)
    return f"seed {seed} {recipe}: {record['seconds']:.0f} s, few4 " + ", ".join(
        f"{w} {x['frechet_joint']:.3f}" for w, x in record["few4"]["windows"].items()
    )


def _save(path: Path, weights: dict[str, Tensor]) -> None:
    part = path.with_suffix(".part")
    torch.save(weights, part)
    os.replace(part, path)


def _plain(scale: Scale) -> dict[str, Any]:
    """What the figures depend on, as JSON gives it back."""
    return json.loads(json.dumps(asdict(scale)))


def _finished(out: Path, scale: Scale, recipe: str, seed: int) -> bool:
    path = out / f"seed-{seed}" / f"{recipe}.json"
    if not path.is_file():
        return False
    if json.loads(path.read_text())["scale"] != _plain(scale):
        raise ValueError(f"--out={str(out)!r}: {path} was measured at another scale; choose another folder")
    return True


def run_all(scale: Scale, recipes: list[str], seeds: list[int], device: str, out: Path, jobs: int) -> None:
    """Every (recipe, seed) that has no file yet, `jobs` at a time; a seed's recipes start when its joint start is there."""
    waiting = {s: [r for r in recipes if not _finished(out, scale, r, s)] for s in seeds}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:

        def submit(recipe: str, seed: int) -> Future[str]:
            return pool.submit(run_task, scale, recipe, seed, device, str(out))

        pending: dict[Future[str], tuple[str, int]] = {}
        for seed in seeds:
            if not _finished(out, scale, START, seed):
                pending[submit(START, seed)] = (START, seed)
            else:
                pending |= {submit(r, seed): (r, seed) for r in waiting[seed]}
        while pending:
            done = next(as_completed(pending))
            recipe, seed = pending.pop(done)
            print(done.result(), file=sys.stderr, flush=True)
            if recipe == START:
                pending |= {submit(r, seed): (r, seed) for r in waiting[seed]}


# --- the summary of all seeds -------------------------------------------------------------------------------------------------

# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def interval(values: list[float]) -> dict[str, float | None]:
    """Mean and half width of its 95 % interval over seeds (None for one seed)."""
    x = torch.tensor(values, dtype=torch.float64)
    half = None if len(x) < 2 else float(x.std() / len(x) ** 0.5) * STUDENT[min(len(x) - 2, len(STUDENT) - 1)]
    return {"mean": float(x.mean()), "half": half, "seeds": len(values)}


def read_records(out: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Recipe -> seed -> record, of all files below `out`."""
    records: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(out.glob("seed-*/*.json")):
        record = json.loads(path.read_text())
        records.setdefault(record["recipe"], {})[record["seed"]] = record
    return records


def summarise(records: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Intervals of every figure, and the paired comparisons that the targets name."""
    table: dict[str, Any] = {}
    for recipe, seeds in records.items():
        table[recipe] = {}
        for mode in ("few4", "few8", "multi"):
            with_mode = [r for r in seeds.values() if mode in r]
            if with_mode:
                table[recipe][mode] = {
                    window: {name: interval([r[mode]["windows"][window][name] for r in with_mode]) for name in figures}
                    for window, figures in with_mode[0][mode]["windows"].items()
                }
        table[recipe]["history_use"] = {m: interval([r["history_use"][m] for r in seeds.values()]) for m in ("video", "audio")}
    return {"recipes": table, "targets": _targets(records)}


def _targets(records: dict[str, dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """The issue's questions, answered seed by seed and then averaged."""
    mutual, joint = records.get("mutual", {}), records.get(START, {})
    both = sorted(mutual.keys() & joint.keys())
    if not both:
        return {}
    windows = list(mutual[both[0]]["few4"]["windows"])
    early, late = windows[0], windows[-1]

    def figure(record: dict[str, Any], mode: str, window: str, name: str = "frechet_joint") -> float:
        return record[mode]["windows"][window][name]

    found: dict[str, Any] = {
        "few4_over_joint_multi_early": interval([figure(mutual[s], "few4", early) / figure(joint[s], "multi", early) for s in both]),
        "sync_minus_real_early": interval([figure(mutual[s], "few4", early, "sync_minus_real") for s in both]),
    }
    for mode in ("few4", "multi"):
        for m in ("video", "audio"):
            for name in ("seam_jump", "seam_correlation"):
                found[f"{name}_{mode}_{m}"] = interval([figure(mutual[s], mode, late, f"{name}_{m}") for s in both])
    for baseline in BASELINES:
        pairs = sorted(mutual.keys() & records.get(baseline, {}).keys())
        if pairs:
            found[f"late_minus_{baseline}"] = interval(
                [figure(mutual[s], "few4", late) - figure(records[baseline][s], "few4", late) for s in pairs]
            )
    return found


def print_table(summary: dict[str, Any]) -> None:
    """Excess joint distance by window, for every recipe and way of sampling."""
    for recipe, modes in summary["recipes"].items():
        for mode in ("few4", "few8", "multi"):
            if mode in modes:
                cells = [f"{w} {_words(x['frechet_joint'])}" for w, x in modes[mode].items()]
                print(f"{recipe:<20} {mode:<6} {'   '.join(cells)}", file=sys.stderr)


def _words(figure: dict[str, Any]) -> str:
    return f"{figure['mean']:7.3f} " + ("(one seed)" if figure["half"] is None else f"± {figure['half']:.3f}")


def plot(summary: dict[str, Any], path: Path) -> None:
    """Excess distance by window, one line a recipe, for four evaluations a chunk; needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for recipe, modes in summary["recipes"].items():
        windows = modes["few4"]
        means = [x["frechet_joint"]["mean"] for x in windows.values()]
        halves = [x["frechet_joint"]["half"] for x in windows.values()]
        bars = None if None in halves else halves
        line = "-" if recipe == "mutual" else "--" if recipe in BASELINES else ":"
        width = 2.5 if recipe == "mutual" else 1.2
        axes.errorbar(list(windows), means, yerr=bars, marker="o", capsize=3, label=recipe, linestyle=line, linewidth=width)
    axes.set(xlabel="window (s)", ylabel="excess Fréchet distance of chunks", title="Four evaluations a chunk", yscale="symlog")
    axes.legend(frameon=False, ncols=3, fontsize="small")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """See the module docstring; prints one JSON object as the last line with --json."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench ablation", description="The paper's ablation on a toy.")
    parser.add_argument("--scale", choices=["toy"], default="toy", help="toy: latent sequences, 0.9 M parameters")
    parser.add_argument("--quick", action="store_true", help="a walk through all parts with too few steps to learn anything")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="comma-separated")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time, one thread each")
    parser.add_argument("--out", default="runs/ablation")
    parser.add_argument("--plot", help="write the plot of the windows to this file")
    options = parser.parse_args(arguments)
    recipes = [r for r in options.recipes.split(",") if r]
    unknown = sorted(set(recipes) - set(RECIPES))
    if unknown:
        raise ValueError(f"--recipes: {', '.join(unknown)} unknown; choose from {', '.join(RECIPES)}")
    if options.seeds < 1 or options.jobs < 1:
        raise ValueError(f"--seeds={options.seeds}, --jobs={options.jobs}: must be at least 1")
    scale = QUICK if options.quick else TOY
    out = Path(options.out) / ("quick" if options.quick else options.scale)
    seeds = list(range(1 if options.quick else options.seeds))
    began = time.monotonic()
    run_all(scale, recipes, seeds, options.device, out, options.jobs)
    summary = summarise(read_records(out))
    print_table(summary)
    if options.plot:
        plot(summary, Path(options.plot))
    if options.json:
        summary |= {"seconds": round(time.monotonic() - began, 1), "runs": len(seeds), "out": str(out)}
        print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
