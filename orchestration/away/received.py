"""What came from other machines, in the run folder, as if their processes had written it there."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from logging.handlers import RotatingFileHandler
from pathlib import Path

from ...datasets.places.storage import make_folder
from ...workers.logs import BYTES, FILES
from ...workers.metrics import MetricSpool
from .pieces import LOGS, METRICS, NAME, Have, Piece

PART = ".part"  # end of the name of a file that is still coming


class Received:
    """Writes pieces of the files of one attempt. A disk without room costs logs and files, as it does where a process writes them itself;
    metrics wait in memory.
    """

    def __init__(self, run_dir: Path, warn: Callable[[str], None]) -> None:
        self._run_dir, self._warn = run_dir, warn
        self._have: dict[str, dict[str, Have]] = {}
        self._spools: dict[str, MetricSpool] = {}
        self._left: dict[str, set[str]] = {}
        self._parts: set[Path] = set()

    def have(self, machine: str) -> dict[str, Have]:
        """How far the files of a machine are known here."""
        return dict(self._have.get(machine, {}))

    def left(self, machine: str) -> list[str]:
        """Files that stay there."""
        return sorted(self._left.get(machine, ()))

    def take(self, machine: str, piece: Piece) -> None:
        """Write a piece; what cannot be written, or leads elsewhere, is told once and stays."""
        if not NAME.fullmatch(piece.name):
            self._leave(machine, piece, "no run folder has a file of that name")
        elif not piece.data:
            self._leave(machine, piece, f"it has {piece.size / 1e9:.1f} GB")
        elif piece.name not in self._left.get(machine, ()):
            try:
                self._write(machine, piece)
            except (OSError, ValueError, TypeError, KeyError) as error:  # of a run folder that cannot be written to, or a line of nobody's
                self._leave(machine, piece, " ".join(str(error).split()))
        self._have.setdefault(machine, {})[piece.name] = piece.known

    def close(self) -> None:
        for spool in self._spools.values():
            spool.close()
        for part in self._parts:  # of what has not come to its end
            part.unlink(missing_ok=True)

    def _write(self, machine: str, piece: Piece) -> None:
        kind, _, name = piece.name.partition("/")
        if kind == METRICS:
            self._spool(Path(name).stem, piece.data)
        elif kind == LOGS:
            self._log(name, piece.data)
        else:
            self._file(machine, piece)

    def _spool(self, stage: str, data: bytes) -> None:
        """The first line of an attempt has the step from which it goes on: those that the run folder has from there on are done again."""
        lines = data.splitlines(keepends=True)
        if stage not in self._spools:
            self._spools[stage] = MetricSpool(self._run_dir / METRICS, stage, int(json.loads(lines[0])["step"]))
        for line in lines:
            self._spools[stage].add(line)

    def _log(self, name: str, data: bytes) -> None:
        log = _Log(make_folder("run", self._run_dir / LOGS) / name, maxBytes=BYTES, backupCount=FILES - 1, encoding="utf-8", delay=True)
        try:
            for line in data.decode(errors="replace").splitlines():
                log.handle(logging.makeLogRecord({"msg": line}))
        finally:
            log.close()  # hundreds of ranks would be hundreds of open files

    def _file(self, machine: str, piece: Piece) -> None:
        """Under a name that nobody reads until all is there that was when its first piece was read."""
        path = self._run_dir / piece.name
        part = path.with_name(f".{path.name}-{machine[:12]}{PART}")
        if piece.start == 0:
            make_folder("run", path.parent)
            part.unlink(missing_ok=True)
            self._parts.add(part)
        try:
            with (part if part in self._parts else path).open("ab") as file:
                file.write(piece.data)
        except OSError:  # what a full disk has taken of it helps nobody
            part.unlink(missing_ok=True)
            raise
        if part in self._parts and part.stat().st_size >= piece.size:
            part.replace(path)
            self._parts.discard(part)

    def _leave(self, machine: str, piece: Piece, why: str) -> None:
        left = self._left.setdefault(machine, set())
        if piece.name not in left:
            left.add(piece.name)
            self._warn(f"{piece.name!r} stays on machine {machine[:12]} ({why})")


def go_on(path: Path, data: bytes) -> None:
    """Add to a stage's metrics what an attempt has after the last line of the run folder; nothing if that is of another attempt.

    data: the lines of the attempt, from its first on.
    """
    lines, have = data.splitlines(keepends=True), path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    if have and have[-1] in lines and (rest := lines[lines.index(have[-1]) + 1 :]):
        with path.open("ab") as file:
            file.write(b"".join(rest))


class _Log(RotatingFileHandler):
    """One that says what it cannot write."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  its base's name
        raise
