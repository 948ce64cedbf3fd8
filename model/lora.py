"""The fake score as a low-rank adapter over the live weights under stop-gradient (method 5.4): no second trained copy of the network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class LoraAdapter(nn.Module):
    """`base` with its weights held still, plus `up @ down` of rank `rank` at each of its linear layers; at first it equals `base`.

    It follows `base`: as theta moves, so does phi, and the adapter learns the difference. No gradient reaches `base`. The weights of
    `base` must be whole in this process, so ZeRO-3 is out.
    """

    def __init__(self, base: nn.Module, rank: int, seed: int = 0) -> None:
        super().__init__()
        self._base = (base,)  # in a tuple: its weights belong to their owner, and this module must not list them as its own
        generator = torch.Generator().manual_seed(seed)
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name, layer in _linear_layers(base).items():
            r = min(rank, layer.in_features, layer.out_features)
            first = torch.randn(r, layer.in_features, generator=generator) / layer.in_features**0.5
            self.down[name] = nn.Parameter(first.to(layer.weight))
            self.up[name] = nn.Parameter(torch.zeros(layer.out_features, r).to(layer.weight))

    def forward(self, *args: Any) -> Any:
        """The adapted velocity; arguments as those of `base`."""
        (base,) = self._base
        hooks = [layer.register_forward_hook(self._correction(name)) for name, layer in _linear_layers(base).items()]
        try:
            return functional_call(base, {name: p.detach() for name, p in base.named_parameters()}, args)
        finally:
            for hook in hooks:
                hook.remove()

    def _correction(self, name: str) -> Any:
        down, up = self.down[name], self.up[name]

        def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return output + F.linear(F.linear(inputs[0].to(down.dtype), down), up).to(output.dtype)

        return add


def _linear_layers(base: nn.Module) -> dict[str, nn.Linear]:
    """Linear layers by a name that a parameter dictionary accepts."""
    return {name.replace(".", "/"): layer for name, layer in base.named_modules() if isinstance(layer, nn.Linear)}
