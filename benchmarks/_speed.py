"""What is measured of a case: ways of streaming in turn, a long clip, a step of training."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from ..model.arithmetic import peak_of
from ..model.losses import Models, flow_matching
from ..model.objective import ObjectiveConfig
from ..model.sampler import SamplerConfig
from ..model.timeline import Layout
from ..model.types import AVBatch
from ._ceilings import Ceilings, seconds
from ._streams import Case, Stage

FEW4, FEW8 = SamplerConfig("few", 4), SamplerConfig("few", 8)
MULTI50 = SamplerConfig("multi", 50, guidance=5.0)
Modes = dict[str, SamplerConfig]
MODES: Modes = {"few4": FEW4, "few8": FEW8, "multi50": MULTI50}
Figures = dict[str, Any]


@dataclass(frozen=True)
class Amount:
    """How much is measured: rounds over the ways of streaming, chunks of FEW alone for their latency, chunks of the long clip, chunks of
    a training step; warm: rounds of FEW that do not count (one of MULTI).
    """

    rounds: int = 15
    latency: int = 100
    long: int = 1200
    chunks: int = 10
    warm: int = 1


DECODED, RECOMPUTE, NOT = "{}, decoded", "recompute", "not measured"
BESIDE = 4  # chunks between two looks at the clock where decoding runs beside the next chunk: it would not, if each were waited for


@dataclass(frozen=True)
class Way:
    """make: begins a stream with a full window, each call of which makes a chunk; chunks: calls between two looks at the clock."""

    make: Callable[[], Callable[[], object]]
    chunks: int = 1

    def spent(self, step: Callable[[], object], device: torch.device) -> float:
        """Seconds of a chunk."""
        return seconds(lambda: [step() for _ in range(self.chunks)], device) / self.chunks


def ways_of(stage: Stage, modes: Modes, recompute: bool) -> dict[str, Way]:
    """By name: the modes with a cache, the same decoded where there are codecs, FEW 4 without a cache."""
    case, past = stage.case, stage.case.preset.network.window + 1
    ways = {name: Way(lambda s=s: partial(next, stage.play(s, past))) for name, s in modes.items()}
    on_gpu = case.device.type == "cuda"
    for name, s in modes.items() if case.codecs is not None else ():
        if not (on_gpu and s is MULTI50):  # seconds a chunk, beside which decoding is nothing
            ways[DECODED.format(name)] = Way(lambda s=s: partial(next, stage.decoded(s, past)), BESIDE if on_gpu else 1)
    if recompute:
        ways[RECOMPUTE] = Way(lambda: stage.recomputing(FEW4))
    return ways


@dataclass
class Times:
    """Seconds of chunks in rounds, and of FEW chunks one after the other, shortest first; bytes held. By way."""

    rounds: dict[str, list[float]]
    alone: dict[str, list[float]]
    held: dict[str, int]


def times_of(ways: dict[str, Way], amount: Amount, device: torch.device) -> Times:
    """On a CPU all ways in turn, so that a ratio is one of the same minutes; on a GPU each by itself: it has the memory for itself."""
    times = Times({name: [] for name in ways}, {}, {})
    for group in [ways] if device.type == "cpu" else [{name: way} for name, way in ways.items()]:
        forget(device)
        running = {name: way.make() for name, way in group.items()}
        for turn in range(-amount.warm, amount.rounds):  # the first rounds warm up
            for name in group if turn % 2 else reversed(group):
                if turn < -1 and "few" not in name:
                    continue
                spent = ways[name].spent(running[name], device)
                if turn >= 0:
                    times.rounds[name].append(spent)
        for name in group:
            if "few" in name:  # MULTI 50 takes seconds a chunk on large pictures: its rounds must do
                times.alone[name] = sorted(seconds(running[name], device) for _ in range(amount.latency))
        times.held |= dict.fromkeys(group, memory(device))
    return times


def stream(case: Case, amount: Amount, ceilings: Ceilings, recompute: bool, modes: Modes = MODES) -> Figures:
    """Ways of streaming, all with a full window."""
    stage, sums, window = Stage(case), case.arithmetic(), case.preset.network.window
    next(stage.play(FEW4))  # whatever is compiled or loaded once
    first: dict[str, Callable[[], object]] = {"few4": lambda: next(stage.play(FEW4))}
    if case.codecs is not None:
        first[DECODED.format("few4")] = lambda: next(stage.decoded(FEW4))
    figures: Figures = {"clips": case.clips, "first_chunk_ms": {n: 1e3 * seconds(begin, case.device) for n, begin in first.items()}}
    times = times_of(ways_of(stage, modes, recompute), amount, case.device)
    for name, taken in times.rounds.items():
        alone = times.alone.get(name) or sorted(taken)
        figures[name] = chunk_figures(case, taken)
        figures[name] |= {"p50_ms": 1e3 * median(alone), "p99_ms": 1e3 * alone[-1 - len(alone) // 100], "chunks": len(alone)}
        if case.device.type == "cuda":
            figures[name]["memory_gb"] = times.held[name] / 1e9
    if case.device.type == "cpu":
        figures["memory_gb"] = max(times.held.values()) / 1e9  # of the process, whatever it plays
    chunk = window + 1 + amount.rounds // 2  # whose words stand for all
    for name, sampler in modes.items():
        figures[name] |= roofline(case, sampler, chunk, ceilings, median(times.rounds[name]))
    few = figures["few4"]
    if "multi50" in modes:
        figures["few4_vs_multi50"] = _ratio(times.rounds, "multi50", "few4")
        figures["few4_vs_predicted"] = figures["few4_vs_multi50"] / (figures["multi50"]["predicted_ms"] / few["predicted_ms"])
    if recompute:
        flops = 4 * case.clips * sums.parallel(1, window + 1, len(case.words_near(stage.last))) / few["macs"]
        figures["cached_vs_recompute"] = _ratio(times.rounds, RECOMPUTE, "few4")
        figures["cached_vs_flop_ratio"] = figures["cached_vs_recompute"] / flops
    return figures


def _ratio(rounds: dict[str, list[float]], slow: str, fast: str) -> float:
    return median(a / b for a, b in zip(rounds[slow], rounds[fast], strict=True))


def chunk_figures(case: Case, taken: list[float]) -> Figures:
    """Frames a second of picture and sound, and the time of a chunk: median, shortest and longest."""
    middle = median(taken)
    spread = [1e3 * min(taken), 1e3 * max(taken)]
    return {"fps": case.clips * case.preset.clock.chunk_frames / middle, "chunk_ms": 1e3 * middle, "spread_ms": spread, "runs": len(taken)}


def roofline(case: Case, sampler: SamplerConfig, chunk: int, c: Ceilings, spent: float) -> Figures:
    """What a chunk must compute and read, the least time for it, and how near the measured one comes."""
    sums, item = case.arithmetic(), case.dtype.itemsize
    clips = case.clips * (2 if sampler.mode == "multi" and sampler.guidance != 1 else 1)
    macs = clips * (sampler.moves * sums.evaluation(chunk) + sums.commit(chunk))
    read = sums.evaluation_bytes(chunk, clips, item)
    least = sampler.moves * c.seconds(clips * sums.evaluation(chunk), read) + c.seconds(clips * sums.commit(chunk), read)
    return {"macs": macs, "bytes": (sampler.moves + 1) * read, "predicted_ms": 1e3 * least, "of_roofline": least / spent}


def long(case: Case, chunks: int) -> Figures:
    """Latency and memory of a clip of many chunks: medians around chunk 600 against those around chunk 60."""
    player, taken, held = Stage(case).play(FEW4), [], {}
    for k in range(chunks):
        taken.append(seconds(lambda: next(player), case.device))
        if k in (60, chunks - 1):
            held[k] = memory(case.device)
    early, late = median(taken[40:80]), median(taken[chunks // 2 - 20 : chunks // 2 + 20])
    assert chunks >= 200, "the two stretches must not overlap"
    return {
        "seconds_of_clip": chunks * float(case.preset.clock.chunk),
        "latency_growth": late / early,
        "rss_growth_mb": (held[chunks - 1] - held[60]) / 1e6,
    }


def training(case: Case, amount: Amount, ceilings: Ceilings) -> Figures:
    """A flow-matching step with its optimizer update."""
    stage, clock, o = Stage(case), case.preset.clock, ObjectiveConfig()
    net = stage.net.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=case.device.type == "cuda")
    layout = Layout(clock, amount.chunks)
    batch = AVBatch(stage.clip(0, amount.chunks), stage.text_near(layout), layout, tuple(range(case.clips)), ("",) * case.clips)

    def step() -> None:
        flow_matching(Models(net, net), batch, None, stage.noise, o).value.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    spent = median(seconds(step, case.device) for _ in range(amount.rounds))
    sums, words = case.arithmetic(), len(case.words_near(layout))
    tokens = case.clips * sum(sum(sums.tokens(k).values()) for k in range(amount.chunks))
    rate = 2 * case.clips * sums.training(amount.chunks, words) / spent
    name = torch.cuda.get_device_name(case.device) if case.device.type == "cuda" else ""
    peak = peak_of(name) or ceilings.flops
    return {
        "step_ms": 1e3 * spent,
        "tokens_per_s": tokens / spent,
        "mfu": rate / peak,
        "mfu_of": f"{peak / 1e12:.3g} TFLOP/s, {'the data sheet' if peak != ceilings.flops else 'measured here'}",
        "of_ceiling": rate / ceilings.flops,
        "memory_gb": memory(case.device) / 1e9,
    }


def forget(device: torch.device) -> None:
    """Give back what a GPU holds for nothing, and begin to look for its peak anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> int:
    """Bytes: the most that was allocated on a GPU since the start, or what the process holds."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
