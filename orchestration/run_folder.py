"""A run folder: whose it is."""

from __future__ import annotations

from pathlib import Path

from ..datasets.lock import LOCK

RUN = "run.json"


def require_ours(run_dir: Path) -> None:
    """Refuse a folder with something else in it.

    Raises:
        ValueError: it holds files and no run.
    """
    if not (run_dir / RUN).is_file() and any(path.name != LOCK for path in run_dir.iterdir()):
        raise ValueError(f"run folder {str(run_dir)!r}: is not empty and holds no run; choose another with --out")
