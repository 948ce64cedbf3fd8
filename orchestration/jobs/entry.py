"""The process of a job on the cluster: it runs the driver as its child, and starts it again when something killed it.

A driver that ends by itself, well or not, ends the job with the same code. One that a signal ended (no memory, an impatient operator) goes
on from the last checkpoint. SIGTERM, which Ray sends to stop a job, is passed on: the driver has a checkpoint written first.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..failure_policy import Failure, Verdict, decide_run, pause_s
from .secrets import resolve

WINDOW_S = 3600.0  # what is killed more often than that many restarts within an hour, would be killed again


class Driver:
    """The child, and whether somebody asked to stop."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False

    def run(self) -> int:
        """Start it and wait; returns its code, negative where a signal ended it."""
        if self._stopping:
            return -signal.SIGTERM
        self._child = subprocess.Popen(self._command)
        if self._stopping:  # between the question and the start
            self._child.terminate()
        return self._child.wait()

    def stop(self, *_: object) -> None:
        """Of SIGTERM."""
        self._stopping = True
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()

    @property
    def is_stopping(self) -> bool:
        return self._stopping


def supervise(driver: Driver, restarts: int) -> int:
    """Run the driver until it ends by itself, is stopped, or was killed more than `restarts` times within an hour; returns its code."""
    failures: list[Failure] = []
    while True:
        code = driver.run()
        if code >= 0 or driver.is_stopping:
            return code if code >= 0 else 128 - code
        cause = f"signal {-code} ended the driver"
        failures.append(Failure(time.monotonic(), cause, curable=True, steps=len(failures)))
        if decide_run(failures, restarts, WINDOW_S) is Verdict.STOP:
            print(
                f"error: {cause}, {len(failures)} times in all; look for what kills it (memory of the head?), then resume the job",
                flush=True,
            )
            return 128 - code
        pause = pause_s(failures)
        print(f"warning: {cause}; it is started again{f' in {pause:.0f} s' if pause else ''} (restart {len(failures)})", flush=True)
        time.sleep(pause)


def main(arguments: Sequence[str]) -> int:
    """The command of the job: its options, `--`, and the words of `mutual-forcing`."""
    parser = argparse.ArgumentParser(prog="python -m mutual_forcing.orchestration.jobs.entry", description=__doc__)
    parser.add_argument("--restarts", type=int, default=5, help="of a driver that a signal ended, within an hour")
    parser.add_argument("command", nargs="+", help="verb and options of mutual-forcing")
    given = parser.parse_args(arguments)
    try:
        resolve()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    words = [os.path.expanduser(word) if word.startswith("~/") else word for word in given.command]
    Path.home().joinpath("mutual-forcing").mkdir(exist_ok=True)
    driver = Driver([sys.executable, "-m", "mutual_forcing", *words])
    signal.signal(signal.SIGTERM, driver.stop)
    return supervise(driver, given.restarts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
