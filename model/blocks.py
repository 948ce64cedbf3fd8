"""The parts of one branch: time embedding, modulation, self-attention projections, text cross-attention, feed-forward.

Parameters are touched only inside the `forward` of the module that owns them: ZeRO-3 gathers them there.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .rope import Rotation, rotate
from .types import at_least_fp32


def sinusoidal(x: Tensor, width: int) -> Tensor:
    """Sinusoidal features [..., width] of times in [0, 1], in fp32 or wider."""
    frequencies = torch.exp(-log(10_000) * torch.arange(width // 2, device=x.device) / (width // 2))
    phase = 1000 * at_least_fp32(x)[..., None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm without weights (statistics in fp32 or wider), then the token's shift and scale."""
    return F.layer_norm(at_least_fp32(x), x.shape[-1:]).to(x.dtype) * (1 + scale) + shift


class TimeEmbedder(nn.Module):
    """(t, r) of each chunk -> features: each time through its own MLP, summed, plus the embedding of the mode (method 1).

    What tells FEW from MULTI starts at zero and is absent in MULTI, so a network that was trained on velocities alone enters
    the few-step mode as their Euler step.
    """

    def __init__(self, width: int, features: int = 128) -> None:
        super().__init__()
        self.features = features
        self.start = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        last = nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.end = nn.Sequential(nn.Linear(features, width), nn.SiLU(), last)

    def forward(self, t_BK: Tensor, r_BK: Tensor) -> Tensor:
        """[B, K] times -> [B, K, D]; the mode is MULTI where r = t, FEW where r < t (its embedding is the bias of `end`)."""
        dtype = next(self.start.parameters()).dtype
        few = (r_BK < t_BK).to(dtype)[..., None]
        return self.start(sinusoidal(t_BK, self.features).to(dtype)) + few * self.end(sinusoidal(r_BK, self.features).to(dtype))


class Modulation(nn.Module):
    """Shared projection of the time features to `parts` vectors (adaLN); each block adds its own offset."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features_BKD: Tensor) -> Tensor:
        """[B, K, D] -> [B, K, parts, D]."""
        return self.linear(F.silu(features_BKD)).unflatten(-1, (self.parts, -1))


class Offset(nn.Module):
    """A learned offset: a block's share of the modulation."""

    def __init__(self, *shape: int, std: float) -> None:
        super().__init__()
        self.value = nn.Parameter(std * torch.randn(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


@torch.no_grad()
def favour_near(projection: nn.Linear, head_dim: int, rows: int) -> None:
    """Start the first `rows` outputs (queries, keys) with a common component, which rotary attention scores by nearness."""
    bias = projection.bias[:rows].view(-1, head_dim)
    bias[:, : head_dim // 2] = 1.0
    bias[:, head_dim // 2 :] = 0.0


class SelfAttention(nn.Module):
    """One branch's projections for the joint self-attention, with normalised queries and keys (method 2)."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.q_norm, self.k_norm = nn.RMSNorm(head_dim), nn.RMSNorm(head_dim)
        self.out = nn.Linear(heads * head_dim, width)
        favour_near(self.qkv, head_dim, rows=2 * heads * head_dim)

    def project(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (normalised, unrotated) and values, [B, N, M, D] each."""
        q, k, v = self.qkv(x_BND).unflatten(-1, (3, self.heads, -1)).unbind(dim=2)
        return self.q_norm(q), self.k_norm(k), v


class CrossAttention(nn.Module):
    """Text cross-attention of one branch: an always visible null token, caption tokens without time, words at their times.

    Caption logits use the unrotated query, word logits the rotated one: a shift of all times then changes nothing. Both
    sets share one softmax, written as one product over doubled features: [q, rotated q] . [k, 0] or [0, rotated k].
    """

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.q = nn.Linear(width, heads * head_dim)
        self.kv = nn.Linear(width, 2 * heads * head_dim)
        self.q_norm, self.k_norm = nn.RMSNorm(head_dim), nn.RMSNorm(head_dim)
        self.out = nn.Linear(heads * head_dim, width)
        favour_near(self.q, head_dim, rows=heads * head_dim)
        favour_near(self.kv, head_dim, rows=heads * head_dim)

    def keys_values(self, timeless_BWD: Tensor, words_BWD: Tensor, by: Rotation) -> tuple[Tensor, Tensor]:
        """Keys [B, W, M, 2D] and values [B, W, M, D] of the text; computed once a clip."""
        k, v = self.kv(torch.cat([timeless_BWD, words_BWD], dim=1)).unflatten(-1, (2, self.heads, -1)).unbind(dim=2)
        plain, timed = self.k_norm(k).split([timeless_BWD.shape[1], words_BWD.shape[1]], dim=1)
        plain = torch.cat([plain, torch.zeros_like(plain)], dim=-1)
        timed = torch.cat([torch.zeros_like(timed), rotate(timed, by)], dim=-1)
        return torch.cat([plain, timed], dim=1), v

    def forward(self, x_BND: Tensor, keys: Tensor, values: Tensor, mask_BNW: Tensor, by: Rotation) -> Tensor:
        q = self.q_norm(self.q(x_BND).unflatten(-1, (self.heads, -1)))
        q = torch.cat([q, rotate(q, by)], dim=-1)
        o = F.scaled_dot_product_attention(
            q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask_BNW[:, None], scale=self.head_dim**-0.5
        )
        return self.out(o.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One layer of one branch around the joint self-attention, which the transformer computes between its two halves."""

    def __init__(self, width: int, heads: int, head_dim: int, ffn_ratio: int) -> None:
        super().__init__()
        self.offset = Offset(6, width, std=width**-0.5)
        with torch.no_grad():
            self.offset.value[[2, 5]] += 1  # both residual gates start open: a small model has no steps to spare for opening them
        self.attention = SelfAttention(width, heads, head_dim)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = CrossAttention(width, heads, head_dim)
        self.ffn = nn.Sequential(nn.Linear(width, ffn_ratio * width), nn.GELU(approximate="tanh"), nn.Linear(ffn_ratio * width, width))

    def before(self, x_BND: Tensor, modulation: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values for the joint self-attention; `modulation` is six [B, N, D] vectors."""
        return self.attention.project(modulated(x_BND, modulation[0], modulation[1]))

    def after(
        self, x_BND: Tensor, attended: Tensor, modulation: tuple[Tensor, ...], text: tuple[Tensor, Tensor, Tensor, Rotation]
    ) -> Tensor:
        """Residual updates: attention, text, feed-forward. `text` is (keys, values, mask, rotation) of the cross-attention."""
        _, _, gate, shift, scale, ffn_gate = modulation
        x_BND = x_BND + gate * self.attention.out(attended.flatten(2))
        x_BND = x_BND + self.cross(self.cross_norm(x_BND), *text)
        return x_BND + ffn_gate * self.ffn(modulated(x_BND, shift, scale))
