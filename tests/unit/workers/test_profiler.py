"""A trace of a few steps: which ones, and what its file holds."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
import torch

from mutual_forcing.workers import profiler
from mutual_forcing.workers.profiler import ProfileConfig, StageProfile


def covered(config: ProfileConfig, first: int, end: int, folder: Path = Path("none"), stage: str = "joint") -> list[int]:
    trace = StageProfile(config, folder, stage, 0, first, end)
    return [step for step in range(first, end) if trace.covers(step)]


def test_which_steps_are_traced() -> None:
    assert covered(ProfileConfig(), 0, 10) == []
    assert covered(ProfileConfig(steps=2), 0, 10) == [3, 4]
    assert covered(ProfileConfig(steps=2, after=5), 40, 60) == [45, 46], "a stage that goes on warms up again"
    assert covered(ProfileConfig(steps=3), 0, 4) == [1, 2, 3], "a short stage is traced at its end"
    assert covered(ProfileConfig(steps=3), 0, 2) == [0, 1]
    assert covered(ProfileConfig(steps=2, stages=("mutual",)), 0, 10) == []
    assert covered(ProfileConfig(steps=2, stages=("joint",)), 0, 10) == [3, 4]


def test_a_trace_is_bounded() -> None:
    with pytest.raises(ValueError, match=r"profile\.steps=21, profile\.after=3: from 0 to 20 steps"):
        ProfileConfig(steps=21)
    with pytest.raises(ValueError, match=r"profile\.after=-1"):
        ProfileConfig(after=-1)


def run(trace: StageProfile, steps: int) -> None:
    for step in range(steps):
        with trace.around(step):
            torch.ones(4).cumsum(0) if step in (2, 3) else torch.ones(4).sinh()


def test_the_file_holds_the_steps_as_chrome_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "profile"
    run(StageProfile(ProfileConfig(steps=2, after=2), folder, "joint", 1, 0, 6), 6)
    assert [file.name for file in folder.iterdir()] == ["joint-rank1.json.gz"]
    with gzip.open(folder / "joint-rank1.json.gz") as file:
        names = [event.get("name") for event in json.load(file)["traceEvents"]]
    assert [name for name in names if str(name).startswith("step ")] == ["step 2", "step 3"]
    assert names.count("aten::cumsum") == 2
    assert "aten::sinh" not in names


def test_a_trace_that_cannot_be_written_ends_no_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profile").write_text("in the way")
    with caplog.at_level(logging.WARNING, profiler.__name__):
        run(StageProfile(ProfileConfig(steps=1), tmp_path / "profile", "joint", 0, 0, 6), 6)
    assert "the trace could not be written" in caplog.text
