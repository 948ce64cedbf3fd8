"""`data prepare` and `train --data` fit together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_material import command

from mutual_forcing.datasets.format.manifest import read_manifest
from mutual_forcing.orchestration.recipes import recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_prepared_dataset_trains(tmp_path: Path) -> None:
    dataset, run = tmp_path / "datasets" / "mine", tmp_path / "run"
    done = command("data", "prepare", "synthetic", "--recipe", "tiny", "--out", str(dataset))
    assert done.code == 0, done.error
    wrong = command("train", "demo", "--data", str(dataset), "--out", str(run))
    assert wrong.code == 1
    assert ["made with data." in line for line in wrong.errors] == [True]
    assert not run.exists()

    words = ("train", "tiny", "--data", str(dataset), "--out", str(run))
    done = command(*words)
    assert done.code == 0, done.error
    assert read_manifest(run / "data") == read_manifest(dataset)
    assert not (run / "media").exists()
    assert json.loads((run / "run.json").read_text())["config"]["data"]["prepared"] == str(dataset)
    assert "data/contact.png" not in (run / "report.html").read_text()  # embedded, not missing

    audited = command("data", "audit", str(dataset), "--run", str(run), "--json")
    assert audited.code == 0, audited.error
    told = json.loads(audited.out)
    steps = {s.name: s.steps * s.batch for s in recipe("tiny").stages}
    assert sum(told["trained_on"].values()) == sum(steps.values())
    assert not told["faults"]

    shutil.rmtree(dataset)
    again = command(*words)
    assert again.code == 0, again.error
