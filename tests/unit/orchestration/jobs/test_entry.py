"""The process of a job: a driver that something killed is started again, one that ends by itself ends the job, a stop is passed on."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from mutual_forcing.orchestration.jobs import entry
from mutual_forcing.orchestration.jobs.entry import Driver, supervise


def driver(folder: Path, code: str) -> Driver:
    """A child that counts its starts in a file, and does this in the one of that number: `starts`."""
    count = f"import os, signal, time; p = {str(folder / 'starts')!r}; open(p, 'a').write('x'); starts = os.path.getsize(p); "
    return Driver([sys.executable, "-c", count + code])


def starts(folder: Path) -> int:
    path = folder / "starts"
    return path.stat().st_size if path.exists() else 0


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entry, "pause_s", lambda failures: 0.0)


@pytest.mark.parametrize("code", [0, 1, 7])
def test_an_end_of_its_own_is_the_jobs(tmp_path: Path, code: int) -> None:
    assert supervise(driver(tmp_path, f"os._exit({code})"), restarts=5) == code
    assert starts(tmp_path) == 1


def test_a_killed_one_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "os.kill(os.getpid(), signal.SIGKILL) if starts < 3 else os._exit(0)"
    assert supervise(driver(tmp_path, code), restarts=5) == 0
    assert starts(tmp_path) == 3
    assert capsys.readouterr().out.count("signal 9 ended the driver") == 2


def test_a_crash_loop_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert supervise(driver(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)"), restarts=2) == 128 + signal.SIGKILL
    assert starts(tmp_path) == 3
    assert capsys.readouterr().out.splitlines()[-1].startswith("error: signal 9 ended the driver, 3 times in all")


def test_a_stop_is_passed_on_and_waited_for(tmp_path: Path) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), os._exit(5))); open(p + '-ready', 'w'); time.sleep(60)"
    running, done = driver(tmp_path, code), list[int]()
    thread = threading.Thread(target=lambda: done.append(supervise(running, restarts=5)))
    thread.start()
    while not (tmp_path / "starts-ready").exists():
        time.sleep(0.01)
    running.stop()
    thread.join(30)
    assert done == [5]
    assert starts(tmp_path) == 1, "a driver that was told to stop is not started again"


def test_a_stop_before_the_start_starts_nothing(tmp_path: Path) -> None:
    running = driver(tmp_path, "os._exit(0)")
    running.stop()
    assert supervise(running, restarts=5) == 128 + signal.SIGTERM
    assert starts(tmp_path) == 0


def test_a_secret_that_cannot_be_read_starts_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MUTUAL_FORCING_SECRETS", "KEY=file:/nowhere/at/all")
    assert entry.main(["--", "train", "tiny"]) == 1
    assert capsys.readouterr().err.startswith("error: --secret KEY: ")
    assert "KEY" not in os.environ
