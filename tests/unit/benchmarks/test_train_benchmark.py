"""What the system costs around the maths: the bare loop does the same maths, and the benchmark keeps its contract."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_loops_do_the_same_maths_and_the_figures_are_there() -> None:
    """A few steps of real runs: Ray, DeepSpeed, checkpoints."""
    code = "from mutual_forcing.orchestration.main import app_entry; app_entry()"
    done = subprocess.run([sys.executable, "-c", code, "bench", "train", "--quick", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["name"] == "train"
    assert figures["losses_differ_by"] < 1e-5, "the same batches, noise and updates"
    assert all(figures[key] > 0 for key in ("vs_bare_loop", "cold_start_s", "cold_start_bare_ray_s", "rss_overhead_mb"))
    assert figures["checkpoint_stall"] >= 0
