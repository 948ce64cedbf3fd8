"""A network that is trained in bf16 by plain PyTorch, as DeepSpeed would: for `bench plan` on a bare GPU machine."""

from __future__ import annotations

import torch
from torch import nn

from ..workers.optimizer import OptimizerConfig, ParameterGroups
from ..workers.plain_engine import PlainEngine
from ..workers.train_step import Update


def half_engine(network: nn.Module, groups: ParameterGroups, optimizer: OptimizerConfig) -> PlainEngine:
    """AdamW updates masters in fp32, of which the network has rounded copies from now on."""
    masters = [(ratio, [nn.Parameter(p.detach().clone()) for p in parameters]) for ratio, parameters in groups]
    pairs = [pair for (_, own), (_, rounded) in zip(masters, groups, strict=True) for pair in zip(own, rounded, strict=True)]

    class Half(PlainEngine):
        def step(self, rate: float) -> Update:
            for master, p in pairs:
                master.grad, p.grad = None if p.grad is None else p.grad.float(), None
            done = super().step(rate)
            with torch.no_grad():
                for master, p in pairs:
                    p.copy_(master)
            return done

    return Half(network.to(torch.bfloat16), masters, optimizer)
