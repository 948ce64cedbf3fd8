"""Where a step's time goes, and what was made in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes_material import run_processes
from step_material import material

from mutual_forcing.model.objective import ObjectiveConfig
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.workers import step_clock
from mutual_forcing.workers.step_clock import StepClock, covered, rates


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_laps_and_the_whole() -> None:
    clock = StepClock()
    time.sleep(0.03)
    clock.lap("data_wait_s")
    clock.lap("rollout_wait_s")
    time.sleep(0.02)
    seconds = clock.stop()
    assert set(seconds) == {"data_wait_s", "rollout_wait_s", "step_s"}
    assert seconds["data_wait_s"] >= 0.03 > seconds["rollout_wait_s"]
    assert seconds["step_s"] >= sum(seconds.values()) - seconds["step_s"] + 0.02


@pytest.mark.parametrize(
    ("spans", "seconds"),
    [
        ([], 0.0),
        ([(1, 2), (5, 7)], 3.0),
        ([(1, 4), (2, 3)], 3.0),
        ([(2, 5), (1, 3)], 4.0),
        ([(1, 2), (1, 2)], 1.0),
        ([(1, 2), (2, 3)], 2.0),
    ],
)
def test_what_overlaps_counts_once(spans: list[tuple[float, float]], seconds: float) -> None:
    assert covered(spans) == seconds


@pytest.mark.usefixtures("alone")
def test_collectives_of_a_step_are_found_and_nothing_else() -> None:
    clock = StepClock(collectives=True)
    torch.randn(100, 100).matmul(torch.randn(100, 100))
    assert clock.stop()["comm_s"] == 0
    clock = StepClock(collectives=True)
    dist.all_reduce(torch.ones(1 << 16))
    seconds = clock.stop()
    assert 0 < seconds["comm_s"] < seconds["step_s"]
    assert "comm_s" not in StepClock().stop()


LATE = 0.4


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    StepClock(collectives=True).stop()  # the first start of a profiler takes a second, and not the same one everywhere
    dist.all_reduce(torch.ones(1))  # the two have met
    clock = StepClock(collectives=True)
    time.sleep(rank * LATE)
    dist.all_reduce(torch.ones(1 << 10))
    (Path(folder) / f"{rank}").write_text(str(clock.stop()["comm_s"]))
    dist.destroy_process_group()


def test_waiting_for_a_slower_rank_is_time_within_collectives(tmp_path: Path) -> None:
    run_processes(worker, (str(tmp_path),), 2)
    early, late = (float((tmp_path / str(rank)).read_text()) for rank in (0, 1))
    assert early >= 0.8 * LATE
    assert late < 0.2 * LATE


class OnDevice:
    """The latents of a batch, but for where they lie."""

    def __init__(self, latents: Any) -> None:
        self._latents, self.device = latents, torch.device("cuda")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._latents, name)


def test_rates_are_those_of_all_ranks_and_utilisation_that_of_a_known_device(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _, _ = material()
    video, audio = batch.latents.get("video"), batch.latents.get("audio")
    config = TransformerConfig(video_channels=video.shape[2], audio_channels=audio.shape[2], video_width=16, audio_width=16, head_dim=8)
    o, clips = ObjectiveConfig(), len(batch.positions)
    made = rates(config, batch, o, False, 2, 0.5)
    assert made["samples_per_s"] == 2 * clips / 0.5
    assert made["tokens_per_s"] == 2 * step_clock.new_tokens(config, batch) / 0.5
    assert set(made) == {"samples_per_s", "tokens_per_s"}, "no peak is known of a CPU"

    there = replace(batch)
    object.__setattr__(there, "latents", OnDevice(batch.latents))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    flops = step_clock.step_flops(config, batch, o, True)
    assert rates(config, there, o, True, 2, 0.5)["mfu"] == pytest.approx(flops / 0.5 / 756e12), "of one device, by its own share"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a device that nobody knows")
    assert "mfu" not in rates(config, there, o, True, 2, 0.5)
