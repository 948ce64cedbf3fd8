"""Train workers, or what controls them, are killed or hang in the mutual stage: they start again, and the run finishes as if nothing had
happened.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from command_material import Running
from mlflow.tracking import MlflowClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 10
DEADLINE = 20  # seconds; a step takes less than one, the first some more


def named(running: Running, name: str) -> list[psutil.Process]:
    """Processes of a command with this in their names, oldest first."""
    found = []
    for pid in running.processes():
        with suppress(psutil.NoSuchProcess):  # it has ended between the list and the question
            if name in " ".join([(process := psutil.Process(pid)).name(), *process.cmdline()]):
                found.append(process)
    return sorted(found, key=psutil.Process.create_time)


@pytest.mark.parametrize(("name", "victim"), [("TrainWorker", 0), ("TrainWorker", -1), ("TrainController", 0)])
def test_killed_trainers_go_on_with_the_mutual_stage(tmp_path: Path, name: str, victim: int) -> None:
    folder = tmp_path / "run"
    spool = folder / "metrics" / "mutual.jsonl"
    with Running("train", "tiny", "--out", str(folder), "--set", f"stages.mutual.steps={STEPS}", "--set", "checkpoint.every=2") as running:
        running.until(lambda: spool.is_file() and spool.read_bytes().count(b"\n") >= 5, 300)
        first = spool.read_bytes().splitlines()[0]
        named(running, name)[victim].kill()
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


def test_what_hangs_for_ever_is_ended_by_the_deadline_and_told(tmp_path: Path) -> None:
    """First the coordinator of the rollouts stops, so that all ranks wait; then one rank, so that the other waits in a collective."""
    folder, steps = tmp_path / "run", 12
    spool, stacks = folder / "metrics" / "mutual.jsonl", folder / "stacks"
    settings = (f"stages.mutual.steps={steps}", "rollouts.max_age=0", "checkpoint.every=1", f"workers.step_deadline_s={DEADLINE}")
    words = ["train", "tiny", "--out", str(folder), *(word for setting in settings for word in ("--set", setting))]
    with Running(*words) as running:
        running.until(lambda: spool.is_file() and spool.read_bytes().count(b"\n") >= 2, 300)
        attempt = spool.stat().st_ino
        (coordinator,) = named(running, "ray::Coordinator")
        coordinator.suspend()
        running.until(lambda: spool.stat().st_ino != attempt, 4 * DEADLINE + 150)  # another one takes its place, when it has not answered
        for rank in range(2):
            said = (stacks / f"rank-{rank}.txt").read_text()
            assert "no step ended for" in said
            assert "rollout_pool.py" in said, "where it waits"
        (stacks / "rank-0.txt").unlink()
        attempt, done = spool.stat().st_ino, spool.read_bytes().count(b"\n")
        running.until(lambda: spool.read_bytes().count(b"\n") > done, 120)
        trainers = named(running, "TrainWorker")
        trainers[-1].suspend()
        running.until(lambda: spool.stat().st_ino != attempt, 4 * DEADLINE + 120)
        assert len(list(stacks.iterdir())) == 2
        answer = running.wait(300)
        assert not running.left_behind(20)
    assert answer.code == 0, answer.error
    assert [json.loads(line)["step"] for line in spool.read_text().splitlines()] == list(range(steps))
    assert answer.error.count("it goes on from its last checkpoint") == 2
