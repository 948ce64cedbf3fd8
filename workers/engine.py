"""DeepSpeed, the only file that imports it: its configuration, one engine a trained network, steps and gathered weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import inf
from typing import Any, Literal

os.environ.setdefault("DS_ACCELERATOR", "cpu" if not os.path.exists("/dev/nvidiactl") else "cuda")

import deepspeed
import torch
from deepspeed import ops
from torch import Tensor, nn

from ..model.losses import Loss


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW of one stage (the paper: lr 5e-5, betas 0.9/0.95, weight decay 0.02, clip 0.5). warmup and decay: shares of the stage
    in which the rate rises linearly from 0 and falls linearly to `final_lr_share` of its peak.
    """

    lr: float = 5e-5
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.02
    clip: float = 0.5
    warmup: float = 0.02
    decay: float = 0.0
    final_lr_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.lr < inf:
            raise ValueError(f"optimizer.lr={self.lr}: must be positive")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be at least 0 and below 1")
        for name in ("warmup", "decay", "final_lr_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be a share from 0 to 1")
        for name in ("weight_decay", "clip"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"optimizer.{name}={getattr(self, name)}: must be 0 (off) or more")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of optimizer step `step` of `steps`."""
        up = min(1.0, (step + 1) / max(1.0, self.warmup * steps))
        left = (steps - step) / max(1.0, self.decay * steps)
        down = self.final_lr_share + (1 - self.final_lr_share) * min(1.0, left) if self.decay else 1.0
        return self.lr * min(up, down)


@dataclass(frozen=True)
class EngineConfig:
    """zero_stage 0-3; precision of weights and activations (fp32 or bf16; the optimizer keeps fp32)."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"engine.zero_stage={self.zero_stage}: must be 0, 1, 2 or 3")
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ValueError(
                "engine.precision=bf16 with engine.zero_stage=0 gives wrong updates in DeepSpeed; use stage 1, 2 or 3, or fp32"
            )


class Engine:
    """One network under training. Losses may come in parts, each with its own forward; the gradient is that of their sum.

    The order is: forward, `backward`, forward, `backward`, ..., `step`. Two forwards and then two backwards lose a gradient: DeepSpeed's
    stage 3 begins to accumulate at the forward that follows a backward.
    """

    def __init__(
        self, network: nn.Module, trained: list[nn.Parameter], optimizer: OptimizerConfig, config: EngineConfig, batch: int
    ) -> None:
        ops.__compatible_ops__["deepspeed_shm_comm"] = False  # CPU: it would compile for a minute and needs gcc; gloo gives the same losses
        wanted = {id(p) for p in trained}
        for p in network.parameters():
            p.requires_grad_(id(p) in wanted)
        adamw = torch.optim.AdamW(trained, lr=optimizer.lr, betas=(optimizer.beta1, optimizer.beta2), weight_decay=optimizer.weight_decay)
        initialize: Any = deepspeed.initialize  # its annotations are wrong
        self._engine, self._optimizer, _, _ = initialize(
            model=network, optimizer=adamw, model_parameters=trained, config=_deepspeed_config(optimizer, config, batch)
        )
        self._stage = config.zero_stage
        self._forward_done = False
        self.network = network

    def __call__(self, *args, **kwargs):
        """Forward with gradient, through DeepSpeed."""
        self._forward_done = True
        return self._engine(*args, **kwargs)

    def backward(self, loss: Loss, last: bool) -> None:
        """Add a part's gradient; `last` closes the step. DeepSpeed's stages 1 and 2 are silently wrong without the boundary."""
        assert self._forward_done, "each backward needs its own forward before it; see Engine"
        self._forward_done = False
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss.value)

    def step(self, rate: float) -> float:
        """One optimizer step at learning rate `rate`; returns the gradient norm before clipping (NaN where DeepSpeed has none)."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)

    @contextmanager
    def gathered(self) -> Iterator[list[Tensor]]:
        """All weights, whole on every rank, in the order of `network.parameters()`; all ranks must enter (ZeRO-3 gathers)."""
        parameters = list(self.network.parameters())
        with deepspeed.zero.GatheredParameters(parameters) if self._stage == 3 else nullcontext():
            yield [p.data for p in parameters]

    def close(self) -> None:
        """Release hooks and buffers, so that the next stage can wrap the same network."""
        self._engine.destroy()


def _deepspeed_config(optimizer: OptimizerConfig, config: EngineConfig, batch: int) -> dict:
    return {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.clip,
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
