"""The benchmark of the rollout pool keeps its contract: every figure is there, and no rollout is older than the bound."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_figure_is_there(tmp_path: Path) -> None:
    """Real actors, real trainers, few steps."""
    code = "from mutual_forcing.orchestration.main import app_entry; app_entry()"
    plot = tmp_path / "rollouts.png"
    command = [sys.executable, "-c", code, "bench", "rollouts", "--quick", "--json", "--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["name"] == "rollouts"
    for key in ("async_vs_ideal", "orchestration_efficiency", "coordinator_core", "take_p99_ms", "broadcast_mb_s", "simulator_error"):
        assert figures[key] > 0, key
    assert figures["max_age_seen"] <= figures["max_age"]
    assert plot.read_bytes().startswith(b"\x89PNG")
