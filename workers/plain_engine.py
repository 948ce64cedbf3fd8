"""A trained network in one process of plain PyTorch: for benchmarks on bare machines, and as the reference of DeepSpeed's tests."""

from __future__ import annotations

from math import inf
from typing import Any

from torch import nn

from ..model.losses import Loss
from .optimizer import OptimizerConfig, ParameterGroups, set_rate
from .train_step import Update


class PlainEngine:
    """What `Engine` promises, without DeepSpeed and for one process."""

    def __init__(self, network: nn.Module, trained: ParameterGroups, optimizer: OptimizerConfig) -> None:
        self.network = network
        self._config = optimizer
        self._trained = [p for _, parameters in trained for p in parameters]
        self._adamw = optimizer.adamw(trained)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Forward with gradient."""
        return self.network(*args, **kwargs)

    def backward(self, loss: Loss, last: bool) -> None:
        """Add a part's gradient."""
        loss.value.backward()

    def step(self, rate: float) -> Update:
        """One optimizer step; skipped where the gradient is not finite."""
        set_rate(self._adamw.param_groups, rate)
        norm = nn.utils.clip_grad_norm_(self._trained, self._config.clip or inf)
        applied = bool(norm.isfinite())
        if applied:
            self._adamw.step()
        self._adamw.zero_grad()
        return Update(float(norm), applied)
