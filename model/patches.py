"""Latents <-> tokens: the picture is cut into patches, a latent of sound is a token; and where every token stands.

A picture whose rows or columns the patch does not divide (21 rows in patches of 2) is filled up with zeros, and what the network says
there is cut off again: every token holds a part of the picture, so nothing has to be masked.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .mask import Tokens
from .timeline import Layout


def grid(latents: Tensor, patch: int) -> tuple[int, int]:
    """Rows and columns of patches in a latent; sound is one cell."""
    if latents.dim() == 3:
        return 1, 1
    return -(-latents.shape[3] // patch), -(-latents.shape[4] // patch)


def patched(latents: Tensor, patch: int) -> Tensor:
    """video [B, F, C, H, W] -> [B, F * rows * columns, C * patch^2]; audio [B, T, C] stays as it is."""
    if latents.dim() == 3:
        return latents
    rows, columns = grid(latents, patch)
    b, f, c, h, w = latents.shape
    x = F.pad(latents, (0, columns * patch - w, 0, rows * patch - h)) if (rows * patch, columns * patch) != (h, w) else latents
    x = x.reshape(b, f, c, rows, patch, columns, patch).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(b, f * rows * columns, c * patch * patch)


def unpatched(tokens_BND: Tensor, like: Tensor, patch: int) -> Tensor:
    """The inverse of `patched`, in the shape of `like`."""
    if like.dim() == 3:
        return tokens_BND
    rows, columns = grid(like, patch)
    b, f, c, h, w = like.shape
    x = tokens_BND.reshape(b, f, rows, columns, c, patch, patch).permute(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(b, f, c, rows * patch, columns * patch)[..., :h, :w]


def places(latents: Tensor, layout: Layout, patch: int, clean: bool, with_first_frame: bool) -> Tokens:
    """Where the tokens of `latents` stand on the clock and in the picture. Sound stands in row and column 0."""
    chunk, time = layout.audio() if latents.dim() == 3 else layout.video(with_first_frame)
    rows, columns = grid(latents, patch)
    row = torch.arange(rows).repeat_interleave(columns).repeat(len(chunk)).float()
    column = torch.arange(columns).repeat(rows * len(chunk)).float()
    chunk, time = (x.repeat_interleave(rows * columns) for x in (chunk, time))
    return Tokens(chunk, torch.full_like(chunk, clean, dtype=torch.bool), time, row, column, torch.zeros_like(chunk))
