"""What each rank has to say, one JSON object a line: `logs/rank-00000.jsonl` in the run folder."""

from __future__ import annotations

import json
import logging
import socket
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType

from ..datasets.redaction import without_secrets

LOGGER = "mutual_forcing"  # that of the package: the words of other libraries are not ours to keep
BYTES, FILES = 4 * 2**20, 3  # a rank keeps at most so much
LONGEST = 20_000  # letters of a message or a traceback


class RankLog(logging.Formatter):
    """A context in which the package's loggers write to this rank's file; what ends it by raising is written too. stage, step: where the
    training stands, as every line says. A disk without room costs lines, and stops nothing.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        super().__init__()
        self.stage: str | None = None
        self.step: int | None = None
        self._path, self._rank, self._node = folder / f"rank-{rank:05d}.jsonl", rank, socket.gethostname()

    def __enter__(self) -> RankLog:
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._handler = RotatingFileHandler(self._path, maxBytes=BYTES, backupCount=FILES - 1, encoding="utf-8", delay=True)
        self._handler.setFormatter(self)
        logger = logging.getLogger(LOGGER)
        self._level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(self._handler)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        logger = logging.getLogger(LOGGER)
        if error is not None:
            logger.critical("the training ends on this rank", exc_info=error)
        logger.removeHandler(self._handler)
        logger.setLevel(self._level)
        with suppress(OSError):
            self._handler.close()

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "rank": self._rank,
            "node": self._node,
            "stage": self.stage,
            "step": self.step,
            "message": without_secrets(record.getMessage())[:LONGEST],
        }
        if record.exc_info:
            line["exception"] = without_secrets(self.formatException(record.exc_info))[-LONGEST:]
        return json.dumps(line)
