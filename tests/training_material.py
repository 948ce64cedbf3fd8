"""A run of `tiny` with a long mutual stage, as a command that can be disturbed, and what it must come to all the same."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from command_material import Running, command

from mutual_forcing.orchestration.chaos.holder import holder_of

OF_TIME = ("_s", "samples_per_s")


class Training:
    """A run of `tiny` with a long mutual stage, and its metric spool."""

    def __init__(self, folder: Path, steps: int, every: int, *settings: str) -> None:
        self.folder, self._spool = folder, folder / "metrics" / "mutual.jsonl"
        self._attempt = 0
        chosen = ["rollouts.max_age=0", f"stages.mutual.steps={steps}", f"checkpoint.every={every}", *settings]
        self.words = ["train", "tiny", "--out", str(folder), *(word for setting in chosen for word in ("--set", setting))]

    @property
    def steps(self) -> int:
        return self._spool.read_bytes().count(b"\n") if self._spool.is_file() else 0

    @property
    def committed(self) -> list[int]:
        """Steps of the mutual stage of which there is a checkpoint."""
        return sorted(int(path.parent.name[:8]) for path in self.folder.glob("checkpoints/mutual/*/COMMIT"))

    def until_step(self, running: Running, step: int) -> None:
        running.until(lambda: self.steps >= step, 200)

    def until_another_attempt(self, running: Running) -> None:
        """The mutual stage goes on, after a start or a kill: each attempt has a file of its own."""
        running.until(lambda: self._spool.is_file() and self._spool.stat().st_ino != self._attempt, 200)
        self._attempt = self._spool.stat().st_ino

    def figures(self, whole: bool = True) -> dict[str, dict[int, dict[str, Any]]]:
        """Every metric of every step that is no time, by stage and step. whole: the spool has every step, in order."""
        made = {}
        for path in sorted((self.folder / "metrics").glob("*.jsonl")):
            lines = [line for text in path.read_text().splitlines() if (line := json.loads(text))["metrics"]]
            assert not whole or [line["step"] for line in lines] == list(range(len(lines)))
            made[path.stem] = {
                line["step"]: {
                    k: v for k, v in line["metrics"].items() if not k.endswith(OF_TIME) and not k.startswith(("share/", "system/", "pool/"))
                }
                for line in lines
            }
        return made

    def assert_as_if_undisturbed(self, other: Training) -> None:
        mine, theirs = self.figures(), other.figures()
        assert list(mine) == ["joint", "mutual", "pretrain-audio", "pretrain-video"]
        assert mine == theirs
        audit = command("audit", str(self.folder))
        assert audit.code == 0, audit.out + audit.error


def undisturbed(folder: Path, steps: int, *settings: str) -> Training:
    training = Training(folder, steps, 0, *settings)
    answer = command(*training.words, seconds=900)
    assert answer.code == 0, answer.error
    return training


def finish(folder: Path, seconds: float) -> None:
    """Wait until the run has finished, whoever drives it."""
    deadline = time.monotonic() + seconds
    while not json.loads((folder / "run.json").read_text())["finished"]:
        assert time.monotonic() < deadline, (folder / "run.json").read_text()[-500:]
        assert holder_of(str(folder / ".lock")), "nobody drives it"
        time.sleep(1)
