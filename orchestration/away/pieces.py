"""What travels from a machine that does not share the run folder: files of one attempt, piece by piece, each from where the last one ended.

metrics/STAGE.jsonl, logs/rank-N.jsonl   whole lines, as they come
stacks/  profile/  bad-steps/            files, whole
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

METRICS, LOGS = "metrics", "logs"
FOLDERS = (METRICS, LOGS, "stacks", "profile", "bad-steps")  # what is small and looked at comes first
LINES = (METRICS, LOGS)
ROOM = 8 * 2**20  # bytes of an answer
LARGEST = 2 * 2**30  # bytes of a file that travels; a bad step has the weights of all networks
NAME = re.compile(rf"(?:{'|'.join(FOLDERS)})/[A-Za-z0-9_][A-Za-z0-9_.+=-]*")


@dataclass(frozen=True)
class Have:
    """How far a file is known: the number that its file system gave it, and bytes from its beginning."""

    file: int
    end: int


@dataclass(frozen=True)
class Piece:
    """Bytes of a file from `start` on. size: of the whole file when it was read; data: none where it is larger than `LARGEST`."""

    name: str
    file: int
    start: int
    data: bytes
    size: int

    @property
    def known(self) -> Have:
        """How far the file is known with it."""
        return Have(self.file, self.start + len(self.data))


def news(folder: Path, have: Mapping[str, Have], kinds: Collection[str] = FOLDERS, room: int = ROOM) -> list[Piece]:
    """What is in `folder` beyond what the other side has, `room` bytes at most. kinds: of `FOLDERS`."""
    found = []
    for name in _names(folder, kinds):
        if room <= 0:
            break
        if (piece := _piece(folder, name, have.get(name), room)) is not None:
            found.append(piece)
            room -= len(piece.data)
    return found


def _names(folder: Path, kinds: Collection[str]) -> Iterator[str]:
    """Files by their first names: `rank-0.jsonl.1` is an older part of `rank-0.jsonl`."""
    for kind in (kind for kind in FOLDERS if kind in kinds):
        for path in sorted((folder / kind).glob("*")):
            name = f"{kind}/{path.name}"
            if NAME.fullmatch(name) and path.is_file() and not path.is_symlink() and (kind not in LINES or path.suffix == ".jsonl"):
                yield name


def _piece(folder: Path, name: str, have: Have | None, room: int) -> Piece | None:
    if name.split("/")[0] not in LINES:
        return _read(name, [(folder / name, 0)], have, room, whole=True)
    parts = _parts(folder / name)
    known = next((i for i, (_, number) in enumerate(parts) if have is not None and number == have.file), 0)
    piece = _read(name, parts[known:], have, room, whole=False)
    return piece if _parts(folder / name) == parts else None  # it was put aside while it was read: another answer has it


def _read(name: str, parts: Sequence[tuple[Path, int]], have: Have | None, room: int, whole: bool) -> Piece | None:
    """Of the first part that has anything new. whole: not by lines."""
    for path, _ in parts:
        try:
            with path.open("rb") as file:
                about = os.fstat(file.fileno())  # of what is open: the name may be another file's by now
                start = have.end if have is not None and have.file == about.st_ino and have.end <= about.st_size else 0
                if about.st_size > LARGEST:
                    return None if have == Have(about.st_ino, 0) else Piece(name, about.st_ino, 0, b"", about.st_size)
                file.seek(start)
                data = file.read(room)
        except FileNotFoundError:
            continue  # it was renamed or removed meanwhile
        if not whole:
            data = data[: data.rfind(b"\n") + 1]  # the last line may be half written
        if data:
            return Piece(name, about.st_ino, start, data, about.st_size)
    return None


def _parts(path: Path) -> list[tuple[Path, int]]:
    """A log and those that it was before it began again, oldest first, each with the number of its file."""
    found = []
    for part in (*sorted(path.parent.glob(f"{path.name}.[0-9]"), key=lambda p: -int(p.suffix[1:])), path):
        with suppress(OSError):
            found.append((part, part.stat().st_ino))
    return found
