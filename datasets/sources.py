"""What the user gave: every file listed, but for the text that lies beside media (sidecars.py)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .sidecars import SIDECARS, is_text

MAX_SOURCES = 1_000_000
NOT_MEDIA = {*SIDECARS, ".csv", ".md", ".jsonl", ".html", ".log", ".yaml", ".yml"}


def list_sources(folder: Path) -> list[Path]:
    """Everything below `folder` but folders, hidden files and the sidecars of listed files, sorted.

    Links are listed and not followed; so is a folder that cannot be opened. `unfollowed` says why such a one is refused.

    Raises:
        ValueError: the folder is missing, is no folder, is empty, or has a name that is not UTF-8.
    """
    if not is_text(str(folder)):
        raise ValueError(f"data.media={str(folder)!r}: this name is not UTF-8; rename the folder")
    if not folder.is_dir():
        raise ValueError(f"data.media={str(folder)!r}: no such folder; give one that holds video files")
    files = sorted(_walk(folder))
    stems = {p.with_suffix("") for p in files if p.suffix.lower() not in NOT_MEDIA}
    listed = [p for p in files if not (p.suffix in SIDECARS and p.with_suffix("") in stems) and not _is_corpus_ticket(p)]
    if not listed:
        raise ValueError(f"data.media={str(folder)!r}: the folder holds no files; put video files there")
    if len(listed) > MAX_SOURCES:
        raise ValueError(f"data.media={str(folder)!r}: {len(listed)} files, at most {MAX_SOURCES} in one dataset; split the folder")
    return listed


def _walk(folder: Path) -> Iterator[Path]:
    closed: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (Path(place, name) for name in (*files, *links) if not name.startswith("."))
    yield from (Path(error.filename) for error in closed)


def unfollowed(path: Path, folder: Path) -> str:
    """Why a listed path is not even looked into, or an empty text."""
    if path.is_symlink():
        if not os.path.exists(path):
            return "a link to what is not there"
        if path.is_dir():
            return "a link to a folder, which is not followed: give that folder itself, or copy it here"
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            return "a link that leads out of the folder: copy the file here"
    elif path.is_dir():
        return "a folder that cannot be opened: change its permissions"
    return ""


def _is_corpus_ticket(path: Path) -> bool:
    return path.name == "corpus.json"
