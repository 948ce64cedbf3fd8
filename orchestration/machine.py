"""What this machine is, which versions it has, and of which commit this code is. Needs the standard library alone, for `doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from .. import __version__

PACKAGES = ("torch", "ray", "deepspeed", "mlflow", "pyarrow", "numpy")
CHECKOUT = Path(__file__).resolve().parents[1]
NO_CHECKOUT = "not a git checkout"


def machine() -> dict[str, Any]:
    """Cores, memory, GPUs and system; what cannot be asked here is None (memory) or none (GPUs)."""
    return {
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb("total"),
        "gpus": _gpus(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def free_memory_gb() -> float | None:
    """Memory that programs can have now."""
    return _memory_gb("available")


def versions() -> dict[str, str]:
    """The versions that a run is made with."""
    return {"python": platform.python_version()} | {package: version_of(package) or "not installed" for package in PACKAGES}


def version_of(package: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def needed_packages() -> list[str]:
    """The distributions that this one requires, or the most important of them where it runs from a checkout that is not installed."""
    try:
        required = importlib.metadata.requires("mutual-forcing") or []
    except importlib.metadata.PackageNotFoundError:
        return list(PACKAGES)
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line]


def git_state(root: Path = CHECKOUT) -> dict[str, Any]:
    """The commit of this code, and whether its files differ from it (None where that cannot be told). A module that git does not know is a
    difference: it is imported, and shipped with a job.
    """
    commit, top = _git(root, "rev-parse", "HEAD"), _git(root, "rev-parse", "--show-toplevel")
    changed = _git(root, "status", "--porcelain", "-z", "--untracked-files=all")
    if commit is None or top is None or Path(top).resolve() != root.resolve():  # an installed package may lie in somebody's checkout
        return {"git_commit": NO_CHECKOUT, "git_dirty": None}
    return {"git_commit": commit, "git_dirty": None if changed is None else any(map(_counts, changed.split("\0")))}


def _counts(line: str) -> bool:
    """Whether a line of git's status is of a change of the code."""
    return bool(line) and (not line.startswith("??") or line.endswith(".py"))


def version_line() -> str:
    """What `--version` says: the version, and of a checkout the commit."""
    state = git_state()
    if state["git_commit"] == NO_CHECKOUT:
        return f"mutual-forcing {__version__}"
    return f"mutual-forcing {__version__} (commit {state['git_commit'][:12]}{', with changes' if state['git_dirty'] else ''})"


def _git(root: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # no git here, or a disk that does not answer
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _memory_gb(which: str) -> float | None:
    try:
        import psutil
    except ImportError:
        return None
    return round(getattr(psutil.virtual_memory(), which) / 2**30, 1)


def _gpus() -> list[str]:
    try:
        import torch
    except (ImportError, OSError):  # OSError: a library that torch was built against is missing
        return []
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
