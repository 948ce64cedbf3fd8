"""`evaluate --judge`: figures of networks of others, of each clip and of sets, beside those that need no weights; what is told of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from judge_material import ast_folder, dino_folder
from run_material import untrained_run
from typer.testing import CliRunner

from mutual_forcing.orchestration.evaluation.command import JUDGE
from mutual_forcing.orchestration.main import app
from mutual_forcing.workers.evaluation.judges.judges import JUDGES

PAGE = Path(__file__).resolve().parents[4] / "docs" / "evaluation.md"


@pytest.mark.slow
def test_figures_of_judges_stand_beside_the_others(tmp_path: Path) -> None:
    untrained_run(tmp_path / "run")
    nets = [f"dino={dino_folder(tmp_path / 'dino')}", f"audio_fd={ast_folder(tmp_path / 'ast')}"]
    words = ["evaluate", str(tmp_path / "run"), "--out", str(tmp_path / "out"), "--windows", "0-2", "--clips", "2", "--metrics", "motion"]
    result = CliRunner().invoke(app, [*words, "--json", *(word for net in nets for word in ("--judge", net))])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout.strip().splitlines()[-1])
    [run] = printed["runs"]
    figures = run["windows"]["0-2 s"]
    assert figures.keys() >= {"motion", "dino_identity", "dino_consistency", "audio_fd"}
    assert -1 <= figures["dino_identity"]["value"] <= 1
    assert figures["dino_identity"]["clips"] == 2
    assert figures["audio_fd"]["value"] >= 0
    page = (tmp_path / "out" / "evaluation.html").read_text()
    assert all(name in page for name in ("dino_identity", "audio_fd", "DINOv2 of transformers"))


def test_the_page_and_the_help_name_every_judge_with_its_weights() -> None:
    rows = {row[0]: row for line in PAGE.read_text().splitlines() if len(row := line.strip("|").split("|")) == 5}
    told = {match[1]: row for cell, row in rows.items() if (match := re.match(r" `([a-z_]+)`", cell)) and "ersion" in row[2]}
    assert told.keys() == JUDGES.keys()
    for name, judge in JUDGES.items():
        assert set(re.findall(r"`([^`]+)`", told[name][4])) == set(judge.files), name
        assert told[name][3].replace("`", "").strip() == judge.example, name
        assert re.search(rf"\b{name}\b", JUDGE), f"--help does not name {name}"
