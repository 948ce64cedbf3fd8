"""Latents as 16-bit floats: float16, or bfloat16, which NumPy and Arrow lack, as its bits in uint16.

float16 keeps 11 bits of a number; bfloat16 keeps 8, and is what networks that compute in it give. Either holds what lies within `LARGEST`:
beyond it a latent is no picture or sound, but a network that went wrong.

    stored: Tensor --> numpy (a shard's column)        read: numpy --> Tensor of the same bits
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

KEPT: dict[str, np.dtype] = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(np.uint16)}
"""By the name of the numbers, how NumPy holds them."""
VALUES: dict[np.dtype, pa.DataType] = {np.dtype(np.float16): pa.float16(), np.dtype(np.uint16): pa.uint16()}
SAID = {b"dtype": b"bfloat16"}  # of a column of uint16, for who reads it with pyarrow alone
LARGEST = 65504.0


def stored(latents: Tensor, dtype: str) -> np.ndarray:
    """Any floats, rounded to `dtype`, one of KEPT."""
    if dtype == "bfloat16":
        return latents.to(torch.bfloat16).cpu().view(torch.uint16).numpy()
    return latents.half().cpu().numpy()


def read(latents: np.ndarray) -> Tensor:
    """float16 or bfloat16, where the numbers are."""
    found = torch.from_numpy(latents)
    return found.view(torch.bfloat16) if latents.dtype == np.uint16 else found


def numbers(latents: np.ndarray) -> np.ndarray:
    """As float32, exactly. bfloat16 is the upper half of it."""
    if latents.dtype == np.uint16:
        return (latents.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return latents.astype(np.float32)


def fits(latents: np.ndarray) -> np.ndarray:
    """Which numbers are finite and within `LARGEST`."""
    if latents.dtype == np.uint16:
        return np.abs(numbers(latents)) <= LARGEST
    return np.isfinite(latents)
