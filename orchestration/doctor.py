"""What this machine has, and what will not work on it. Nothing that may be missing is needed to say so."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from .machine import free_memory_gb, machine, needed_packages, version_of, versions

NEEDED_MEMORY_GB = 6
NEEDED_DISK_GB = 1
FAILS, SLOW, NOTE = "will not work", "slow", "note"


def examine() -> dict[str, Any]:
    """Cores, memory, GPUs, ffmpeg, versions, free disk, shared memory for Ray's object store, and problems: each `kind` and `text`."""
    here = machine()
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if os.path.isdir("/dev/shm") else 0.0
    free = free_memory_gb()
    ffmpeg, ffmpeg_version, ffmpeg_problem = _ffmpeg()
    missing = [package for package in needed_packages() if version_of(package) is None]
    problems: list[tuple[str, str]] = []
    if missing:
        problems.append((FAILS, f"{', '.join(missing)}: not installed; run `make setup`, or `pip install .` in the checkout"))
    if ffmpeg_problem:
        problems.append((FAILS, f"reading and writing media: {ffmpeg_problem}"))
    if disk < NEEDED_DISK_GB:
        problems.append((FAILS, f"a run wants {NEEDED_DISK_GB} GB of disk, {disk:.1f} GB are free here; free some or use --out"))
    if free is not None and free < NEEDED_MEMORY_GB:
        text = f"`train demo` may take {NEEDED_MEMORY_GB} GB of memory, {free:.1f} GB are free; close other programs if it is killed"
        problems.append((NOTE, text))
    if (here["cores"] or 1) < 2:
        problems.append((SLOW, "two train workers take turns on one core; --set workers.count=1 saves memory"))
    if shared < 0.5:
        problems.append((SLOW, f"/dev/shm has {shared:.1f} GB free: Ray's object store falls back to disk; enlarge it"))
    if here["gpus"]:
        alone = "workers.count=1 workers.gpus=0.5 rollouts.gpus=0.25"
        problems.append((NOTE, f"training uses the CPU cores unless --set workers.use_gpu=true (and, with one GPU, --set {alone})"))
    return {
        **here,
        "free_memory_gb": free,
        "free_disk_gb": round(disk, 1),
        "object_store_gb": None if free is None else round(min(shared * 0.95, free * 0.3), 1),
        "ffmpeg": ffmpeg,
        "ffmpeg_version": ffmpeg_version,
        "versions": versions(),
        "problems": [{"kind": kind, "text": text} for kind, text in problems],
    }


def _ffmpeg() -> tuple[str | None, str | None, str]:
    """Path and version of the ffmpeg that is used, or the reason why none is."""
    try:
        from ..datasets.ffmpeg.ffmpeg_child import MediaError, ffmpeg_path
    except ImportError as error:
        return None, None, f"{error.name}: not installed, and it brings ffmpeg"
    try:
        path = ffmpeg_path()
        said = subprocess.run([path, "-version"], capture_output=True, text=True, check=False, timeout=20).stdout.splitlines()
    except MediaError as error:
        return None, None, str(error)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, None, f"ffmpeg does not run here ({type(error).__name__}); install ffmpeg 5.1 or newer"
    if not said:
        return path, None, f"{path} does not answer; install ffmpeg 5.1 or newer"
    return path, said[0].removeprefix("ffmpeg version ").split(" ")[0], ""
