"""What this machine has, and what will not work on it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil

from ..datasets.ffmpeg_child import ffmpeg_path
from .launch import PACKAGES, machine

NEEDED_MEMORY_GB = 6
NEEDED_DISK_GB = 2


def examine() -> dict[str, Any]:
    """Cores, memory, GPUs, ffmpeg, versions, free disk, shared memory for Ray's object store, and a list of problems."""
    here = machine()
    disk = shutil.disk_usage(Path.cwd()).free / 2**30
    shared = shutil.disk_usage("/dev/shm").free / 2**30 if os.path.isdir("/dev/shm") else 0.0
    free = psutil.virtual_memory().available / 2**30
    ffmpeg = ffmpeg_path()
    first = subprocess.run([ffmpeg, "-version"], capture_output=True, text=True, check=False, timeout=20).stdout.splitlines()
    problems = []
    if free < NEEDED_MEMORY_GB:
        problems.append(f"`train demo` wants {NEEDED_MEMORY_GB} GB of free memory, {free:.1f} GB are free; close other programs")
    if disk < NEEDED_DISK_GB:
        problems.append(f"a run wants {NEEDED_DISK_GB} GB of disk, {disk:.1f} GB are free here; free some or use --out")
    if (here["cores"] or 1) < 2:
        problems.append("two train workers on one core take turns: runs take twice as long; --set workers.count=1 saves memory")
    if shared < 0.5:
        problems.append(f"/dev/shm has {shared:.1f} GB: Ray's object store falls back to disk and is slow; enlarge it")
    if here["gpus"]:
        problems.append("training on the GPU is not supported yet: it runs on the CPU cores")
    return {
        **here,
        "free_memory_gb": round(free, 1),
        "free_disk_gb": round(disk, 1),
        "object_store_gb": round(min(shared * 0.95, free * 0.3), 1),
        "ffmpeg": f"{ffmpeg} ({first[0] if first else 'does not answer'})",
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES},
        "problems": problems,
    }
