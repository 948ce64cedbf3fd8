"""Weights become a version in MLflow's model registry, whole and with what they are, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dead_servers import closed
from mlflow.tracking import MlflowClient
from run_material import untrained_run
from safetensors.torch import load_file
from typer.testing import CliRunner

from mutual_forcing.datasets.places.storage import sha256_file, write_json
from mutual_forcing.orchestration.main import app
from mutual_forcing.workers.metrics import MetricSpool

SYNC = {"few4": {"matched": 0.5, "shuffled": 0.25, "gap": 0.25, "gap_ci": [0.1, 0.4], "lag_s": 0.0, "n": 9}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    stage = untrained_run(folder).stages[-1]
    record = json.loads((folder / "run.json").read_text())
    write_json(folder / "run.json", record | {"recipe": "tiny", "settings": "5e77", "git_commit": "c0de"})
    spool = MetricSpool(folder / "metrics", stage.name)
    for step in range(stage.steps + 1):  # one more than the checkpoint has
        spool.write(step, {"loss": 9.0 - step, "step_s": 1.0} | ({"probe/loss": 2.0} if step == 0 else {}))
    (folder / "samples").mkdir()
    write_json(folder / "samples" / "samples.json", {"stage": stage.name, "sync": SYNC})
    return folder


@pytest.fixture(autouse=True)
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def export(run: Path, out: Path, *words: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["checkpoint", "export", str(run), "--out", str(out), *words])
    assert result.exit_code == code, result.output
    return result.output


def versions(run: Path) -> list[Any]:
    return list(MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow.db'}").search_model_versions())


def test_a_version_tells_its_data_its_recipe_and_its_figures(run: Path, tmp_path: Path) -> None:
    for number in ("1", "2"):
        record = json.loads(export(run, tmp_path / number, "--register", "talking heads", "--json"))
        assert (record["registered"]["name"], record["registered"]["version"]) == ("talking heads", number)
    client = MlflowClient(tracking_uri=record["registered"]["tracking_uri"])
    version = client.get_model_version("talking heads", "2")
    steps = record["step"]
    told = {"recipe": "tiny", "config_hash": "5e77", "git_commit": "c0de", "stage": "mutual", "step": str(steps), "weights": "ema"}
    told |= {"data.manifest_sha256": sha256_file(run / "data" / "manifest.json"), "loss": f"{10 - steps}", "sync.few4.gap": "0.25"}
    assert told.items() <= version.tags.items()
    assert "probe.loss" not in version.tags, "it is of another step"
    figures = client.get_run(str(version.run_id)).data.metrics
    assert figures == {"loss": 10.0 - steps, "sync.few4.matched": 0.5, "sync.few4.shuffled": 0.25, "sync.few4.gap": 0.25}
    files = Path(client.download_artifacts(str(version.run_id), "model"))
    assert sorted(p.name for p in files.iterdir()) == ["audio.safetensors", "video.safetensors", "weights.json"]
    for path in files.iterdir():
        assert version.tags[f"sha256.{path.name}"] == sha256_file(path) == sha256_file(tmp_path / "2" / path.name)
    assert load_file(str(files / "video.safetensors"))


def test_what_comes_back_otherwise_than_it_was_sent_is_no_version(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch, before = MlflowClient.download_artifacts, len(versions(run))

    def damaged(self: MlflowClient, run_id: str, path: str, folder: str) -> str:
        file = Path(fetch(self, run_id, path, folder))
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        return str(file)

    monkeypatch.setattr(MlflowClient, "download_artifacts", damaged)
    said = export(run, tmp_path / "w", "--register", "damaged", code=1)
    assert "audio.safetensors came back from the artifact store with another hash" in said
    assert f"no version was made, the export in '{tmp_path / 'w'}' stands" in said
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["w"]
    assert (tmp_path / "w" / "weights.json").is_file()
    assert len(versions(run)) == before


def test_a_registry_that_is_away_fails_in_one_line_without_secrets(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closed() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("//", "//me:secret@"))
        said = export(run, tmp_path / "w", "--register", "heads", code=1)
    assert f"error: --register='heads': MLflow at {uri} cannot be reached (ConnectionError); no version was made" in said
    assert said.count("\n") == 1
    assert "secret" not in said
    assert load_file(str(tmp_path / "w" / "video.safetensors"))


@pytest.mark.parametrize(
    ("where", "name", "told"), [("", "a/b", "a model's name has letters"), ("checkpoints", "heads", "give the run folder")]
)
def test_what_cannot_be_registered_is_not_exported(run: Path, tmp_path: Path, where: str, name: str, told: str) -> None:
    assert told in export(run / where, tmp_path / "w", "--register", name, code=1)
    assert not (tmp_path / "w").exists()
