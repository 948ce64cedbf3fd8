"""Joint self-attention under the chunk mask, in two back-ends that ask the same question (`mask.may_attend`).

    dense   one boolean for every pair of tokens: the reference; its memory grows with the square of the clip
    flex    FlexAttention: blocks of 128 x 128 pairs that nothing may attend in are neither stored nor computed

The third way, chunk by chunk with a cache, needs no mask: the cache holds exactly what may be attended to.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .mask import Tokens, dense_mask, may_attend, sink_of

AttentionKind = Literal["dense", "flex"]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(queries, keys, values), [B, N, M, D] with queries and keys rotated -> what each query reads, [B, N, M, D]."""


def attention(q_BNMD: Tensor, k_BNMD: Tensor, v_BNMD: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention; `mask` broadcasts to [B, M, N_queries, N_keys]."""
    q, k, v = (x.transpose(1, 2) for x in (q_BNMD, k_BNMD, v_BNMD))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def masked(kind: AttentionKind, queries: Tokens, keys: Tokens, window: int, device: torch.device) -> Attention:
    """The attention between these tokens. What it holds depends on their places alone, so it serves every layer and every batch."""
    if kind == "dense":
        mask = dense_mask(queries, keys, window).to(device)
        return lambda q, k, v: attention(q, k, v, mask)
    if not len(queries) or not len(keys):
        return lambda q, k, v: torch.zeros_like(q)  # a past of no tokens; there are no blocks of nothing
    q_at, k_at, sink = queries.to(device), keys.to(device), sink_of(keys)
    flex, create = _flex(device.type)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return may_attend(q_at.select(query), k_at.select(key), window, sink)

    blocks = create(visible, None, None, len(queries), len(keys), device=device)

    def attend(q_BNMD: Tensor, k_BNMD: Tensor, v_BNMD: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BNMD, k_BNMD, v_BNMD))
        return flex(q, k, v, block_mask=blocks).transpose(1, 2)

    return attend


@lru_cache(maxsize=2)
def _flex(device: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """FlexAttention and the maker of its block masks: fused kernels on a GPU; elsewhere PyTorch's slow form, to compare with."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if device == "cuda":
        return torch.compile(flex_attention, dynamic=False), torch.compile(create_block_mask)

    def unfused(q: Tensor, k: Tensor, v: Tensor, block_mask: Any) -> Any:
        if torch.is_grad_enabled() and q.requires_grad:
            raise ValueError("execution.attention='flex': FlexAttention has no backward on a CPU; set execution.attention=dense")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            return flex_attention(q, k, v, block_mask=block_mask)

    return unfused, create_block_mask
