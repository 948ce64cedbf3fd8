"""Most memory that a process takes, for `bench plan`: of its host, or of its GPU."""

from __future__ import annotations

from pathlib import Path

import torch


class Gauge:
    """Most memory since the last look, in bytes above what the process had at first."""

    def __init__(self, device: str) -> None:
        self._cuda, self._base = device == "cuda", 0
        self._base = self._now()
        self.reset()

    def _now(self, field: str = "VmRSS") -> int:
        if self._cuda:
            return torch.cuda.memory_allocated() if field == "VmRSS" else torch.cuda.max_memory_allocated()
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

    def reset(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def most(self) -> int:
        found = self._now("VmHWM") - self._base
        self.reset()
        return found
