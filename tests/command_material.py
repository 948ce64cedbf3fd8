"""The installed command in a session of its own, so that a test can interrupt it as a terminal does and see what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

COMMAND = Path(sys.executable).with_name("mutual-forcing")
HIDDEN = {"RAY_ADDRESS", "MLFLOW_TRACKING_URI", "DS_ACCELERATOR"}


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    error: str

    @property
    def errors(self) -> list[str]:
        """Lines of failure, without those of progress."""
        return [line for line in self.error.splitlines() if line.startswith(("error: ", "stopped: "))]


class Running:
    """A command at work. All processes that it starts, and theirs, are in its session, whoever their parent is by then."""

    def __init__(self, *words: str, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  closed by __exit__
        self._error = tempfile.TemporaryFile()  # noqa: SIM115
        inherited = {k: v for k, v in os.environ.items() if k not in HIDDEN}
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child of a shell's background job would ignore Ctrl-C
        try:
            self._driver = subprocess.Popen(
                [*prefix, str(COMMAND), *words],
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=self._error,
                env=inherited | (environment or {}),
                start_new_session=True,
            )
        finally:
            signal.signal(signal.SIGINT, before)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():  # a failed test must not leave them either
            os.kill(pid, signal.SIGKILL)
        self._driver.wait()
        self._out.close()
        self._error.close()

    def until(self, reached: Callable[[], bool], seconds: float) -> None:
        """Wait until the work has come to a point."""
        deadline = time.monotonic() + seconds
        while not reached():
            assert self._driver.poll() is None, f"the command ended before that point: {self.said()}"
            assert time.monotonic() < deadline, f"that point was not reached in {seconds:g} s: {self.said()}"
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Ctrl-C: every process of the foreground group gets it."""
        os.killpg(self._driver.pid, signal.SIGINT)

    def terminate(self) -> None:
        """What `kill` and supervisors send, to this one process."""
        self._driver.terminate()

    def kill(self) -> None:
        """SIGKILL, to this one process: it can clean up nothing."""
        self._driver.kill()
        self._driver.wait()

    def wait(self, seconds: float) -> Said:
        """Its answer, when it has ended."""
        self._driver.wait(seconds)
        return self.said()

    @property
    def ended(self) -> int | None:
        """Its exit code, or None while it works."""
        return self._driver.poll()

    def said(self) -> Said:
        """What it has said so far."""
        texts = []
        for file in (self._out, self._error):
            texts.append(os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace"))
        code = self._driver.poll()
        return Said(-1 if code is None else code, texts[0], texts[1])

    def processes(self) -> set[int]:
        """Living processes of its session."""
        found = set()
        for process in psutil.process_iter(["pid", "status"]):
            try:
                if os.getsid(process.pid) == self._driver.pid and process.info["status"] != psutil.STATUS_ZOMBIE:
                    found.add(process.pid)
            except ProcessLookupError:
                pass  # it has ended between the list and the question
        return found

    def left_behind(self, seconds: float) -> set[int]:
        """Processes that still live `seconds` after the command has ended."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def command(*words: str, seconds: float = 300, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = ()) -> Said:
    """Run a command to its end."""
    with Running(*words, environment=environment, prefix=prefix) as running:
        return running.wait(seconds)
