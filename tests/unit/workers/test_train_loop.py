"""What the ranks of the training loop put together."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist
from processes_material import run_processes

from mutual_forcing.workers.stage_run import over_ranks

WORLD = 2


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    ages = [Counter({"age/0": 2}), Counter({"age/0": 1, "age/1": 3})][rank]
    (Path(folder) / f"{rank}.json").write_text(json.dumps(over_ranks(ages)))
    dist.destroy_process_group()


def test_ages_are_counted_over_ranks_that_hold_different_versions(tmp_path: Path) -> None:
    run_processes(worker, (str(tmp_path),), WORLD)
    for rank in range(WORLD):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {"age/0": 3.0, "age/1": 3.0}
