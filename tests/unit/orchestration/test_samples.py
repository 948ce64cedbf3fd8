"""Held-out clips of a run: what is written, and that long work says how far it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_material import untrained_run

from mutual_forcing.orchestration.config import RunConfig
from mutual_forcing.orchestration.report import build_report
from mutual_forcing.orchestration.run_record import loop_config, open_run
from mutual_forcing.orchestration.runs import outcome
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


def test_the_outcome_is_what_the_run_recorded(run_dir: Path, config: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_dir, folder)
    make_samples(open_generator(loop_config(config, folder), config), folder)
    probes = {0: 2.0, 5: None, 10: 1.0}  # a value that was not finite is null
    (folder / "metrics").mkdir()
    lines = [
        json.dumps({"stage": "mutual", "step": i, "metrics": {"loss": 3.0} | ({"probe/loss": probes[i]} if i in probes else {})})
        for i in range(11)
    ]
    (folder / "metrics" / "mutual.jsonl").write_text("\n".join(lines) + "\n")
    record = json.loads((folder / "run.json").read_text())
    stage = {"name": "mutual", "steps": 11, "seconds": 3.0, "samples": 44}
    (folder / "run.json").write_text(json.dumps(record | {"stages": [stage], "total_seconds": 9.5}))
    came_to = outcome(folder)
    assert json.loads(json.dumps(came_to)) == came_to
    assert came_to["stages"] == [
        {"name": "mutual", "steps": 11, "seconds": 3.0, "loss_before": 2.0, "loss_after": 1.0},
    ]
    assert came_to["report"] == str(folder / "report.html")
    samples = folder / "samples" / "samples.json"
    assert came_to["sync"] == json.loads(samples.read_text())["sync"]
    samples.write_text(samples.read_text().replace('"proxy_valid": true', '"proxy_valid": false'))
    assert outcome(folder)["sync"] is None
