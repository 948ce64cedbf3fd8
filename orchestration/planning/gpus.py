"""The GPUs that a plan knows, with figures of their makers' data sheets.

A sheet's GB are taken as 10^9 bytes, and nothing is taken off: a card reports more (an H100 of 80 GB has 85.5 x 10^9 bytes), and what
CUDA, NCCL and the gaps of an allocator take comes out of the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...model.arithmetic import PEAKS

GB = 10**9


@dataclass(frozen=True)
class Gpu:
    """name: as the driver gives it; memory: bytes; bf16, fp32: dense FLOP/s, the latter without TF32, which nothing here turns on;
    bandwidth: of its memory, bytes/s; link: to the GPUs of its machine, bytes/s one way; of_node: GPUs of a usual machine; price: US
    dollars an hour, a round figure to be replaced by one's own; source: the data sheet.
    """

    name: str
    memory: int
    fp32: float
    bandwidth: float
    link: float
    of_node: int
    price: float
    source: str

    @property
    def bf16(self) -> float:
        return PEAKS[self.name]


GPUS = {
    "a100-40": Gpu("NVIDIA A100-SXM4-40GB", 40 * GB, 19.5e12, 1.555e12, 300e9, 8, 2.0, "NVIDIA A100 Tensor Core GPU, data sheet"),
    "a100-80": Gpu("NVIDIA A100-SXM4-80GB", 80 * GB, 19.5e12, 2.039e12, 300e9, 8, 2.5, "NVIDIA A100 Tensor Core GPU, data sheet"),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 80 * GB, 67e12, 3.35e12, 450e9, 8, 3.5, "NVIDIA H100 Tensor Core GPU, data sheet (SXM)"),
    "h100-nvl": Gpu("NVIDIA H100 NVL", 94 * GB, 60e12, 3.9e12, 300e9, 4, 3.5, "NVIDIA H100 Tensor Core GPU, data sheet (NVL)"),
    "h200": Gpu("NVIDIA H200", 141 * GB, 67e12, 4.8e12, 450e9, 8, 4.0, "NVIDIA H200 Tensor Core GPU, data sheet (SXM)"),
}


def gpu(name: str) -> Gpu:
    """The GPU of that name.

    Raises:
        ValueError: there is none; the line lists those that are known.
    """
    if name.lower() not in GPUS:
        raise ValueError(f"--gpu={name!r}: unknown; choose from {', '.join(GPUS)}")
    return GPUS[name.lower()]
