"""How busy every machine of a training is: each rank reads its own, and rank 0's spool gets all of them."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

EVERY = 20  # steps; not seconds: all ranks must come to the same one


class NodeMetrics:
    """Readings of CPUs, memory and the disk below `folder`, one set a host name, and of each rank's GPU."""

    def __init__(self, folder: Path, rank: int, node: str = "") -> None:
        self._folder, self._rank, self._node = folder, rank, node or socket.gethostname()
        psutil.cpu_percent()  # the first answer of a process means nothing

    def of_all(self, step: int) -> dict[str, float]:
        """`system/NODE/WHAT` of all nodes at every `EVERY`-th step, else none. Every rank must call it at every step."""
        if step % EVERY:
            return {}
        gathered: list[dict[str, float]] = [{}] * dist.get_world_size()
        dist.all_gather_object(gathered, self._read())
        return {name: value for found in reversed(gathered) for name, value in found.items()}  # of a node's ranks, the first one's

    def _read(self) -> dict[str, float]:
        values = {"cpu_percent": psutil.cpu_percent(), "memory_percent": psutil.virtual_memory().percent}
        with suppress(OSError):  # no reading is a reason to stop
            values["disk_percent"] = psutil.disk_usage(str(self._folder)).percent
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            values[f"rank{self._rank}_gpu_memory_percent"] = 100 * (1 - free / total)
        return {f"system/{self._node}/{name}": value for name, value in values.items()}
