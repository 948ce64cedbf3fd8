"""Small pictures of large ones, cheap enough to make of every frame: four samples a cell instead of all of its pixels."""

from __future__ import annotations

import numpy as np

RED, GREEN, BLUE = (np.uint16(share) for share in (77, 150, 29))  # of brightness, in 256ths (ITU-R BT.601): their sum fits into 16 bits


def thumbnails(frames: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, h, w, 3] of frames uint8 [N, H, W, 3]: at most `side` cells on the longer side, each the mean of 2 x 2 of its pixels.

    Pictures that are no larger come back as they are. What is left over at the right and at the bottom, less than a cell, is not seen.
    """
    step = -(-max(frames.shape[1:3]) // side)
    if step <= 1:
        return frames
    tall, wide = (max(1, length // step) for length in frames.shape[1:3])
    total = np.zeros((len(frames), tall, wide, 3), np.uint16)
    near, far = step // 4, step - 1 - step // 4
    for down in (near, far):
        for right in (near, far):
            total += frames[:, min(down, frames.shape[1] - 1) :: step, min(right, frames.shape[2] - 1) :: step][:, :tall, :wide]
    return ((total + 2) // 4).astype(np.uint8)


def grey(frames: np.ndarray) -> np.ndarray:
    """Brightness uint8 [N, H, W] of frames uint8 [N, H, W, 3]."""
    red, green, blue = np.moveaxis(frames.astype(np.uint16), -1, 0)
    return ((RED * red + GREEN * green + BLUE * blue) >> 8).astype(np.uint8)
