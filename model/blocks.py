"""The parts of one branch: time embedding, modulation, self-attention projections, text cross-attention, feed-forward.

`BranchConfig` holds what pretrained networks do otherwise; its defaults are this project's own choices.

Parameters are touched only inside the `forward` of the module that owns them: ZeRO-3 gathers them there.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .rope import Rotation, rotate
from .types import at_least_fp32


@dataclass(frozen=True)
class BranchConfig:
    """What one branch does as a pretrained network does it (docs/pretrained.md).

    qk_norm: queries and keys are normalised within each head, or over all heads together. norm_eps: of every norm; null = PyTorch's
    default. time_features: sinusoids of a time. ffn_width: null = model.ffn_ratio x width. head: the last modulation is a projection of
    the time features, or a table that is added to them. prediction: the output is preconditioned (path.py), or the velocity itself.
    caption_features: width of precomputed caption features; 0 = captions are words as bytes, like the transcript.
    """

    qk_norm: Literal["head", "all"] = "head"
    norm_eps: float | None = None
    time_features: int = 128
    ffn_width: int | None = None
    head: Literal["projection", "table"] = "projection"
    prediction: Literal["preconditioned", "velocity"] = "preconditioned"
    caption_features: int = 0

    def check(self, where: str) -> None:
        """Refuse impossible values; `where` names the section.

        Raises:
            ValueError: a value is out of its range.
        """
        if self.qk_norm not in ("head", "all"):
            raise ValueError(f"{where}.qk_norm={self.qk_norm!r}: choose head or all")
        if self.head not in ("projection", "table"):
            raise ValueError(f"{where}.head={self.head!r}: choose projection or table")
        if self.prediction not in ("preconditioned", "velocity"):
            raise ValueError(f"{where}.prediction={self.prediction!r}: choose preconditioned or velocity")
        if self.norm_eps is not None and not 0 < self.norm_eps < inf:
            raise ValueError(f"{where}.norm_eps={self.norm_eps}: must be positive, for example 1e-6, or null")
        if self.time_features < 2 or self.time_features % 2:
            raise ValueError(f"{where}.time_features={self.time_features}: must be a positive even number")
        if self.ffn_width is not None and self.ffn_width < 1:
            raise ValueError(f"{where}.ffn_width={self.ffn_width}: must be at least 1, or null for model.ffn_ratio x width")
        if self.caption_features < 0:
            raise ValueError(f"{where}.caption_features={self.caption_features}: must be the width of caption features, or 0 for bytes")


def sinusoidal(x: Tensor, width: int) -> Tensor:
    """Sinusoidal features [..., width] of times in [0, 1], in fp32 or wider."""
    frequencies = torch.exp(-log(10_000) * torch.arange(width // 2, device=x.device) / (width // 2))
    phase = 1000 * at_least_fp32(x)[..., None] * frequencies
    return torch.cat([phase.sin(), phase.cos()], dim=-1)


LAYER_NORM_EPS = 1e-5  # PyTorch's default


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float | None = None) -> Tensor:
    """Layer norm without weights (statistics in fp32 or wider), then the token's shift and scale."""
    return F.layer_norm(at_least_fp32(x), x.shape[-1:], eps=eps or LAYER_NORM_EPS).to(x.dtype) * (1 + scale) + shift


class WideLinear(nn.Linear):
    """A linear layer that computes in fp32 or wider, whatever its weights are kept in."""

    def forward(self, x: Tensor) -> Tensor:
        weight = at_least_fp32(self.weight)
        return F.linear(x.to(weight.dtype), weight, at_least_fp32(self.bias))


class TimeEmbedder(nn.Module):
    """(t, r) of each chunk -> features: each time through its own MLP, summed, plus the embedding of the mode (method 1).

    In fp32 or wider: there are few rows, and everything that a chunk does hangs on them.

    What tells FEW from MULTI starts at zero and is absent in MULTI, so a network that was trained on velocities alone enters
    the few-step mode as their Euler step.
    """

    def __init__(self, width: int, features: int = 128) -> None:
        super().__init__()
        self.features = features
        self.start = nn.Sequential(WideLinear(features, width), nn.SiLU(), WideLinear(width, width))
        last = WideLinear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.end = nn.Sequential(WideLinear(features, width), nn.SiLU(), last)

    def forward(self, t_BK: Tensor, r_BK: Tensor) -> Tensor:
        """[B, K] times -> [B, K, D]; the mode is MULTI where r = t, FEW where r < t (its embedding is the bias of `end`)."""
        few = (r_BK < t_BK)[..., None]
        return self.start(sinusoidal(t_BK, self.features)) + few * self.end(sinusoidal(r_BK, self.features))


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
        return self.linear(F.silu(features_BKD).to(self.linear.weight.dtype)).unflatten(-1, (self.parts, -1))


