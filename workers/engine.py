"""DeepSpeed, the only file that imports it: its configuration, one engine a trained network, steps, gathered weights and its state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # where training uses GPUs, its workers start with "cuda" here

import deepspeed
import torch
from deepspeed import ops
from torch import Tensor, nn
from torch import distributed as dist

from ..model.branch import Placement, stay
from ..model.losses import Loss
from .optimizer import OptimizerConfig, ParameterGroups, set_rate
from .pieces import WEIGHT, Piece, Source, share
from .train_step import Update


@dataclass(frozen=True)
class EngineConfig:
    """DeepSpeed. zero_stage: what workers share out: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights too; precision: of
    weights and activations; micro_batch: clips a forward, whose gradients are added up (0: a worker's whole
    share of the batch at once); offload: what a GPU does not keep: the optimizer's state and its updates (then they are the CPU's).
    """

    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    micro_batch: int = 0
    offload: Literal["none", "optimizer"] = "none"

    def __post_init__(self) -> None:
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"engine.zero_stage={self.zero_stage}: must be 0, 1, 2 or 3")
        if self.micro_batch < 0:
            raise ValueError(f"engine.micro_batch={self.micro_batch}: must be 0 (off) or more clips")
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ValueError(
                "engine.precision='bf16' with engine.zero_stage=0: DeepSpeed takes a step there that nobody asked for; use stage 1, 2 or 3"
            )
        if self.offload != "none" and self.zero_stage == 0:
            raise ValueError(f"engine.offload={self.offload!r} with engine.zero_stage=0: stage 0 keeps no state apart; use stage 1, 2 or 3")


GATHER = 256 * 2**20  # bytes of weights that are whole at a time where they are averaged
PERSISTENT = 100_000  # weights of a parameter up to which stage 3 keeps it whole: DeepSpeed's own default


def shard(config: EngineConfig) -> Placement:
    """Where a network under training is built. Stage 3: each block goes to the shards of all processes before the next one is made, with
    the weights that it has without sharding; no process holds more than its share and one block.
    """
    if config.zero_stage < 3:
        return stay

    def place(module: nn.Module) -> nn.Module:
        zero = {"stage": 3, "stage3_param_persistence_threshold": PERSISTENT}
        settings = {"train_batch_size": dist.get_world_size(), "zero_optimization": zero}
        deepspeed.zero.Init(module=module, config_dict_or_path=settings)
        return module

    return place


def settled(network: nn.Module, config: EngineConfig, device: torch.device) -> nn.Module:
    """A network on the host -> where it is trained. Stage 3: parameter by parameter into the shards of all processes, so that no GPU ever
    holds it whole; the weights are those of rank 0.
    """
    if config.zero_stage < 3:
        return network.to(device)
    return shard(config)(network.to(torch.bfloat16) if config.precision == "bf16" else network)


@dataclass(frozen=True)
class _Home:
    """Where a piece lies: elements `offset` to `offset + length` of `flat`, which are those from `start` on of their parameter."""

    flat: Tensor
    offset: int
    length: int
    start: int

    def of(self, x: Tensor) -> Tensor:
        """The same elements of `flat`, or of a moment that is as long."""
        return x.detach().view(-1)[self.offset : self.offset + self.length]


class Engine:
    """One network under training. Losses may come in parts, each with its own forward; the gradient is that of their sum.

    The order is: forward, `backward`, forward, `backward`, ..., `step`. Two forwards and then two backwards lose a gradient: DeepSpeed's
    stage 3 begins to accumulate at the forward that follows a backward.
    """

    def __init__(self, network: nn.Module, trained: ParameterGroups, optimizer: OptimizerConfig, config: EngineConfig, batch: int) -> None:
        ops.__compatible_ops__["deepspeed_shm_comm"] = False  # CPU: it would compile for a minute and needs gcc; gloo gives the same losses
        parameters = [p for _, group in trained for p in group]
        wanted = {id(p) for p in parameters}
        for p in network.parameters():
            p.requires_grad_(id(p) in wanted)
        initialize: Any = deepspeed.initialize  # its annotations are wrong
        self._engine, self._optimizer, _, _ = initialize(
            model=network,
            optimizer=optimizer.adamw(trained),
            model_parameters=parameters,
            config=_deepspeed_config(optimizer, config, batch),
        )
        self._stage, self._rounded, self._trained = config.zero_stage, config.precision == "bf16", parameters
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

    def step(self, rate: float) -> Update:
        """One optimizer step at learning rate `rate`; skipped on all ranks where a gradient is not finite."""
        set_rate(self._optimizer.param_groups, rate)
        if self._stage == 0 and not self._finite():  # the other stages look for themselves
            self._engine.zero_grad()
            return Update(float("nan"), applied=False)
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return Update(float("nan") if norm is None else float(norm), applied=self._engine.was_step_applied())

    def _finite(self) -> bool:
        """Whether the reduced gradients are finite; they are the same on every rank."""
        return all(bool(p.grad.isfinite().all()) for p in self._trained if p.grad is not None)

    def each(self) -> Iterator[Tensor]:
        """All weights in fp32, whole on every rank, one after the other, in the order of `network.parameters()`; all ranks must take all of
        them. As `gathered`, and no more than `GATHER` bytes are whole at a time.
        """
        for parameters in _groups(list(self.network.parameters())):
            with self._whole(parameters) as weights:
                yield from weights

    @contextmanager
    def gathered(self) -> Iterator[list[Tensor]]:
        """All weights in fp32, whole on every rank, in the order of `network.parameters()`; all ranks must enter. Under bf16 they are the
        optimizer's own, of which those of the network are rounded copies.
        """
        with self._whole(list(self.network.parameters())) as weights:
            yield weights

    @contextmanager
    def _whole(self, parameters: list[nn.Parameter]) -> Iterator[list[Tensor]]:
        if self._rounded:
            yield self._gathered_masters(parameters)
            return
        with deepspeed.zero.GatheredParameters(parameters) if self._stage == 3 else nullcontext():
            yield [p.data for p in parameters]

    @torch.no_grad()
    def _gathered_masters(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        shapes = [tuple(getattr(p, "ds_shape", p.shape)) for p in parameters]
        counts = [prod(shape) for shape in shapes]
        flat = torch.zeros(sum(counts), device=parameters[0].device)
        for p, whole in zip(parameters, flat.split(counts), strict=True):
            for home in self._homes(p, divided=True):
                whole[home.start : home.start + home.length] = home.of(home.flat)
        dist.all_reduce(flat)  # every element is some process's, and 0 elsewhere
        return [x.view(shape) for x, shape in zip(flat.split(counts), shapes, strict=True)]

    @property
    def steps(self) -> int:
        """Updates so far, as the optimizer counts them: skipped ones do not count."""
        counts = [int(state["step"]) for state in self._states.values() if "step" in state]
        return counts[0] if counts else 0

    def pieces(self) -> list[Piece]:
        """This process's pieces of the network and of what its optimizer knows, as views: copy what must outlive the next step."""
        made = []
        for name, p in self.network.named_parameters():
            for home in self._homes(p, divided=True):
                known = {kind: home.of(x) for kind, x in self._states.get(home.flat, {}).items() if kind != "step"}
                made.append(Piece(name, home.start, home.of(home.flat), known))
        return made

    @torch.no_grad()
    def restore(self, saved: Source, steps: int) -> None:
        """Take up the state that the pieces of any number of processes were saved from, after so many updates. The network must have been
        made with those weights: in bf16 they are rounded here, and only the optimizer's own are restored.
        """
        for name, p in self.network.named_parameters():
            for home in self._homes(p, divided=False):
                end = home.start + home.length
                home.of(home.flat).copy_(saved.stretch(name, WEIGHT, home.start, end))
                for kind in saved.moments(name) if steps else ():
                    state = self._states.setdefault(home.flat, {"step": torch.tensor(float(steps))})
                    home.of(state.setdefault(kind, torch.zeros_like(home.flat))).copy_(saved.stretch(name, kind, home.start, end))

    @property
    def _states(self) -> dict[Tensor, dict[str, Tensor]]:
        """What the optimizer knows, by the tensor that it updates."""
        return (self._optimizer if self._stage == 0 else self._optimizer.optimizer).state

    def _homes(self, p: Any, divided: bool) -> list[_Home]:
        """Where this process keeps elements of a parameter: one place, or none. divided: its share alone of what all keep whole."""
        rank, world = dist.get_rank(), dist.get_world_size()
        if self._stage == 3:
            start = rank * p.ds_tensor.numel()  # all shares are as long; the last ones may reach beyond the parameter
            length, home = min(p.ds_tensor.numel(), p.ds_numel - start), (p.ds_tensor, 0)
            if p.requires_grad:
                group, offset, _ = self._optimizer.grad_position[self._optimizer.get_param_id(p)]
                home = self._optimizer.fp32_partitioned_groups_flat[group], offset
            return [_Home(*home, length, start)] if length > 0 else []
        if self._stage == 0 or not p.requires_grad:
            start, end = share(p.numel(), rank, world) if divided else (0, p.numel())
            return [_Home(p, start, end - start, start)] if start < end else []
        if (held := p._hp_mapping) is None:
            return []
        flat, at, mine = self._optimizer.single_partition_of_fp32_groups, held.hp_fragment_address, held.lp_fragment_address
        return [_Home(flat[held.param_group_index], at.start, at.numel, mine.start)]

    def close(self) -> None:
        """Release hooks and buffers, so that the next stage can wrap the same network."""
        self._engine.destroy()


def _groups(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """In their order, each group of at most `GATHER` bytes in fp32, or of one parameter."""
    group: list[nn.Parameter] = []
    size = 0
    for p in parameters:
        own = 4 * prod(getattr(p, "ds_shape", p.shape))
        if group and size + own > GATHER:
            yield group
            group, size = [], 0
        group.append(p)
        size += own
    if group:
        yield group


def _deepspeed_config(optimizer: OptimizerConfig, config: EngineConfig, batch: int) -> dict:
    return {
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.clip,
        "bf16": {"enabled": config.precision == "bf16", "check_grad_overflow": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            "stage3_param_persistence_threshold": PERSISTENT,
            **({"offload_optimizer": {"device": "cpu"}} if config.offload == "optimizer" else {}),
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
