"""Arms of a comparison on one scale: train each from the joint start of a seed, sample, judge, and keep one file an (arm, seed).

A file is written when its arm is finished, so the same command continues where it was stopped. The joint starts lie in a folder of their
own, by what they were made with: comparisons share them.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..model.evaluation import history_use
from ..model.objective import ObjectiveConfig
from ..model.sampler import SamplerConfig, few_mode
from ..model.transformer import AVTransformer
from ..model.types import AVBatch
from ._judge import Judge
from ._training import (
    START,
    Scale,
    new_network,
    noise_of,
    sample,
    start_settings,
    train_joint,
    train_mutual,
    with_text,
)
from ._world import HELD_OUT, OTHER, PICK, Chunks, Stretch

PROBE = 128  # clips that history use is measured on
GUIDANCES = (1.0, 1.5, 2.0, 3.0, 5.0)


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


def judge_of(scale: Scale, first: int, count: int, windows: dict[str, Chunks]) -> tuple[AVBatch, Judge]:
    """Held-out clips whose controls are sampled under, and the judge of what comes out."""
    chunks = max(last for _, last in windows.values())
    batch = scale.world.clips(first, count, chunks)
    return batch, Judge(scale.world, batch.latents, scale.world.clips(OTHER, count, chunks).latents, scale.per_clip, windows)


def stretches(scale: Scale) -> list[Stretch]:
    """The clips that `measure` reads."""
    long, short = (max(last for _, last in windows) for windows in (scale.windows.values(), list(scale.windows.values())[:1]))
    judged = [(first, scale.clips, long) for first in (HELD_OUT, OTHER)] + [(first, scale.pick_clips, short) for first in (PICK, OTHER)]
    return [*judged, (HELD_OUT, min(PROBE, scale.clips), scale.world.chunks)]


def pick_guidance(scale: Scale, arm: Arm, network: AVTransformer, seed: int, device: str) -> dict[str, float]:
    """Guidance -> joint distance of MULTI in the first window, on people whom nothing else samples (the reference is shared)."""
    windows = dict(list(scale.windows.items())[:1])
    batch, judge = judge_of(scale, PICK, scale.pick_clips, windows)
    chunks = max(last for _, last in windows.values())
    found = {}
    for g in arm.guidances:
        sampler = SamplerConfig("multi", scale.multi_steps, guidance=g, path=arm.objective.path)
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
        samplers["multi"] = SamplerConfig("multi", scale.multi_steps, guidance=float(best), path=arm.objective.path)
        record["guidance"] = float(best)
    for name, sampler in samplers.items():
        began = time.monotonic()
        made = sample(network, batch, chunks, sampler, seed, device)
        record[name] = {"evaluations": sampler.evaluations, "seconds": round(time.monotonic() - began, 1), "windows": judge.figures(made)}
    probe = with_text(scale.world.clips(HELD_OUT, min(PROBE, scale.clips), scale.world.chunks), arm.text).to(device)
    record["history_use"] = history_use(network, probe, noise_of(seed, "history", probe.positions, device), arm.objective)
    return record


@dataclass(frozen=True)
class Place:
    """out: a file an (arm, seed); starts: the joint starts; device: where all of them are trained."""

    out: Path
    starts: Path
    device: str

    def record(self, arm: str, seed: int) -> Path:
        return self.out / f"seed-{seed}" / f"{arm}.json"

    def start(self, scale: Scale, seed: int) -> Path:
        """The start of a seed; another name for other settings."""
        settings = json.dumps(start_settings(scale), sort_keys=True)
        return self.starts / f"{hashlib.sha256(settings.encode()).hexdigest()[:12]}-seed-{seed}.pt"


def run_arm(scale: Scale, arm: Arm, seed: int, place: Place) -> str:
    """Train and measure one (arm, seed), or the joint start of a seed; writes its file last."""
    device = place.device
    torch.set_num_threads(1 if device == "cpu" else torch.get_num_threads())
    torch.set_float32_matmul_precision("highest" if device == "cpu" else scale.world.precision)
    began = time.monotonic()
    kept = place.start(scale, seed)
    if not kept.is_file():
        assert arm.name == START, "a recipe begins when its start is there"
        weights, training = train_joint(scale, seed, device)
        _write(kept, lambda part: torch.save({"weights": weights, "training": training}, part))
    start = torch.load(kept, weights_only=True)
    if arm.name == START:
        network, training = new_network(scale.world, seed, device, start["weights"]), start["training"]
    else:
        network, training = train_mutual(scale, arm.objective, arm.text, seed, start["weights"], device)
    trained = time.monotonic() - began
    network.eval().requires_grad_(False)
    record = {
        "name": arm.name,
        "seed": seed,
        "made_with": settings_of(scale, arm),
        "made_by": {"torch": torch.__version__, "package": __version__},
    }
    record |= {"train_seconds": round(trained, 1), "training": training}
    record |= measure(scale, arm, network, seed, device)
    record["seconds"] = round(time.monotonic() - began, 1)
    _write(place.record(arm.name, seed), lambda part: part.write_text(json.dumps(record)))
    windows = record[next(k for k in record if k.startswith("few"))]["windows"]
    return f"seed {seed} {arm.name}: {record['seconds']:.0f} s, " + ", ".join(f"{w} s {x['frechet_joint']:.3f}" for w, x in windows.items())


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    write(part)
    os.replace(part, path)


def settings_of(scale: Scale, arm: Arm) -> dict[str, Any]:
    """What the figures depend on, as JSON gives it back; a start depends on the part of its objective that trained it, and on its grid."""
    settings = asdict(arm)
    if arm.name == START:
        settings["objective"] = [start_settings(scale)["objective"], asdict(arm.objective.few)]
    return json.loads(json.dumps({"scale": scale.settings(), "arm": settings}))


def _finished(place: Place, scale: Scale, arm: Arm, seed: int) -> bool:
    path = place.record(arm.name, seed)
    if not path.is_file():
        return False
    if json.loads(path.read_text())["made_with"] != settings_of(scale, arm):
        raise ValueError(f"--out={str(place.out)!r}: {path} was measured with other settings; choose another folder, or remove the file")
    return True


def run_all(scale: Scale, start: Arm, arms: list[Arm], seeds: list[int], place: Place, jobs: int) -> None:
    """Every (arm, seed) that has no file yet, `jobs` at a time; a seed's arms begin when the weights of its joint start are there."""
    waiting = {s: [a for a in arms if not _finished(place, scale, a, s)] for s in seeds}
    if any(waiting.values()) or not all(_finished(place, scale, start, s) for s in seeds):
        scale.world.prepare(stretches(scale))
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending: dict[Future[str], tuple[Arm, int]] = {}

        def submit(arm: Arm, seed: int) -> None:
            pending[pool.submit(run_arm, scale, arm, seed, place)] = (arm, seed)

        for seed in seeds:
            there = place.start(scale, seed).is_file()
            if not _finished(place, scale, start, seed) or (waiting[seed] and not there):
                submit(start, seed)
            for arm in waiting[seed] if there else []:
                submit(arm, seed)
            waiting[seed] = [] if there else waiting[seed]
        while pending:
            done = next(as_completed(pending))
            arm, seed = pending.pop(done)
            print(done.result(), file=sys.stderr, flush=True)
            for later in waiting[seed] if arm.name == START else []:
                submit(later, seed)
