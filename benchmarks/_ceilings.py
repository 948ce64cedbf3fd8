"""What a device can do: the rate of one large matrix product and of reading memory, measured where the rest is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ceilings:
    """flops: floating-point operations a second; bandwidth: bytes a second."""

    flops: float
    bandwidth: float

    def seconds(self, macs: float, read: float) -> float:
        """The least time of some multiply-adds that must read some bytes: whichever takes longer."""
        return max(2 * macs / self.flops, read / self.bandwidth)


def synchronise(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of `work`, until the device has done it."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def measure_ceilings(device: torch.device, dtype: torch.dtype, runs: int = 7) -> Ceilings:
    """The best of some runs: a ceiling is what nothing exceeds. The matrices and the memory read are larger than any cache."""
    side, numbers = (8192, 2**29) if device.type == "cuda" else (1536, 2**26)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = min(seconds(lambda: a @ b, device) for _ in range(runs + 1))
    x = torch.ones(numbers, device=device, dtype=dtype)
    read = min(seconds(x.sum, device) for _ in range(runs + 1))
    return Ceilings(2 * side**3 / best, numbers * x.element_size() / read)
