"""A rank's log: a JSON object a line, with where the training stood, and a file that stays small."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from mutual_forcing.workers import logs
from mutual_forcing.workers.logs import RankLog

OURS = logging.getLogger("mutual_forcing.workers.anything")


def lines(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"rank-{rank:05d}.jsonl").read_text().splitlines()]


def test_a_line_says_who_spoke_and_where_training_stood(tmp_path: Path) -> None:
    with RankLog(tmp_path, 3) as told:
        OURS.info("begins")
        told.stage, told.step = "joint", 7
        OURS.warning("%d things\nin two lines", 2)
        logging.getLogger("botocore").warning("the words of others")
    OURS.warning("nobody listens any more")
    first, second = lines(tmp_path, 3)
    assert set(first) == {"time", "level", "rank", "node", "stage", "step", "message"}
    assert (first["level"], first["rank"], first["stage"], first["step"]) == ("info", 3, None, None)
    assert (second["level"], second["stage"], second["step"], second["message"]) == ("warning", "joint", 7, "2 things\nin two lines")
    assert second["time"].endswith("+00:00")


def test_what_ends_a_rank_is_written_with_its_traceback(tmp_path: Path) -> None:
    def train() -> None:
        with RankLog(tmp_path, 0) as told:
            told.stage, told.step = "mutual", 2
            raise FloatingPointError("loss/fm_audio not finite")

    with pytest.raises(FloatingPointError):
        train()
    [line] = lines(tmp_path)
    assert (line["level"], line["stage"], line["step"]) == ("critical", "mutual", 2)
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("FloatingPointError: loss/fm_audio not finite")


def test_the_next_attempt_appends(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with RankLog(tmp_path, 0):
            OURS.info(text)
    assert [line["message"] for line in lines(tmp_path)] == ["one", "two"]


def test_a_log_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BYTES", 2000)
    monkeypatch.setattr(logs, "LONGEST", 100)
    with RankLog(tmp_path, 0):
        for i in range(200):
            OURS.info("x" * 1000 + str(i))
    files = sorted(tmp_path.iterdir())
    assert len(files) == logs.FILES
    assert all(file.stat().st_size <= 2000 for file in files)
    assert all(len(line["message"]) == 100 for line in lines(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device without room")
@pytest.mark.parametrize("where", ["a full disk", "below a file"])
def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "logs"
    if where == "a full disk":
        folder.mkdir()
        (folder / "rank-00000.jsonl").symlink_to("/dev/full")
    else:
        folder.write_text("")
    with RankLog(folder, 0):
        for i in range(200):
            OURS.warning("x" * 1000 + str(i))
