"""Where the time of a step goes: waits, collectives, the whole; and what was made in it."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch.profiler import ProfilerActivity, profile

from ..model.arithmetic import new_tokens, peak_of, step_flops
from ..model.objective import ObjectiveConfig
from ..model.trunk import TransformerConfig
from ..model.types import MODALITIES, AVBatch

COLLECTIVE = ("gloo:", "nccl")  # how profiled events of the two backends begin


class StepClock:
    """Seconds of one step from now on. collectives: also those within collectives, by a profiler that slows the step a little."""

    def __init__(self, collectives: bool = False) -> None:
        self._profiler = profile(activities=activities()) if collectives else None
        if self._profiler is not None:
            self._profiler.start()
        self._start = self._at = time.monotonic()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """What has passed since the last lap was spent on this."""
        now = time.monotonic()
        self._laps[name], self._at = now - self._at, now

    def stop(self) -> dict[str, float]:
        """All seconds by name, `step_s` among them."""
        seconds = self._laps | {"step_s": time.monotonic() - self._start}
        if self._profiler is not None:
            self._profiler.stop()
            seconds["comm_s"] = covered(_collectives(self._profiler))
        return seconds


def activities() -> list[ProfilerActivity]:
    """What a profiler can watch here."""
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]


def _collectives(profiler: profile) -> list[tuple[float, float]]:
    """Begin and end of each collective, in seconds. Of NCCL's events those on the device count: the process only hands them in."""
    results = profiler.profiler
    assert results is not None, "it has run"
    assert results.kineto_results is not None, "it was stopped"
    of_ours = (e for e in results.kineto_results.events() if e.name().startswith(COLLECTIVE))
    on_device = (e for e in of_ours if e.name().startswith("gloo:") or e.device_type().name == "CUDA")
    return [(e.start_ns() / 1e9, (e.start_ns() + e.duration_ns()) / 1e9) for e in on_device]


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How much of the time line the spans cover together."""
    total, end = 0.0, float("-inf")
    for low, high in sorted(spans):
        total += max(0.0, high - max(low, end))
        end = max(end, high)
    return total


def rates(
    config: TransformerConfig, batch: AVBatch, objective: ObjectiveConfig, mutual: bool, world: int, seconds: float
) -> dict[str, float]:
    """What all ranks made in a step of so many seconds. `batch` is this rank's, and the others' are alike; `mfu` is there where this
    device's peak is known and both modalities are trained.
    """
    made = {
        "samples_per_s": world * len(batch.positions) / seconds,
        "tokens_per_s": world * new_tokens(config, batch) / seconds,
    }
    device = batch.latents.device
    peak = peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if peak is None or len(batch.latents.items()) < len(MODALITIES):
        return made
    return made | {"mfu": step_flops(config, batch, objective, mutual) / seconds / peak}
