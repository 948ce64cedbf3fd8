"""Every node reports how busy it is, not only that of rank 0."""

from __future__ import annotations

import json
from pathlib import Path

import torch.distributed as dist
from processes_material import run_processes

from mutual_forcing.workers.node_metrics import EVERY, NodeMetrics

NODES = ("left", "left", "right.example.org")
READINGS = ("cpu_percent", "memory_percent", "disk_percent")


def worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(NODES))
    nodes = NodeMetrics(Path(folder) if rank < 2 else Path(folder) / "gone", rank, NODES[rank])
    (Path(folder) / f"{rank}.json").write_text(json.dumps([nodes.of_all(step) for step in range(EVERY + 2)]))
    dist.destroy_process_group()


def test_every_node_reports_once_and_at_the_same_steps(tmp_path: Path) -> None:
    """Three ranks on two nodes; on one of them the run's folder cannot be seen."""
    run_processes(worker, (str(tmp_path),), len(NODES))
    wanted = {f"system/left/{name}" for name in READINGS} | {f"system/right.example.org/{name}" for name in READINGS[:2]}
    first, *others = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(len(NODES)))
    assert [set(readings) for readings in first] == [wanted if step in (0, EVERY) else set() for step in range(EVERY + 2)]
    assert all(0 <= value <= 100 for readings in first for value in readings.values())
    assert others == [first, first]
