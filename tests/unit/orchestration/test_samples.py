"""Generation from a run folder: what is written, and that long work says how far it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_material import untrained_run

from mutual_forcing.orchestration.config import RunConfig
from mutual_forcing.orchestration.launch import loop_config, open_run
from mutual_forcing.orchestration.report import build_report
from mutual_forcing.orchestration.runs import generate_clip
from mutual_forcing.orchestration.samples import make_samples, open_generator

Steps = list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained") / "run"
    untrained_run(folder)
    return folder


@pytest.fixture
def config(run_dir: Path) -> RunConfig:
    return open_run(run_dir)


def heard(steps: Steps, stage: str) -> list[int]:
    """The counts of one stage of work; its total never changes, and it ends there."""
    totals = {total for name, _, total in steps if name == stage}
    counts = [done for name, done, _ in steps if name == stage]
    assert len(totals) == 1
    assert counts == sorted(counts)
    assert counts[-1] == totals.pop()
    return counts


def test_samples_count_their_chunks_and_the_report_reads_what_they_wrote(run_dir: Path, config: RunConfig) -> None:
    steps: Steps = []
    made = make_samples(open_generator(loop_config(config, run_dir), config), run_dir, lambda *step: steps.append(step))
    assert heard(steps, "generate chunks, few4") == [0, 2, 4], "two clips of two chunks"
    assert heard(steps, "generate chunks, multi") == [0, 2, 4]
    assert heard(steps, "write held-out clips") == [0, 1, 2]
    assert heard(steps, "measure sync")
    steps.clear()
    page = build_report(run_dir, lambda *step: steps.append(step)).read_text()
    assert heard(steps, "embed clips") == [0, 1, 2]
    for figures in made["sync"].values():
        assert f"{figures['matched']:.2f}".replace("-", "−") in page
        assert figures["gap_ci"][0] <= figures["gap"] <= figures["gap_ci"][1]


def test_a_generated_clip_counts_its_chunks(run_dir: Path, tmp_path: Path) -> None:
    steps: Steps = []
    clip = tmp_path / "clip.mp4"
    record = generate_clip(str(run_dir), str(clip), 0, None, 1.4, "few", 4, 2.0, 0, lambda *step: steps.append(step))
    assert heard(steps, "generate chunks") == [0, 1, 2, 3]
    assert clip.stat().st_size > 0
    assert record["frames"] == 37
