"""Processes of Ray Data are killed while they prepare a dataset: the job goes on, and makes what it would have made."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from command_material import Running, command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def words(folder: Path) -> list[str]:
    return ["data", "prepare", "synthetic", "--recipe", "tiny", "--out", str(folder / "data"), "--set", "data.synthetic_count=24"]


def kill_a_task(running: Running, name: str) -> bool:
    """SIGKILL to a process that is just running a task with this in its name, if there is one."""
    for pid in running.processes():
        try:
            if (process := psutil.Process(pid)).name().startswith("ray::") and name in process.name():
                process.kill()
                return True
        except psutil.NoSuchProcess:
            pass  # it has ended between the list and the question
    return False


def test_lost_data_tasks_are_done_again(tmp_path: Path) -> None:
    whole, lost = tmp_path / "whole", tmp_path / "data"
    answer = command(*words(tmp_path))
    assert answer.code == 0, answer.error
    lost.rename(whole)
    with Running(*words(tmp_path)) as running:
        for task in ("Survey", "Encode"):
            running.until(lambda task=task: kill_a_task(running, task), 200)
        answer = running.wait(300)
    assert answer.code == 0, answer.error
    made = [{p.name: p.read_bytes() for p in folder.iterdir() if p.name != ".lock"} for folder in (lost, whole)]
    assert len(made[0]) == 4, "shard, manifest, account of the sources, contact sheet"
    assert made[0] == made[1]
