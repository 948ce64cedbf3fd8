"""One `data prepare` on a cluster in this machine, and what the driver's process took for it."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from ._scale_corpus import MIX, config_of, write_files

STAGE = "look into sources"  # through which every entry goes


@dataclass
class Job:
    """seconds: of the job; fifths: entries a second in each fifth of the entries; before_mb, peak_mb: resident memory of the driver before
    the job, and the most of the whole process until its end; again_seconds: of the same command again; growth_seconds: with 1 % of new
    files, at least 100.
    """

    seconds: float = 0.0
    clips: int = 0
    fifths: list[float] = field(default_factory=list)
    before_mb: float = 0.0
    peak_mb: float = 0.0
    again_seconds: float = 0.0
    growth_seconds: float = 0.0


class _Fifths:
    """When each fifth of a stage was through, from its first entry on."""

    def __init__(self) -> None:
        self.at: dict[int, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage == STAGE and done in (1, *(total * k // 5 for k in range(1, 6))):
            self.at.setdefault(done, time.perf_counter())

    def rates(self) -> list[float]:
        ends = sorted(self.at)
        return [(b - a) / max(1e-9, self.at[b] - self.at[a]) for a, b in pairwise(ends)]


def run_job(count: int, processes: int, root: Path) -> Job:
    """Prepare `count` files, then nothing, then a hundredth more."""
    from ..datasets.pipeline import prepare

    write_files(root / "media", 0, count, MIX)
    config, found = config_of(root / "media"), Job()
    with _cluster(processes):
        fifths, found.before_mb = _Fifths(), _resident_mb()
        began = time.perf_counter()
        manifest = prepare(config, root / "out", fifths, grow=True)
        found.seconds, found.clips, found.fifths = time.perf_counter() - began, manifest.clips, fifths.rates()
        found.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        began = time.perf_counter()
        assert prepare(config, root / "out", grow=True) == manifest
        found.again_seconds = time.perf_counter() - began
        write_files(root / "media", count, max(100, count // 100), MIX)
        began = time.perf_counter()
        grown = prepare(config, root / "out", grow=True)
        found.growth_seconds = time.perf_counter() - began
        assert grown.sources_used + grown.sources_refused == count + max(100, count // 100), grown
    return found


@contextmanager
def _cluster(processes: int) -> Iterator[None]:
    import ray

    ray.init(num_cpus=processes, include_dashboard=False, log_to_driver=False, object_store_memory=512 << 20)
    try:
        yield
    finally:
        ray.shutdown()


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
