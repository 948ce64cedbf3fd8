"""The metric spool of a stage, when an attempt begins while the one before it is not quite dead."""

from __future__ import annotations

import json
from pathlib import Path

from mutual_forcing.workers.metrics import MetricSpool


def test_an_attempt_that_is_over_no_longer_writes_into_the_runs_spool(tmp_path: Path) -> None:
    orphan = MetricSpool(tmp_path, "joint")
    for step in range(4):
        orphan.write(step, {"loss": 1.0})
    spool = MetricSpool(tmp_path, "joint", first=2)
    orphan.write(4, {"loss": 9.0})
    spool.write(2, {"loss": 2.0})
    orphan.write(5, {"loss": 9.0})
    orphan.close()
    spool.close()
    lines = [json.loads(line) for line in (tmp_path / "joint.jsonl").read_text().splitlines()]
    assert [(line["step"], line["metrics"]["loss"]) for line in lines] == [(0, 1.0), (1, 1.0), (2, 2.0)]