class Table(nn.Module):
    """A learned table of `parts` vectors that the time features are added to: a modulation without a projection."""

    def __init__(self, width: int, parts: int) -> None:
        super().__init__()
        self.value = nn.Parameter(width**-0.5 * torch.randn(parts, width))

    def forward(self, features_BKD: Tensor) -> Tensor:
        """[B, K, D] -> [B, K, parts, D]."""
        return (features_BKD[:, :, None] + self.value).to(self.value.dtype)


ALIGNED = 8  # rows: a product of other numbers of them goes by a slow kernel on a GPU


class _Taken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BKPD: Tensor, row_N: Tensor) -> Tensor:
        ctx.save_for_backward(row_N)
        ctx.rows = x_BKPD.shape[1]
        return x_BKPD[:, row_N]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient_BNPD,), (row_N,) = gradients, ctx.saved_tensors
        rows = -(-ctx.rows // ALIGNED) * ALIGNED
        chosen_KN = F.one_hot(row_N, rows).T.to(gradient_BNPD.dtype)
        return (chosen_KN @ gradient_BNPD.flatten(2))[:, : ctx.rows].unflatten(-1, gradient_BNPD.shape[2:]), None


def taken(x_BKPD: Tensor, row: Tensor | slice) -> Tensor:
    """Vectors [B, K, P, D] of rows -> those of tokens [B, N, P, D]; `row` [N] is each token's, or all of the only one.

    Its gradient is a product, in any order of the tokens the same: PyTorch's own sorts the rows, which costs more than a layer does.
    """
    return x_BKPD[:, row] if isinstance(row, slice) else _Taken.apply(x_BKPD, row)


class Offset(nn.Module):
    """A learned offset: a block's share of the modulation."""

    def __init__(self, *shape: int, std: float) -> None:
        super().__init__()
        self.value = nn.Parameter(std * torch.randn(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


class Gate(nn.Module):
    """A learned factor a feature that starts at zero: what passes through it has no influence at first."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value


class HeadsNorm(nn.RMSNorm):
    """Root mean square norm over all heads of [..., M, D] together."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(-2)).view_as(x)


def _qk_norm(heads: int, head_dim: int, options: BranchConfig) -> nn.RMSNorm:
    eps = options.norm_eps
    return nn.RMSNorm(head_dim, eps=eps) if options.qk_norm == "head" else HeadsNorm(heads * head_dim, eps=eps)


@torch.no_grad()
def favour_near(projection: nn.Linear, head_dim: int, rows: int) -> None:
    """Start the first `rows` outputs (queries, keys) with a common component, which rotary attention scores by nearness."""
    bias = projection.bias[:rows].view(-1, head_dim)
    bias[:, : head_dim // 2] = 1.0
    bias[:, head_dim // 2 :] = 0.0


class SelfAttention(nn.Module):
    """One branch's projections for the joint self-attention, with normalised queries and keys (method 2)."""

    def __init__(self, width: int, heads: int, head_dim: int, options: BranchConfig) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.q_norm, self.k_norm = _qk_norm(heads, head_dim, options), _qk_norm(heads, head_dim, options)
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

    def __init__(self, width: int, heads: int, head_dim: int, options: BranchConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.q = nn.Linear(width, heads * head_dim)
        self.kv = nn.Linear(width, 2 * heads * head_dim)
        self.q_norm, self.k_norm = _qk_norm(heads, head_dim, options), _qk_norm(heads, head_dim, options)
        self.out = nn.Linear(heads * head_dim, width)
        favour_near(self.q, head_dim, rows=heads * head_dim)
        favour_near(self.kv, head_dim, rows=heads * head_dim)

    def keys_values(self, timeless_BWD: Tensor, words_BWD: Tensor, by: Rotation) -> tuple[Tensor, Tensor]:
        """Keys and values [B, W, M, 2D] of the text, computed once a clip; fused kernels want both as wide, so zeros follow the values."""
        k, v = self.kv(torch.cat([timeless_BWD, words_BWD], dim=1)).unflatten(-1, (2, self.heads, -1)).unbind(dim=2)
        plain, timed = self.k_norm(k).split([timeless_BWD.shape[1], words_BWD.shape[1]], dim=1)
        plain = torch.cat([plain, torch.zeros_like(plain)], dim=-1)
        timed = torch.cat([torch.zeros_like(timed), rotate(timed, by)], dim=-1)
        return torch.cat([plain, timed], dim=1), F.pad(v, (0, v.shape[-1]))

    def forward(self, x_BND: Tensor, keys: Tensor, values: Tensor, mask_BNW: Tensor, by: Rotation) -> Tensor:
        q = self.q_norm(self.q(x_BND).unflatten(-1, (self.heads, -1)))
        q = torch.cat([q, rotate(q, by)], dim=-1)
        o = F.scaled_dot_product_attention(
            q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask_BNW[:, None], scale=self.head_dim**-0.5
        )
        return self.out(o.transpose(1, 2)[..., : self.head_dim].flatten(2))


class CaptionAttention(nn.Module):
    """Text cross-attention of a branch that takes caption features: all of them visible, also the padding, and no null token.

    Transcript words are read apart, in a softmax of their own by the rotated query, and enter through a gate that starts at zero: a
    pretrained network has never seen them. A zero key with a zero value stands beside them, so that "no word" is finite and is nothing.
    """

    def __init__(self, width: int, heads: int, head_dim: int, options: BranchConfig) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, heads * head_dim)
        self.kv = nn.Linear(width, 2 * heads * head_dim)
        self.q_norm, self.k_norm = _qk_norm(heads, head_dim, options), _qk_norm(heads, head_dim, options)
        self.out = nn.Linear(heads * head_dim, width)
        self.words_kv = nn.Linear(width, 2 * heads * head_dim)
        self.words_norm = _qk_norm(heads, head_dim, options)
        self.gate = Gate(heads, head_dim)
        favour_near(self.q, head_dim, rows=heads * head_dim)
        favour_near(self.words_kv, head_dim, rows=heads * head_dim)

    def keys_values(self, caption_BWD: Tensor, words_BWD: Tensor, by: Rotation) -> tuple[Tensor, Tensor]:
        """Keys and values [B, W, M, D] of the caption, of the words, and the zero one; computed once a clip."""
        k, v = self.kv(caption_BWD).unflatten(-1, (2, self.heads, -1)).unbind(dim=2)
        words_k, words_v = self.words_kv(words_BWD).unflatten(-1, (2, self.heads, -1)).unbind(dim=2)
        words_k = rotate(self.words_norm(words_k), by)
        nothing = k.new_zeros(k.shape[0], 1, *k.shape[2:])
        return torch.cat([self.k_norm(k), words_k, nothing], dim=1), torch.cat([v, words_v, nothing], dim=1)

    def forward(self, x_BND: Tensor, keys: Tensor, values: Tensor, mask_BNW: Tensor, by: Rotation) -> Tensor:
        """`mask_BNW`, 0 or -inf, is of the words alone."""
        q = self.q_norm(self.q(x_BND).unflatten(-1, (self.heads, -1)))
        words = mask_BNW.shape[-1] + 1
        counts = [keys.shape[1] - words, words]
        k, words_k = keys.transpose(1, 2).split(counts, dim=2)
        v, words_v = values.transpose(1, 2).split(counts, dim=2)
        read = F.scaled_dot_product_attention(q.transpose(1, 2), k, v).transpose(1, 2)
        visible = F.pad(mask_BNW, (0, 1))[:, None]
        spoken = F.scaled_dot_product_attention(rotate(q, by).transpose(1, 2), words_k, words_v, attn_mask=visible).transpose(1, 2)
        return self.out((read + self.gate(spoken)).flatten(2))


class Block(nn.Module):
    """One layer of one branch around the joint self-attention, which the transformer computes between its two halves."""

    def __init__(self, width: int, heads: int, head_dim: int, ffn_width: int, options: BranchConfig) -> None:
        super().__init__()
        self.eps = options.norm_eps
        self.offset = Offset(6, width, std=width**-0.5)
        with torch.no_grad():
            self.offset.value[[2, 5]] += 1  # both residual gates start open: a small model has no steps to spare for opening them
        self.attention = SelfAttention(width, heads, head_dim, options)
        self.cross_norm = nn.LayerNorm(width, eps=options.norm_eps or LAYER_NORM_EPS)
        self.cross = (CaptionAttention if options.caption_features else CrossAttention)(width, heads, head_dim, options)
        self.ffn = nn.Sequential(nn.Linear(width, ffn_width), nn.GELU(approximate="tanh"), nn.Linear(ffn_width, width))

    def before(self, x_BND: Tensor, modulation: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values for the joint self-attention; `modulation` is six [B, N, D] vectors."""
        return self.attention.project(modulated(x_BND, modulation[0], modulation[1], self.eps))

    def after(
        self, x_BND: Tensor, attended: Tensor, modulation: tuple[Tensor, ...], text: tuple[Tensor, Tensor, Tensor, Rotation]
    ) -> Tensor:
        """Residual updates: attention, text, feed-forward. `text` is (keys, values, mask, rotation) of the cross-attention."""
        _, _, gate, shift, scale, ffn_gate = modulation
        x_BND = x_BND + gate * self.attention.out(attended.flatten(2))
        x_BND = x_BND + self.cross(self.cross_norm(x_BND), *text)
        return x_BND + ffn_gate * self.ffn(modulated(x_BND, shift, scale, self.eps))
