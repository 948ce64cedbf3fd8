"""Arms of a comparison on the toy world: train each from the joint start of a seed, sample, judge, and keep one file an (arm, seed).

A file is written when its arm is finished, so the same command continues where it was stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model.evaluation import history_use
from ..model.objective import ObjectiveConfig
from ..model.sampler import SamplerConfig, few_mode
from ..model.transformer import AVTransformer
from ..model.types import AVBatch
from ._toy import CHUNKS
from ._toy_judge import Judge
from ._toy_training import HELD_OUT, OTHER, PICK, START, Scale, clips, new_network, noise_of, sample, train_joint, train_mutual, with_text

GUIDANCES = (1.0, 1.5, 2.0, 3.0, 5.0)
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Arm:
    """One side of a comparison. few: evaluations a chunk in the few-step mode; multi: whether MULTI is sampled too, at its best guidance of
    `guidances`; text: whether clips keep captions and transcripts in training and sampling.
    """

    name: str
    objective: ObjectiveConfig
    few: tuple[int, ...] = (4, 8)
    multi: bool = True
    guidances: tuple[float, ...] = GUIDANCES
    text: bool = True


def judge_of(scale: Scale, first: int, count: int, windows: dict[str, tuple[int, int]]) -> tuple[AVBatch, Judge]:
    """Held-out clips whose controls are sampled under, and the judge of what comes out."""
    chunks = max(last for _, last in windows.values())
    batch = clips(first, count, chunks)
    return batch, Judge(batch.latents, clips(OTHER, count, chunks).latents, scale.per_clip, windows)


def pick_guidance(scale: Scale, arm: Arm, network: AVTransformer, seed: int, device: str) -> dict[str, float]:
    """Guidance -> joint distance of MULTI in the first window, on clips that are used for nothing else."""
    windows = dict(list(scale.windows.items())[:1])
    batch, judge = judge_of(scale, PICK, scale.pick_clips, windows)
    chunks = max(last for _, last in windows.values())
    found = {}
    for g in arm.guidances:
        sampler = SamplerConfig("multi", scale.multi_steps, guidance=g)
        made = sample(network, with_text(batch, arm.text), chunks, sampler, seed, device)
        found[str(g)] = next(iter(judge.figures(made).values()))["frechet_joint"]
    return found


def measure(scale: Scale, arm: Arm, network: AVTransformer, seed: int, device: str) -> dict[str, Any]:
    """Figures of one trained network in each way of sampling it."""
    batch, judge = judge_of(scale, HELD_OUT, scale.clips, scale.windows)
    batch = with_text(batch, arm.text)
    chunks = max(last for _, last in scale.windows.values())
    samplers = {f"few{n}": few_mode(arm.objective, n) for n in arm.few}
    record: dict[str, Any] = {}
    if arm.multi:
        record["guidances"] = pick_guidance(scale, arm, network, seed, device)
        best = min(record["guidances"], key=record["guidances"].__getitem__)
        samplers["multi"] = SamplerConfig("multi", scale.multi_steps, guidance=float(best))
        record["guidance"] = float(best)
    for name, sampler in samplers.items():
        began = time.monotonic()
        made = sample(network, batch, chunks, sampler, seed, device)
        record[name] = {"evaluations": sampler.evaluations, "seconds": round(time.monotonic() - began, 1), "windows": judge.figures(made)}
    probe = with_text(clips(HELD_OUT, min(128, scale.clips), CHUNKS), arm.text).to(device)
    record["history_use"] = history_use(network, probe, noise_of(seed, "history", probe.positions, device), arm.objective)
    return record


def run_arm(scale: Scale, arm: Arm, seed: int, device: str, out: str) -> str:
    """Train and measure one (arm, seed), or the joint start of a seed; writes its file last."""
    torch.set_num_threads(1 if device == "cpu" else torch.get_num_threads())
    folder = Path(out) / f"seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if arm.name == START:
        start, training = train_joint(scale, seed, device)
        _save(_weights(Path(out), seed), start)
        network = new_network(seed, device, start)
    else:
        start = torch.load(_weights(Path(out), seed), weights_only=True)
        network, training = train_mutual(scale, arm.objective, arm.text, seed, start, device)
    trained = time.monotonic() - began
    network.eval().requires_grad_(False)
    record = {"name": arm.name, "seed": seed, "made_with": _plain(scale, arm), "train_seconds": round(trained, 1), "training": training}
    record |= measure(scale, arm, network, seed, device)
    record["seconds"] = round(time.monotonic() - began, 1)
    path = folder / f"{arm.name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record))
    os.replace(part, path)
    windows = record[next(k for k in record if k.startswith("few"))]["windows"]
    return f"seed {seed} {arm.name}: {record['seconds']:.0f} s, " + ", ".join(f"{w} s {x['frechet_joint']:.3f}" for w, x in windows.items())


def _weights(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}" / "joint.pt"


def _save(path: Path, weights: dict[str, Tensor]) -> None:
    part = path.with_suffix(".part")
    torch.save(weights, part)
    os.replace(part, path)


def _plain(scale: Scale, arm: Arm) -> dict[str, Any]:
    """What the figures depend on, as JSON gives it back."""
    return json.loads(json.dumps({"scale": asdict(scale), "arm": asdict(arm)}))


def _finished(out: Path, scale: Scale, arm: Arm, seed: int) -> bool:
    path = out / f"seed-{seed}" / f"{arm.name}.json"
    if not path.is_file():
        return False
    if json.loads(path.read_text())["made_with"] != _plain(scale, arm):
        raise ValueError(f"--out={str(out)!r}: {path} was measured with other settings; choose another folder, or remove the file")
    return True


def run_all(scale: Scale, start: Arm, arms: list[Arm], seeds: list[int], device: str, out: Path, jobs: int) -> None:
    """Every (arm, seed) that has no file yet, `jobs` at a time; a seed's arms begin when the weights of its joint start are there."""
    waiting = {s: [a for a in arms if not _finished(out, scale, a, s)] for s in seeds}
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending: dict[Future[str], tuple[Arm, int]] = {}

        def submit(arm: Arm, seed: int) -> None:
            pending[pool.submit(run_arm, scale, arm, seed, device, str(out))] = (arm, seed)

        for seed in seeds:
            # Kept figures may have come without the weights, which are not part of a record.
            ready = _finished(out, scale, start, seed) and (not waiting[seed] or _weights(out, seed).is_file())
            for arm in waiting[seed] if ready else [start]:
                submit(arm, seed)
        while pending:
            done = next(as_completed(pending))
            arm, seed = pending.pop(done)
            print(done.result(), file=sys.stderr, flush=True)
            for later in waiting[seed] if arm.name == START else []:
                submit(later, seed)


def read_records(out: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Arm -> seed -> record, of all files below `out`."""
    records: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(out.glob("seed-*/*.json")):
        record = json.loads(path.read_text())
        records.setdefault(record["name"], {})[record["seed"]] = record
    return records


def interval(values: list[float]) -> dict[str, float | None]:
    """Mean and half width of its 95 % interval over seeds (None for one seed)."""
    x = torch.tensor(values, dtype=torch.float64)
    half = None if len(x) < 2 else float(x.std() / len(x) ** 0.5) * STUDENT[min(len(x) - 2, len(STUDENT) - 1)]
    return {"mean": float(x.mean()), "half": half, "seeds": len(values)}


def words_of(figure: dict[str, Any]) -> str:
    """A figure with its interval, for a table."""
    return f"{figure['mean']:7.3f} " + ("(one seed)" if figure["half"] is None else f"± {figure['half']:.3f}")
