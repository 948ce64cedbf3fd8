"""A train worker is killed in the mutual stage: Ray Train starts the workers again, and the run finishes as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import psutil
import pytest
from command_material import Running
from mlflow.tracking import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 10


def workers(running: Running) -> list[int]:
    """Train workers, oldest first."""
    processes = [psutil.Process(pid) for pid in running.processes()]
    found = [p for p in processes if "TrainWorker" in " ".join([p.name(), *p.cmdline()])]
    return [p.pid for p in sorted(found, key=psutil.Process.create_time)]


@pytest.mark.parametrize("victim", [0, -1])
def test_killed_trainers_go_on_with_the_mutual_stage(tmp_path: Path, victim: int) -> None:
    folder = tmp_path / "run"
    spool = folder / "metrics" / "mutual.jsonl"
    with Running("train", "tiny", "--out", str(folder), "--set", f"stages.mutual.steps={STEPS}", "--set", "checkpoint.every=2") as running:
        running.until(lambda: spool.is_file() and spool.read_bytes().count(b"\n") >= 5, 300)
        first = spool.read_bytes().splitlines()[0]
        os.kill(workers(running)[victim], signal.SIGKILL)
        answer = running.wait(400)
    assert answer.code == 0, answer.error
    lines = [json.loads(line) for line in spool.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(STEPS))
    assert lines[0] == json.loads(first), "what a checkpoint has is not done again"
    record = json.loads((folder / "run.json").read_text())
    assert [stage["name"] for stage in record["stages"]] == ["pretrain-video", "pretrain-audio", "joint", "mutual"]
    client = MlflowClient(tracking_uri=record["mlflow"]["tracking_uri"])
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (mutual,) = [run for run in runs if run.info.run_name == "tiny mutual"]
    sent = client.get_metric_history(mutual.info.run_id, "loss")
    assert sorted(m.step for m in sent) == list(range(STEPS)), "each step once"
