"""A rollout actor whose work is cheap and can be checked: what it makes is a function of positions and version. It imports no torch, so
that a test can start many.
"""

from __future__ import annotations

import os
import random
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WIDTH = 2**15  # numbers a clip: more than what Ray keeps outside its object store


@dataclass(frozen=True)
class Numbers:
    """Weights of one version, and their checksum."""

    version: int
    data: np.ndarray
    checksum: int

    @classmethod
    def of(cls, version: int) -> Numbers:
        data = np.full(WIDTH, version, np.float32)
        return cls(version, data, zlib.crc32(data.tobytes()))


@dataclass(frozen=True)
class NumberPlan:
    """seconds: that a request takes at most; folder: where actors leave their process ids, and find what shall go wrong with them."""

    folder: Path
    seconds: float

    def actors(self) -> list[int]:
        return [int(path.name.removeprefix("actor-")) for path in self.folder.glob("actor-*")]

    def ill(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def clear(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


class NumberActor:
    """As `RolloutActor`. Files in the folder make it fail: `broken` once, whoever comes first; `always` at that position, everyone."""

    def __init__(self, plan: NumberPlan) -> None:
        self._plan, self._version = plan, -1
        self._dice = random.Random(os.getpid())
        (plan.folder / f"actor-{os.getpid()}").touch()

    def load(self, weights: Numbers) -> int:
        if zlib.crc32(weights.data.tobytes()) != weights.checksum:
            from mutual_forcing.workers.wire import TornSnapshotError  # with torch

            raise TornSnapshotError(f"snapshot of version {weights.version}: its checksum does not match")
        self._version = weights.version
        return self._version

    def generate(self, positions: list[int]) -> tuple[tuple[int, int, int], dict[str, np.ndarray]]:
        time.sleep(self._dice.random() * self._plan.seconds)
        try:
            (self._plan.folder / "broken").unlink()
        except FileNotFoundError:
            pass
        else:
            raise ValueError(f"rollout of positions {positions[0]}-{positions[-1]} under version {self._version} is not finite")
        always = self._plan.folder / "always"
        if always.exists() and int(always.read_text()) in positions:
            raise RuntimeError(f"no memory for position {always.read_text()}")
        made = np.stack([rollout_of(p, self._version) for p in positions])
        told = {"versions": np.full((len(positions), 2), self._version), "samples": np.array(positions)}
        return (self._version, self._version, made.nbytes), {"history_video": made, **told}


def rollout_of(position: int, version: int) -> np.ndarray:
    """What a clip's rollout has to be."""
    return np.random.default_rng([position, version]).random(WIDTH, np.float32)
