"""Failing calls on purpose, for a while: `mutual-forcing chaos` says on a machine which, and processes there that call see them fail.

A switch is a small file in a folder of this user on this machine. It names what fails and until when, at most `LONGEST` seconds from now,
so one that nobody removes ends by itself. Without the folder a call costs one look for it, about a microsecond.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import stat
import time
from contextlib import suppress
from pathlib import Path

FOLDER = Path(f"/tmp/mutual-forcing-faults-{os.getuid()}")  # not of TMPDIR: processes of a run may have different ones
LONGEST = 600.0  # seconds
MAX_BYTES = 4096


class FailsOnPurpose(ConnectionRefusedError):
    """A call that a switch has fail."""

    response = None  # as clients of HTTP say that no server gave one


def tracker_of(run_dir: Path | str) -> str:
    """What calls to the tracker of a run are called here; those to S3 are called by their s3:// URI."""
    return f"tracker:{run_dir}"


def switch_on(what: str, seconds: float, share: float = 1.0) -> Path:
    """Have a share of the calls to `what`, or to anything below it, fail on this machine; returns the switch.

    Raises:
        ValueError: for longer than a switch may last, or never.
        PermissionError: the folder of switches belongs to somebody else.
    """
    if not 0 < seconds <= LONGEST or not 0 < share <= 1:
        raise ValueError(f"seconds={seconds}, share={share}: must be more than 0, and at most {LONGEST:.0f} and 1")
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    if not _ours():
        raise PermissionError(errno.EPERM, "belongs to somebody else, or others may write there; remove it", str(FOLDER))
    path = _path(what)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"what": what, "until": time.time() + seconds, "share": share}))
    os.replace(temporary, path)
    return path


def switch_off(what: str) -> None:
    """Have calls to `what` work again."""
    _path(what).unlink(missing_ok=True)
    with suppress(OSError):  # there are others, or it is gone
        FOLDER.rmdir()


def may_fail(what: str) -> None:
    """Called before each call to `what`. Raises FailsOnPurpose while a switch is on for it."""
    try:
        names = os.listdir(FOLDER)
    except OSError:
        return
    if not names or not _ours():  # else others of this machine could stop a training
        return
    for name in names:
        until, share, of = _read(FOLDER / name)
        if (what == of or what.startswith(f"{of}/")) and 0 < until - time.time() <= LONGEST and random.random() < share:
            raise FailsOnPurpose(errno.ECONNREFUSED, "fails on purpose (mutual-forcing chaos)", what)


def _path(what: str) -> Path:
    return FOLDER / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"


def _ours() -> bool:
    try:
        about = FOLDER.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid() and not about.st_mode & 0o022


def _read(path: Path) -> tuple[float, float, str]:
    """Until when, which share, of what; nothing of a file that is gone, or is none of ours."""
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(MAX_BYTES))
        return float(said["until"]), float(said["share"]), str(said["what"]).rstrip("/")
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return 0.0, 0.0, ""
