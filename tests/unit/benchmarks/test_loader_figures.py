"""The loader's part of `bench data`: what it counts is what went into the batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutual_forcing.benchmarks import _loader
from mutual_forcing.benchmarks._loader import BATCH, RATE, measure_loader


def test_a_short_measurement_gives_all_figures_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loader, "SHARD_CLIPS", 2 * BATCH)
    found = measure_loader(tmp_path, shards=1, seconds=0.5)
    assert 0.001 < found.loader_gb_s < 100
    assert 0 < found.wait_p50_ms <= found.wait_p99_ms < 1e4
    assert not list(tmp_path.iterdir())


def test_waits_are_those_of_a_loop_that_falls_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that takes twice as long as a step is waited for, however many are read ahead."""
    monkeypatch.setattr(_loader, "SHARD_CLIPS", 2 * BATCH)

    class Slow:
        def batch(self, positions: range) -> range:
            _loader.time.sleep(2 / RATE)
            return positions

    waits = _loader._waits(Slow(), 1.0)  # type: ignore[arg-type]
    assert sum(waits[-5:]) / 5 > 0.5 / RATE
