"""A process of its own that breaks one thing on its machine and mends it by a deadline, whatever becomes of whoever asked for it.

    order (JSON, stdin) -> break it -> one line (JSON, stdout) -> wait: seconds, or SIGTERM -> mend it -> end

Run as a file by any Python: it imports the standard library alone. Orders:

    freeze  pid, started, seconds           SIGSTOP, then SIGCONT
    media   path, seconds                   the file has other bytes; the original lies beside it meanwhile, and comes back with a rename
    revive  pid, started, wait_s, lock, log SIGKILL; then the same command in the same folder and environment, unless somebody else has
                                            started one by then: the file `lock` names another process (wait_s < 0: never)
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Any

SUFFIX = ".chaos-original"  # after the name of a media file, and a dot before it, while it is damaged: hidden files are no sources
LOOK = 0.2  # seconds


class Gone(Exception):
    """The process has ended, or another one has its number."""


def started_of(pid: int) -> int:
    """When a process was started, in ticks since the machine was: with its number, that names it for ever. Raises Gone: there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError as error:
        raise Gone(f"process {pid} has ended") from error
    if fields[0] in (b"Z", b"X"):
        raise Gone(f"process {pid} has ended")
    return int(fields[19])


def send(pid: int, started: int, number: int) -> None:
    """Send a signal to this very process. Raises Gone: it has ended."""
    try:
        handle = os.pidfd_open(pid)  # whoever has the number from here on stays the one that gets the signal
    except OSError as error:
        raise Gone(f"process {pid} has ended") from error
    try:
        if started_of(pid) != started:
            raise Gone(f"process {pid} has ended, and another one has its number")
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def original_of(path: str) -> str:
    """Where the original of a damaged file is."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}{SUFFIX}")


def damage(path: str) -> None:
    """Give a file other bytes in its middle; it keeps its size and time, and its original lies beside it."""
    mend_file(path)
    size = os.stat(path).st_size
    descriptor, temporary = tempfile.mkstemp(prefix=".chaos-", suffix=".tmp", dir=os.path.dirname(path))
    try:
        with open(path, "rb") as original, open(descriptor, "r+b") as file:
            shutil.copyfileobj(original, file)
            for at in range(size // 4, size - size // 8, 4096):
                file.seek(at)
                file.write(os.urandom(min(2048, size - at)))
        shutil.copystat(path, temporary)
        os.link(path, original_of(path))
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)


def mend_file(path: str) -> bool:
    """Have the original back where one lies beside; whether one did."""
    try:
        os.replace(original_of(path), path)
    except FileNotFoundError:
        return False
    return True


def holder_of(lock: str) -> int:
    """The process that a run folder's lock names; 0 where it names none that lives."""
    try:
        with open(lock) as file:
            pid = int(file.read(100).split()[0])
        started_of(pid)
    except (OSError, ValueError, IndexError, Gone):
        return 0
    return pid


def _wait(seconds: float, over: Any = lambda: False) -> None:
    """For so long, or until SIGTERM."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not over():
        if signal.sigtimedwait({signal.SIGTERM}, min(left, LOOK)) is not None:
            return


def _told(**what: Any) -> None:
    """Say that it is broken, and hold nothing of whoever asked."""
    print(json.dumps({"pid": os.getpid(), "started": started_of(os.getpid()), **what}), flush=True)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)


def _freeze(pid: int, started: int, seconds: float) -> None:
    send(pid, started, signal.SIGSTOP)
    try:
        _told()
        _wait(seconds)
    finally:
        with suppress(Gone):
            send(pid, started, signal.SIGCONT)


def _media(path: str, seconds: float) -> None:
    try:
        damage(path)
        _told(path=path)
        _wait(seconds)
    finally:
        mend_file(path)


def _revive(pid: int, started: int, wait_s: float, lock: str, log: str) -> None:
    here = f"/proc/{pid}"
    with open(f"{here}/cmdline", "rb") as file:
        words = file.read().split(b"\0")[:-1]
    with open(f"{here}/environ", "rb") as file:
        environment = {name: value for name, found, value in (pair.partition(b"=") for pair in file.read().split(b"\0")) if found}
    folder, alone = os.readlink(f"{here}/cwd"), os.getpid()
    send(pid, started, signal.SIGKILL)
    _told(command=[os.fsdecode(word) for word in words])
    if wait_s < 0:
        return
    _wait(wait_s, lambda: holder_of(lock) not in (0, pid, alone))
    if holder_of(lock) in (0, pid):
        for number in (signal.SIGINT, signal.SIGHUP):  # it must not inherit what this process does with signals
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.makedirs(os.path.dirname(log), exist_ok=True)
        with open(log, "ab") as out:
            subprocess.Popen(words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


ACTS = {"freeze": _freeze, "media": _media, "revive": _revive}


def main() -> None:
    order = json.loads(sys.stdin.read())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it ends a wait, and nothing else
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if os.fork():  # whoever asked is nobody's parent then
        os._exit(0)
    os.setsid()
    try:
        ACTS[order.pop("act")](**order)
    except (Gone, OSError) as error:
        _told(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
