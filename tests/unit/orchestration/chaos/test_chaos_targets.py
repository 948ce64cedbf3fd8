"""Who may be hit: processes that both Ray and their machine take for the run's, and nobody else on the cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from mutual_forcing.orchestration.chaos.acts import hold_own, kill
from mutual_forcing.orchestration.chaos.holder import started_of
from mutual_forcing.orchestration.chaos.targets import NOBODY, Job, Process, driver_of, job_of, on, sorted_targets, targets_of
from mutual_forcing.orchestration.jobs.secrets import REFERENCES

NODE = "a" * 56


def actor(name: str, pid: int, node: str = NODE) -> dict[str, Any]:
    return {"ActorClassName": name, "Pid": pid, "Address": {"NodeID": node}}


def process(pid: int, title: str, node: str = NODE, started: int = 0, job: str = "01000000") -> Process:
    return Process(node, pid, started or pid, title, job)


def test_kinds_follow_from_the_classes_of_actors_and_tasks_are_data_work() -> None:
    actors = [
        actor("RayTrainWorker", 12),
        actor("RayTrainWorker", 11),
        actor("RolloutActor", 13),
        actor("Coordinator", 14),
        actor("TrainController", 15),
        actor("MapWorker(MapBatches(Encode))", 16),
        actor("PoolWorker", 17),
        actor("RolloutActor", 99),
    ]
    found = [process(a["Pid"], f"ray::{a['ActorClassName']}.work") for a in actors[:-1]]
    found += [process(18, "ray::FlatMap(StreamSource)"), process(19, "ray::IDLE"), process(20, "ray::other_task", job=NOBODY)]
    targets = {kind: [p.pid for p in processes] for kind, processes in sorted_targets(actors, found).items()}
    assert targets == {"worker": [11, 12], "rollout": [13], "coordinator": [14], "data": [16, 17, 18]}, "no machine has process 99"


def test_a_number_alone_names_nobody_it_is_of_a_machine() -> None:
    theirs = process(11, "ray::RayTrainWorker", "b" * 56, job=NOBODY)
    assert sorted_targets([actor("RayTrainWorker", 11, "b" * 56)], [process(11, "ray::IDLE"), theirs]) == {"worker": [theirs]}
    other = process(11, "ray::Coordinator", "b" * 56, job=NOBODY)
    assert sorted_targets([actor("RayTrainWorker", 11, "b" * 56)], [other]) == {}, "another one has its number by now"


def test_the_oldest_comes_first() -> None:
    actors = [actor("RayTrainWorker", pid) for pid in (1, 2, 3)]
    targets = sorted_targets(actors, [process(pid, "ray::RayTrainWorker", started=at) for pid, at in ((1, 30), (2, 10), (3, 20))])
    assert [p.pid for p in targets["worker"]] == [2, 3, 1]


@ray.remote(num_cpus=0)
class RolloutActor:
    """Has the name of a rollout actor, in a job of ours."""

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def victim(ray_cluster: str) -> Iterator[tuple[Job, Any]]:
    own: Any = RolloutActor.remote()  # type: ignore[attr-defined]
    ray.get(own.pid.remote())
    context = ray.get_runtime_context()
    words = " ".join(psutil.Process().cmdline())
    yield Job(context.get_job_id(), "/runs/one", "", context.get_node_id(), "127.0.0.1", os.getpid(), words, False, {}), own
    ray.kill(own)


def test_a_real_job_and_nobody_of_another_is_found_and_killed(victim: tuple[Job, Any]) -> None:
    job, own = victim
    pid = ray.get(own.pid.remote())
    there = targets_of(job)
    assert pid in [p.pid for p in there["rollout"]]
    assert [p.pid for p in there["driver"]] == [os.getpid()]
    target = next(p for p in there["rollout"] if p.pid == pid)
    other = Job("ffff0000", job.run_dir, "", job.node, job.address, job.pid, "another command", False, {})
    assert targets_of(other) == {"driver": []}
    assert not on(job.node, job, kill, Process(target.node, pid, target.started + 1, target.title), job.job), (
        "it was started at another time"
    )
    later = Process(target.node, pid, target.started + 1, target.title)
    assert "ended" in on(job.node, job, hold_own, later, job.job, job.words, {"act": "freeze"})["error"]
    assert psutil.Process(pid).is_running()
    assert on(job.node, job, kill, target, job.job)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_work_knows_the_secrets_of_a_submitted_job(victim: tuple[Job, Any], tmp_path: Path) -> None:
    """By reference, as the job's own processes: a store may ask for them."""
    (tmp_path / "secret").write_text("canary\n")
    job = replace(victim[0], runtime_env={"env_vars": {REFERENCES: f"MF_TEST_KEY=file:{tmp_path / 'secret'}"}})
    assert on(job.node, job, os.getenv, "MF_TEST_KEY") == "canary"


def test_a_driver_is_known_by_its_command(victim: tuple[Job, Any]) -> None:
    job, _ = victim
    assert driver_of(job.node, os.getpid(), job.words)[0].started == started_of(os.getpid())
    assert driver_of(job.node, os.getpid(), "mutual-forcing train demo") == []
    assert driver_of(job.node, 2**22 + 1, job.words) == []


def test_a_run_that_nobody_trains_is_told(ray_cluster: str) -> None:
    with pytest.raises(ValueError, match=r"run '/runs/none': nobody trains it on the cluster .*: none"):
        job_of("/runs/none")
