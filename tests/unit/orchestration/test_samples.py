"""Generation from a run folder: what is written, and that long work says how far it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_material import untrained_run

from mutual_forcing.model.types import Controls
from mutual_forcing.orchestration import runs
from mutual_forcing.orchestration.config import RunConfig
from mutual_forcing.orchestration.report import build_report
from mutual_forcing.orchestration.run_record import loop_config, open_run
from mutual_forcing.orchestration.runs import generate_clip, outcome
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


def test_settings_change_one_clip_but_not_the_architecture(run_dir: Path, tmp_path: Path) -> None:
    def made(*settings: str) -> bytes:
        generate_clip(str(run_dir), str(tmp_path / "clip.mp4"), 0, None, 1.0, "few", 4, 2.0, 0, settings)
        return (tmp_path / "clip.mp4").read_bytes()

    assert made() == made()
    assert made("objective.few.sampler=renoise") != made(), "it re-noises between moves instead of walking on"
    with pytest.raises(ValueError, match=r"checkpoint .*: made with model\.depth=2, this run has model\.depth=3"):
        made("model.depth=3")
    with pytest.raises(ValueError, match="did you mean 'sampler'"):
        made("objective.few.samplr=ode")


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


LONG = [{"word": f"w{i}", "start": i / 4, "end": i / 4 + 0.2} for i in range(60)]


@pytest.mark.parametrize(
    ("wishes", "warnings"),
    [
        ({}, []),
        ({"moves": 4}, []),
        ({"moves": 3}, ["--moves=3: mode few was trained for 4 moves"]),
        ({"guidance": 1.5}, ["--guidance=1.5 is ignored"]),
        ({"mode": "multi", "moves": 3, "guidance": 1.5}, []),
        ({"text": "long.json", "seconds": 9.0}, []),  # 39 words, where a training clip has 32 at most
    ],
)
def test_generate_warns_of_what_the_model_was_not_made_for(
    run_dir: Path, tmp_path: Path, wishes: dict[str, Any], warnings: list[str]
) -> None:
    (tmp_path / "long.json").write_text(json.dumps({"transcript": LONG}))
    said: list[str] = []
    given = {"mode": "few", "moves": None, "guidance": None, "text": None, "seconds": 0.5} | wishes
    text = given["text"] and str(tmp_path / given["text"])
    words = (0, text, given["seconds"], given["mode"], given["moves"], given["guidance"], 0)
    record = generate_clip(str(run_dir), str(tmp_path / "clip.mp4"), *words, warn=said.append)
    assert [line[: len(start)] for line, start in zip(said, warnings, strict=True)] == warnings
    assert record["evaluations_per_chunk"] == (6 if given["mode"] == "multi" else given["moves"] or 4)


def test_words_beyond_those_of_a_training_clip_are_read(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Controls] = []
    before = runs.clip_controls
    monkeypatch.setattr(runs, "clip_controls", lambda *a: made.append(before(*a)) or made[-1])
    (tmp_path / "words.json").write_text(json.dumps({"transcript": LONG}))
    generate_clip(str(run_dir), str(tmp_path / "a.mp4"), 0, str(tmp_path / "words.json"), 9.0, "few", 4, None, 0)
    assert int(made[0].words_mask_BW.sum()) == 39
    assert float(made[0].words_time_BW2[0, 38, 0]) == 38 / 4


def test_more_words_than_anybody_speaks_are_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "words.json").write_text(json.dumps({"transcript": LONG * 10}))
    with pytest.raises(ValueError, match=r"--text: \d+ words in \d+\.\d+ s; at most 20 a second are read"):
        generate_clip(str(run_dir), str(tmp_path / "a.mp4"), 0, str(tmp_path / "words.json"), 2.0, "few", 4, None, 0)


def test_a_generated_clip_counts_its_chunks(run_dir: Path, tmp_path: Path) -> None:
    steps: Steps = []
    clip = tmp_path / "clip.mp4"
    record = generate_clip(str(run_dir), str(clip), 0, None, 1.4, "few", 4, 2.0, 0, [], lambda *step: steps.append(step))
    assert heard(steps, "generate chunks") == [0, 1, 2, 3]
    assert clip.stat().st_size > 0
    assert record["frames"] == 37
