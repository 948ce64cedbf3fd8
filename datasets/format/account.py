"""The account of sources: one line for each that was ever named, used or refused, whatever became of it.

    looked into (look.py) --+
                            +--> SourceLine, a line of sources.jsonl
    made (making.py) -------+

Together with the shards, whose rows name their source, this is the ledger source -> clip -> row; audit.py proves that it adds up.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from sys import intern
from typing import Any

from ..places.store import Store

SOURCES = "sources.jsonl"
MAX_ACCOUNT = 4 << 30  # bytes
UNREAD = "read"  # the stage of what could not be read: the next job tries again by itself
REMEDY = "prepare the data again into another folder"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A clip that was not made: where it begins in its source, and why."""

    start_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class SourceLine:
    """What became of a source.

    path: its name in the inputs; status: used or refused, with the stage and reason of a refusal, what ffmpeg said, and how often it was
    tried; note: what a user should know of a used one. clips: that were made; left_out: the others. seconds, frames, samples: as decoded.
    av_offset_ms: how much later than the pictures the sound begins in the container, which clips no longer have; timing: what else was
    found on its clock. content: SHA-256 of its bytes; where: it was; stamp: shows whether it changes; tags: of a
    list and of what lies beside it, the licence among them.
    """

    path: str
    status: str
    stage: str = ""
    reason: str = ""
    said: str = ""
    note: str = ""
    attempts: int = 1
    clips: int = 0
    left_out: tuple[LeftOut, ...] = ()
    seconds: float = 0.0
    frames: int = 0
    samples: int = 0
    av_offset_ms: float | None = None
    timing: tuple[tuple[str, float], ...] = ()
    content: str = ""
    where: str = ""
    stamp: str = ""
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def used(self) -> bool:
        return self.status == "used"


def write_account(store: Store, name: str, lines: Iterable[SourceLine]) -> None:
    """The account as a file of the dataset, sorted by path."""
    write_lines(store, name, sorted(lines, key=lambda line: line.path))


def write_lines(store: Store, name: str, lines: Iterable[SourceLine]) -> None:
    """The same of lines that come sorted by path: no more than one of them is held."""
    before = ""
    with store.writing(name) as path, path.open("w", encoding="utf-8") as file:
        for line in lines:
            assert before <= line.path, "lines come sorted"
            file.write(json.dumps(_plain(line), ensure_ascii=False) + "\n")
            before = line.path


def read_account(path: Path) -> list[SourceLine]:
    """What `write_account` wrote.

    Raises:
        ValueError: it is missing, larger than any of ours, or damaged.
    """
    lines = []
    try:
        if path.stat().st_size > MAX_ACCOUNT:
            raise ValueError(f"it has more than {MAX_ACCOUNT} bytes")
        with path.open(encoding="utf-8", newline="\n") as file:  # \u2028 and others end no line
            for text in file:
                lines.append(_line(json.loads(text)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"account of sources: {path} cannot be read ({why}); {REMEDY}") from error
    return lines


def _plain(line: SourceLine) -> dict[str, Any]:
    return asdict(line) | {
        "left_out": [[clip.start_s, clip.reason] for clip in line.left_out],
        "timing": dict(line.timing),
        "tags": dict(line.tags),
    }


def _line(data: dict[str, Any]) -> SourceLine:
    left_out = tuple(LeftOut(float(start), intern(str(reason))) for start, reason in data["left_out"])
    timing = tuple((intern(str(name)), float(x)) for name, x in data["timing"].items())
    same: dict[str, Any] = {name: intern(data[name]) for name in ("status", "stage", "reason")}  # a million lines say the same
    return SourceLine(
        **data | same | {"left_out": left_out, "timing": timing, "tags": tuple((str(k), str(v)) for k, v in data["tags"].items())}
    )


def records(lines: Sequence[SourceLine]) -> list[dict[str, Any]]:
    """As plain data, for a machine to read."""
    return [_plain(line) for line in lines]
