"""What of a cluster Ray Data may plan with: its tasks take turns with actors that hold CPUs for hours, and would starve in silence."""

from __future__ import annotations

import time

import ray
from ray.data import DataContext, ExecutionResources

from ..progress import Progress

PATIENCE = 10.0  # seconds: Ray tells late of what has just been freed
LOOK = 0.5


def leave_to_others(progress: Progress) -> None:
    """Have the datasets that are made next plan with what is free now. Waits, and says so, as long as not one CPU is."""
    began = time.monotonic()
    while (free := ray.available_resources()).get("CPU", 0.0) < 1:
        if time.monotonic() - began > PATIENCE:
            total = ray.cluster_resources().get("CPU", 0.0)
            held = total - free.get("CPU", 0.0)
            progress(f"wait for a CPU: {held:g} of {total:g} are reserved by others, as with rollouts.cpus above 0", 0, 1)
        time.sleep(LOOK)
    limits = ExecutionResources.for_limits(cpu=free["CPU"], gpu=free.get("GPU", 0.0))
    DataContext.get_current().execution_options.resource_limits = limits  # of 2.60, `exclude_resources` says it will go
