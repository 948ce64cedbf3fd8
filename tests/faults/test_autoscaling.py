"""A cluster without machines, whose autoscaler brings them: what an elastic training asks for, and that it is no more.

The command, and Ray's autoscaler with its provider for tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from autoscaled_material import AutoscaledMachines
from command_material import Running
from elastic_material import events, spool, words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_autoscaler_brings_the_machines_of_all_workers_and_no_more(tmp_path: Path) -> None:
    """Room for one worker a machine; three may come, two are needed, one is enough to begin."""
    folder = tmp_path / "run"
    chosen = words(folder, "workers.count=2", "workers.resource=trainer", "stages.mutual.steps=30")
    machines = AutoscaledMachines(3, {"CPU": 1, "trainer": 1})
    with machines, Running(*chosen, environment=machines.environment) as running:
        running.until(lambda: len(spool(folder)) >= 1, 900)
        answer = running.wait(900)
    assert answer.code == 0, answer.error
    assert "training waits until nodes that have them join the cluster" in answer.error
    assert events(folder, "workers")[-1][1] == 2, "it has grown, or began with both"
    assert max(after for _, after, _ in events(folder, "nodes")) == 3, "the head, and one for each worker"
    assert [line["step"] for line in spool(folder)] == list(range(30))
