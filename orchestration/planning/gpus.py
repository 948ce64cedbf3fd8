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
    bandwidth: of its memory, bytes/s; link: to the GPUs of its machine, bytes/s one way; network: to other machines, its share of a usual
    machine's; of_node: GPUs of such a machine; price: US dollars an hour, a round figure to be replaced by one's own; source: the data
    sheet; wire: where `network` is from.
    """

    name: str
    memory: int
    fp32: float
    bandwidth: float
    link: float
    network: float
    of_node: int
    price: float
    source: str
    wire: str

    @property
    def bf16(self) -> float:
        return PEAKS[self.name]

    def peak(self, precision: str) -> float:
        """FLOP/s of a network under training: `bf16` or `fp32`."""
        return self.bf16 if precision == "bf16" else self.fp32


A100 = "NVIDIA A100 Tensor Core GPU, data sheet"
H100 = "NVIDIA H100 Tensor Core GPU, data sheet"
H200 = "NVIDIA H200 Tensor Core GPU, data sheet (SXM)"

# Of machines that are for rent, each GPU's share of the network adapter, from the providers' tables of instance types:
# Amazon EC2 accelerated computing (p4d, p4de: 400 Gbit/s; p5, p5e: 3200, of 8 GPUs), Azure NCads H100 v5 (40 Gbit/s a GPU).
P4, P5 = "400 Gbit/s of 8 GPUs (EC2 p4d, p4de)", "3200 Gbit/s of 8 GPUs (EC2 p5, p5e)"
NC = "40 Gbit/s a GPU (Azure NCads H100 v5)"

GPUS = {
    "a100-40": Gpu("NVIDIA A100-SXM4-40GB", 40 * GB, 19.5e12, 1.555e12, 300e9, 6.25e9, 8, 2.0, A100, P4),
    "a100-80": Gpu("NVIDIA A100-SXM4-80GB", 80 * GB, 19.5e12, 2.039e12, 300e9, 6.25e9, 8, 2.5, A100, P4),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 80 * GB, 67e12, 3.35e12, 450e9, 50e9, 8, 3.5, f"{H100} (SXM)", P5),
    "h100-nvl": Gpu("NVIDIA H100 NVL", 94 * GB, 60e12, 3.9e12, 300e9, 5e9, 2, 3.5, f"{H100} (NVL)", NC),
    "h200": Gpu("NVIDIA H200", 141 * GB, 67e12, 4.8e12, 450e9, 50e9, 8, 4.0, H200, P5),
}


def gpu(name: str) -> Gpu:
    """The GPU of that name.

    Raises:
        ValueError: there is none; the line lists those that are known.
    """
    if name.lower() not in GPUS:
        raise ValueError(f"--gpu={name!r}: unknown; choose from {', '.join(GPUS)}")
    return GPUS[name.lower()]
