"""What each part of the dual-mode step costs, in forward passes of the network, and what the two kinds of fake-score model hold.

    parts    flow matching, ShortCut, DMD, the fake updates: each timed alone, over the time of one `forward` without gradient
    reading  a ShortCut target whose teacher reads the past once, against one that goes through it at every evaluation
    fake     `full`, a second trained copy, against `lora`, an adapter over the live weights: bytes held for training, and the peak

DMD is timed with a reading of the past of its own; in a step it shares ShortCut's where their guidance scales are the same. Bytes held for
training are reckoned from the weights; a GPU adds the peak that was measured.

The arithmetic is `ObjectiveConfig.forward_equivalents`. Needs PyTorch alone; the weights are random, time does not see them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import nn

from ..model.lora import LoraAdapter
from ..model.losses import Models, dmd, fake_score, flow_matching, jump_to_zero, shortcut
from ..model.noise import PositionalNoise
from ..model.objective import FakeConfig, ObjectiveConfig
from ..model.path import few_grid
from ..model.text import TextConfig, Word, make_controls
from ..model.timeline import Layout, Timeline
from ..model.transformer import AVTransformer
from ..model.trunk import TransformerConfig
from ..model.types import AV, AVBatch, Controls, Rollout, Velocity
from ..workers.optimizer import OptimizerConfig
from ..workers.plain_engine import PlainEngine
from .model import one_thread


@dataclass(frozen=True)
class Size:
    """A micro-batch: `clips` clips of `chunks` chunks with a `grid` x `grid` latent picture; `runs` rounds over all parts."""

    clips: int = 2
    chunks: int = 6
    grid: int = 8
    runs: int = 7
    model: TransformerConfig = TransformerConfig()
    timeline: Timeline = Timeline()


QUICK = Size(chunks=3, runs=3)
GPU = Size(
    clips=4, chunks=8, grid=16, runs=7, model=TransformerConfig(video_width=768, audio_width=768, depth=12, heads=12, head_dim=64, window=8)
)


def material(size: Size, device: str) -> tuple[AVBatch, Rollout, PositionalNoise]:
    """Random clips with text, and rollouts of their own."""
    clock, text = size.timeline, TextConfig(max_caption_words=8, max_words=16)
    noise = PositionalNoise([(0, "bench", p) for p in range(size.clips)], device)

    def draw(first_frames: int, tag: str) -> AV:
        frames = clock.video_latents(size.chunks) - 1 + first_frames
        return AV(
            noise.normal((frames, size.model.video_channels, size.grid, size.grid), tag, "video"),
            noise.normal((clock.audio_latents(size.chunks), size.model.audio_channels), tag, "audio"),
        )

    words = [[Word("word", 0.4 * i, 0.4 * i + 0.3) for i in range(text.max_words)]] * size.clips
    controls = make_controls(["a calm voice"] * size.clips, words, text).to(device)
    ids = tuple(f"clip-{p}" for p in range(size.clips))
    batch = AVBatch(draw(1, "real"), controls, Layout(clock, size.chunks), tuple(range(size.clips)), ids)
    times_BK = few_grid(4).to(device)[(noise.uniform((size.chunks,), "exit") * 4).long()]
    return batch, Rollout(draw(1, "history"), draw(0, "exit"), times_BK), noise


def network(size: Size, device: str) -> AVTransformer:
    torch.manual_seed(0)
    return AVTransformer(size.model, size.timeline).to(device)


def measure_parts(size: Size, objective: ObjectiveConfig, device: str) -> dict[str, Any]:
    """Time of each part over that of one forward, the median of rounds in which every part is timed once."""
    batch, rollout, noise = material(size, device)
    live, teacher, fake = (network(size, device) for _ in range(3))
    o, layout, past = objective, batch.layout, rollout.history
    t = AV(*(torch.full((size.clips, size.chunks), 0.5, device=device),) * 2)
    noisy = AV(past.get("video")[:, 1:], past.get("audio"))
    rereading = Models(live, _forgetful(teacher))

    def forward() -> None:
        with torch.no_grad():
            live(noisy, past, t, t, batch.controls, layout)

    def distribution_matching() -> None:
        models = Models(live, teacher, fake)
        dmd(models, jump_to_zero(models, batch, rollout, o), batch, rollout, noise, o).value.backward()

    def fake_updates() -> None:
        for update in range(o.fake.updates):
            fake_score(Models(live, teacher, fake), noisy, batch, rollout, noise, o, update).value.backward()

    work: dict[str, Callable[[], object]] = {
        "forward": forward,
        "fm": lambda: flow_matching(Models(live, teacher), batch, rollout, noise, o).value.backward(),
        "sc": lambda: shortcut(Models(live, teacher), batch, rollout, noise, o).value.backward(),
        "sc_rereading": lambda: shortcut(rereading, batch, rollout, noise, o).value.backward(),
        "dmd": distribution_matching,
        "fake": fake_updates,
    }
    taken: dict[str, list[float]] = {name: [] for name in work}
    for run in range(size.runs + 1):
        for name in work if run % 2 else reversed(work):
            taken[name].append(_seconds(work[name], device))
            for net in (live, fake):
                net.zero_grad()
    rounds = {name: values[1:] for name, values in taken.items()}  # the first warms up
    cost = {part: _ratio(rounds[part], rounds["forward"]) for part in ("fm", "sc", "dmd", "fake")}
    total = sum(x["median"] for x in cost.values())
    arithmetic = o.forward_equivalents()
    return {
        "forward_equivalents": cost,
        "share": {part: round(x["median"] / total, 3) for part, x in cost.items()},
        "arithmetic": arithmetic,
        "arithmetic_share": {part: round(x / sum(arithmetic.values()), 3) for part, x in arithmetic.items()},
        "shortcut_rereading_over_reading": _ratio(rounds["sc_rereading"], rounds["sc"]),
    }


def _forgetful(model: AVTransformer) -> Velocity:
    """The same network for callers that cannot let it read."""

    def velocity(noisy: AV, context: AV, t: AV, r: AV, controls: Controls, layout: Layout) -> AV:
        return model(noisy, context, t, r, controls, layout)

    return velocity


def _ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": round(median(ratios), 2), "low": round(min(ratios), 2), "high": round(max(ratios), 2)}


def _seconds(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def measure_fake(size: Size, kind: str, rank: int, device: str) -> dict[str, int]:
    """Bytes that one kind of fake-score model adds: weights, gradients and optimizer moments; on a GPU, the peak of an update too."""
    batch, rollout, noise = material(size, device)
    live = network(size, device).requires_grad_(False)
    fake: nn.Module = network(size, device) if kind == "full" else LoraAdapter(live, rank)
    parameters = list(fake.parameters())
    engine = PlainEngine(fake, [(1.0, parameters)], OptimizerConfig())
    noisy = AV(rollout.history.get("video")[:, 1:], rollout.history.get("audio"))
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    objective = ObjectiveConfig(fake=FakeConfig("full" if kind == "full" else "lora", rank=rank))
    for update in range(2):
        score = fake_score(Models(live, live, engine), noisy, batch, rollout, noise, objective, update)
        engine.backward(score, last=True)
        engine.step(1e-4)
    weights = sum(p.numel() * p.element_size() for p in parameters)
    figures = {"trained_parameters": sum(p.numel() for p in parameters), "held_bytes": 4 * weights}  # weights, gradients, two moments
    if device == "cuda":
        figures["peak_bytes"] = torch.cuda.max_memory_allocated()
    return figures


def measure(size: Size, objective: ObjectiveConfig, device: str) -> dict[str, Any]:
    """All figures of one device."""
    fakes = {kind: measure_fake(size, kind, objective.fake.rank, device) for kind in ("full", "lora")}
    return measure_parts(size, objective, device) | {
        "fake": fakes | {"full_over_lora_held": round(fakes["full"]["held_bytes"] / fakes["lora"]["held_bytes"], 1)},
        "parameters": sum(p.numel() for p in network(size, "cpu").parameters()),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "runs": size.runs,
    }


def summary(figures: dict[str, Any]) -> str:
    """The figures of one device as a table."""
    lines = [
        f"{figures['device']}, {figures['parameters'] / 1e6:.1f} M parameters, median of {figures['runs']} rounds (lowest to highest):"
    ]
    for part, x in figures["forward_equivalents"].items():
        lines.append(
            f"  {part:<5} {x['median']:6.2f} forwards ({x['low']} to {x['high']}), arithmetic {figures['arithmetic'][part]:g}; "
            f"{figures['share'][part]:.0%} of the step, arithmetic {figures['arithmetic_share'][part]:.0%}"
        )
    x = figures["shortcut_rereading_over_reading"]
    lines.append(
        f"  ShortCut takes {x['median']} times as long ({x['low']} to {x['high']}) where the teacher reads the past at every evaluation"
    )
    full, lora = (figures["fake"][kind] for kind in ("full", "lora"))
    lines.append(
        f"  the fake score holds {full['held_bytes'] / 1e6:.1f} MB as a full copy, {lora['held_bytes'] / 1e6:.1f} MB as an adapter "
        f"(weights, gradients, moments): {figures['fake']['full_over_lora_held']} times less"
    )
    return "\n".join(lines)


def main(arguments: list[str], size: Size | None = None) -> int:
    """Measure and print; returns the exit code. `size` takes the place of what --quick chooses."""
    parser = argparse.ArgumentParser(prog="mutual-forcing bench step", description="What each part of the dual-mode step costs.")
    parser.add_argument("--quick", action="store_true", help="shorter clips and fewer rounds")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(arguments)
    objective = ObjectiveConfig()
    with one_thread():
        figures: dict[str, Any] = {"name": "step", **measure(size or (QUICK if options.quick else Size()), objective, "cpu")}
    if torch.cuda.is_available():
        figures["cuda"] = measure(size or GPU, objective, "cuda")
    print(json.dumps(figures) if options.json else "\n".join(summary(f) for f in (figures, figures.get("cuda")) if f))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
