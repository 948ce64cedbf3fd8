"""How a network is computed: time and memory, not what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch

from .attention import AttentionKind


@dataclass(frozen=True)
class ExecutionConfig:
    """Results are the same but for rounding. What does not go together in a training (hooks, adapters) is refused by its `RunConfig`.

    attention: back-end of the parallel passes; `flex` wants a GPU. checkpoint_every: every n-th layer keeps no activations and is
    computed again in the backward; 0 = none. compile: blocks through torch.compile. graphs: passes of a stream as CUDA graphs (recording),
    worth it for long clips on a GPU.
    """

    attention: AttentionKind = "dense"
    checkpoint_every: int = 0
    compile: bool = False
    graphs: bool = False

    def __post_init__(self) -> None:
        if self.attention not in get_args(AttentionKind):
            raise ValueError(f"execution.attention={self.attention!r}: choose {' or '.join(get_args(AttentionKind))}")
        if self.checkpoint_every < 0:
            raise ValueError(f"execution.checkpoint_every={self.checkpoint_every}: every how many layers one is recomputed; 0 = none")


PLAIN = ExecutionConfig()


VARIANTS = 64  # two widths, with and without gradient, one clip or many, no word or many, the first frame alone: some twenty come together


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Through torch.compile, with room for all the forms that a network calls it in: beyond its limit PyTorch goes on uncompiled."""
    from torch import _dynamo as dynamo

    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, VARIANTS)
    return torch.compile(function)
