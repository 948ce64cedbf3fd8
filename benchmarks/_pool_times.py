"""How long things took: calls of an actor, on its own clock, are what the simulator draws from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Timed:
    """What an actor of a benchmark is made with. work: what it does; folder: where each actor notes its calls in a file of its own."""

    work: object
    folder: Path


@contextmanager
def noted(folder: Path, call: str) -> Iterator[None]:
    """Note how long the block took."""
    start = time.perf_counter()
    yield
    with (folder / f"{os.getpid()}.times").open("a") as file:
        file.write(f"{call} {time.perf_counter() - start:.6f}\n")


def times(folder: Path, call: str) -> list[float]:
    """Seconds of all calls of one name, each actor's in order."""
    lines = [line.split() for path in sorted(folder.glob("*.times")) for line in path.read_text().splitlines()]
    return [float(seconds) for name, seconds in lines if name == call]


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
