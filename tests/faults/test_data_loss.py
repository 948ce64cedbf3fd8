"""Processes of Ray Data are killed while they prepare a dataset: the job goes on, and makes what it would have made."""

from __future__ import annotations

import random
import time
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
        for task in ("Survey", "MakePart"):
            running.until(lambda task=task: kill_a_task(running, task), 200)
        answer = running.wait(300)
    assert answer.code == 0, answer.error
    assert made(lost) == made(whole)


def made(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("seed", range(4))
def test_a_command_that_is_killed_goes_on_and_makes_the_same(tmp_path: Path, seed: int) -> None:
    """Five times at moments drawn at random: the driver alone, which cannot clean up, with what it started."""
    dice, whole = random.Random(seed), tmp_path / "whole"
    answer = command(*words(tmp_path))
    assert answer.code == 0, answer.error
    (tmp_path / "data").rename(whole)
    for _ in range(5):
        with Running(*words(tmp_path)) as running:
            begun, wait = time.monotonic(), dice.uniform(6, 20)
            running.until(
                lambda begun=begun, wait=wait: time.monotonic() > begun + wait or (tmp_path / "data" / "manifest.json").is_file(), 60
            )
            running.kill()
    answer = command(*words(tmp_path))
    assert answer.code == 0, answer.error
    assert made(tmp_path / "data") == made(whole)
