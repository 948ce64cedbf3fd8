"""What a folder of many clips says of them: `provenance.jsonl`, a line a clip, which a killed job leaves true.

    actor: clip gets its name -> .ID.line (whole or not there)
    driver: at start and end, and as rows come -> provenance.jsonl, and .ID.line is gone

Rows come out of Ray Data later than clips get their names; what is lost between is told by the actor's own line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...datasets.places.storage import atomic_path, sha256_file

PROVENANCE = "provenance.jsonl"
SUFFIX = ".mp4"
NOTE = ".line"  # behind a dot and an id
RANDOM = "[0-9a-f]" * 16
UNFINISHED = (f".{RANDOM}.part{SUFFIX}", f".{RANDOM}.unsigned{SUFFIX}", f"..*{NOTE}.*.tmp", f".{PROVENANCE}.*.tmp")  # that got no name
MAX_NOTE_BYTES = 1 << 20
Line = dict[str, Any]


def note(folder: Path, line: Mapping[str, Any]) -> None:
    """Write the line of a clip that has just got its name."""
    with atomic_path(_note_of(folder, line["id"])) as part:
        part.write_text(json.dumps(line, ensure_ascii=False), encoding="utf-8")


def append(folder: Path, line: Mapping[str, Any]) -> None:
    """Add a line; the actor's own is not needed any more."""
    with (folder / PROVENANCE).open("ab") as file:
        file.write(b"\n" + json.dumps(line, ensure_ascii=False).encode() + b"\n")  # a line that a killed job wrote by half ends here
        file.flush()
        os.fsync(file.fileno())
    _note_of(folder, line["id"]).unlink(missing_ok=True)


def gather(folder: Path) -> None:
    """Add the lines of clips whose rows never came."""
    for path in sorted(folder.glob(f".*{NOTE}")):
        line = None if path.stat().st_size > MAX_NOTE_BYTES else _line(path.read_text(encoding="utf-8", errors="replace"))
        if line is not None and _note_of(folder, line["id"]) == path:
            append(folder, line)
        path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a killed job has not finished. Nobody else may be working in the folder."""
    for pattern in UNFINISHED:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def whole(folder: Path, rows: Sequence[Line], identity: str) -> dict[str, Line]:
    """Lines of rows whose clips are there as they were made, by these weights."""
    lines = _lines(folder)
    found = dict[str, Line]()
    for row in rows:
        line, path = lines.get(row["id"], {}), folder / f"{row['id']}{SUFFIX}"
        same = (line.get("request"), line.get("model")) == (row["request"], identity) and "error" not in line
        if same and path.is_file() and sha256_file(path) == line.get("sha256"):
            found[row["id"]] = line
    return found


def put_in_order(folder: Path, ids: Sequence[str]) -> None:
    """One line an id, those of this job first and in their order."""
    lines = _lines(folder)
    known = set(ids)
    order = [*(i for i in ids if i in lines), *(i for i in lines if i not in known)]
    with atomic_path(folder / PROVENANCE) as temporary:
        temporary.write_text("".join(json.dumps(lines[i], ensure_ascii=False) + "\n" for i in order), encoding="utf-8")


def _note_of(folder: Path, name: str) -> Path:
    return folder / f".{name}{NOTE}"


def _lines(folder: Path) -> dict[str, Line]:
    """The newest line of each id; what a killed job wrote by half is left out."""
    path = folder / PROVENANCE
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    return {line["id"]: line for line in map(_line, texts) if line is not None}


def _line(text: str) -> Line | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("id"), str) else None
