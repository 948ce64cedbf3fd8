"""A run whose MLflow server is away or silent: it says so in one line, and trains to the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_material import Running, Said, command
from dead_servers import KINDS

from mutual_forcing.orchestration.recipes import recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = recipe("tiny").stages


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that tracks into its own folder."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    done = command("train", "tiny", "--out", str(folder))
    assert done.code == 0, done.error
    return folder


def weights(folder: Path, stage: str) -> dict[str, str]:
    (manifest,) = (folder / "checkpoints" / stage).glob("*/manifest.json")
    return {name: entry["sha256"] for name, entry in json.loads(manifest.read_text())["files"].items()}


def warnings(said: Said) -> list[str]:
    return [line for line in said.error.splitlines() if "MLflow" in line or "Retry" in line or "Traceback" in line]


@pytest.mark.parametrize("kind", KINDS)
def test_training_does_not_notice(tracked: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "run"
    with KINDS[kind]() as uri:
        said = command("train", "tiny", "--out", str(folder), environment={"MLFLOW_TRACKING_URI": uri}, seconds=500)
    assert said.code == 0, said.error
    assert ["cannot be reached" in line and str(folder / "metrics") in line for line in warnings(said)] == [True], said.error
    assert (folder / "report.html").is_file()
    for stage in STAGES:
        lines = [json.loads(line) for line in (folder / "metrics" / f"{stage.name}.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(stage.steps))
        if stage.objective == "flow":  # the histories of a mutual stage are as old as the actors are slow
            assert weights(folder, stage.name) == weights(tracked, stage.name)
    assert json.loads((folder / "run.json").read_text())["finished"]


def test_a_silent_server_does_not_hold_up_ctrl_c(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with KINDS["silent"]() as uri, Running("train", "tiny", "--out", str(folder), environment={"MLFLOW_TRACKING_URI": uri}) as running:
        running.until(lambda: (folder / "run.json").is_file(), 100)
        running.interrupt()
        answer = running.wait(60)
        assert not running.left_behind(5)
    assert answer.code == 130, answer.error
    assert answer.error.splitlines()[-1].startswith("stopped: ")
