"""What is broken for a while is mended by a process of its own: on time, when it is asked to, and when whoever asked was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mutual_forcing.orchestration.chaos import holder
from mutual_forcing.orchestration.chaos.acts import hold
from mutual_forcing.orchestration.chaos.holder import SUFFIX, Gone, send, started_of


@pytest.fixture
def victim() -> Iterator[psutil.Process]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)
    yield psutil.Process(process.pid)
    process.kill()
    process.wait()


def until(reached: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_stopped(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


def test_what_is_frozen_thaws_by_itself(victim: psutil.Process) -> None:
    hold({"act": "freeze", "pid": victim.pid, "started": started_of(victim.pid), "seconds": 8.0})
    until(lambda: is_stopped(victim))  # a busy machine takes its time
    until(lambda: not is_stopped(victim))


def test_it_thaws_also_when_whoever_asked_was_killed(victim: psutil.Process) -> None:
    order = {"act": "freeze", "pid": victim.pid, "started": started_of(victim.pid), "seconds": 8.0}
    code = f"from mutual_forcing.orchestration.chaos.acts import hold; hold({order!r}); import time; time.sleep(300)"
    asker = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    until(lambda: is_stopped(victim), 120)
    os.killpg(asker.pid, signal.SIGKILL)
    asker.wait()
    until(lambda: not is_stopped(victim))


def test_it_thaws_at_once_when_it_is_asked_to(victim: psutil.Process) -> None:
    held = hold({"act": "freeze", "pid": victim.pid, "started": started_of(victim.pid), "seconds": 300.0})
    until(lambda: is_stopped(victim))
    send(held["pid"], held["started"], signal.SIGTERM)
    until(lambda: not is_stopped(victim))
    until(lambda: not psutil.pid_exists(held["pid"]))


def test_another_process_with_the_number_gets_no_signal(victim: psutil.Process) -> None:
    order = {"act": "freeze", "pid": victim.pid, "started": started_of(victim.pid) + 1, "seconds": 300.0}
    assert "another one has its number" in hold(order)["error"]
    assert not is_stopped(victim)
    with pytest.raises(Gone):
        send(victim.pid, started_of(victim.pid) - 1, signal.SIGKILL)
    assert victim.is_running()


def test_a_damaged_file_comes_back_as_it_was(tmp_path: Path) -> None:
    path, original = tmp_path / "a.mp4", os.urandom(100_000)
    path.write_bytes(original)
    before = path.stat()
    held = hold({"act": "media", "path": str(path), "seconds": 300.0})
    damaged = path.read_bytes()
    assert damaged != original
    assert damaged[:1000] == original[:1000]
    assert (len(damaged), path.stat().st_mtime_ns) == (len(original), before.st_mtime_ns), "nothing but its content tells"
    assert (tmp_path / f".a.mp4{SUFFIX}").read_bytes() == original
    send(held["pid"], held["started"], signal.SIGTERM)
    until(lambda: path.read_bytes() == original)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_a_file_that_nobody_mended_is_mended_first(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"whole" * 1000)
    holder.damage(str(path))
    holder.damage(str(path))
    assert holder.mend_file(str(path))
    assert path.read_bytes() == b"whole" * 1000
    assert not holder.mend_file(str(path))


DRIVER = """
import os, sys, time
open("lock", "w").write(f"{os.getpid()} on here\\n")
open("told", "a").write(f"{os.getpid()} {os.environ['WORD']} {sys.argv[1:]}\\n")
time.sleep(300)
"""


def revived(folder: Path, wait_s: float) -> tuple[subprocess.Popen, dict[str, Any]]:
    (folder / "driver.py").write_text(DRIVER)
    driver = subprocess.Popen([sys.executable, "driver.py", "a b"], cwd=folder, env=os.environ | {"WORD": "kept"}, start_new_session=True)
    until(lambda: (folder / "told").is_file() and (folder / "told").read_text().endswith("\n"))
    order = {"act": "revive", "pid": driver.pid, "started": started_of(driver.pid), "wait_s": wait_s}
    held = hold(order | {"lock": str(folder / "lock"), "log": str(folder / "log")})
    assert driver.wait(10) == -signal.SIGKILL
    assert held["command"][1:] == ["driver.py", "a b"]
    return driver, held


def test_a_killed_driver_is_started_again_as_it_was(tmp_path: Path) -> None:
    driver, _ = revived(tmp_path, 0.0)
    until(lambda: (tmp_path / "told").read_text().count("\n") == 2)
    old, new = (line.split(" ", 1) for line in (tmp_path / "told").read_text().splitlines())
    os.kill(int(new[0]), signal.SIGKILL)
    assert old[0] == str(driver.pid)
    assert old[1] == new[1] == "kept ['a b']"


def test_one_that_somebody_else_started_is_left_alone(tmp_path: Path) -> None:
    _, held = revived(tmp_path, 300.0)
    (tmp_path / "lock").write_text(f"{os.getpid()} on here\n")
    until(lambda: not psutil.pid_exists(held["pid"]))
    assert (tmp_path / "told").read_text().count("\n") == 1


def test_an_order_that_cannot_be_carried_out_says_why(tmp_path: Path) -> None:
    assert "FileNotFoundError" in hold({"act": "media", "path": str(tmp_path / "none.mp4"), "seconds": 1.0})["error"]
