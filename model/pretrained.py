"""Weights of another network become those of a branch: copied one parameter after the other, none left out, none left over.

Where the tensors lie is the caller's business (`Source`), so this file needs PyTorch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


class Source(Protocol):
    """Named tensors that are read one by one; their shapes are known without reading them."""

    @property
    def shapes(self) -> Mapping[str, Shape]: ...

    def read(self, name: str) -> Tensor: ...


@dataclass(frozen=True)
class Copy:
    """Parameter `target` of a branch is `make` of the source's tensors of these names and shapes."""

    target: str
    sources: tuple[tuple[str, Shape], ...]
    make: Callable[..., Tensor]


def as_it_is(x: Tensor) -> Tensor:
    """For parameters that are the same in both networks."""
    return x


def same_names(branch: nn.Module, prefix: str) -> list[Copy]:
    """Every parameter of a branch from the tensor of its own name behind `prefix`: a checkpoint of this project."""
    return [Copy(name, ((prefix + name, tuple(p.shape)),), as_it_is) for name, p in branch.named_parameters()]


def check(copies: Sequence[Copy], shapes: Mapping[str, Shape]) -> None:
    """Refuse a source whose tensors are not exactly those of `copies`.

    Raises:
        ValueError: tensors are missing, of another shape, or left over; the first is named.
    """
    wanted = {name: shape for copy in copies for name, shape in copy.sources}
    if missing := wanted.keys() - shapes.keys():
        raise ValueError(f"lacks {_names(missing)}; its files are incomplete or of another network")
    if extra := shapes.keys() - wanted.keys():
        raise ValueError(f"holds {_names(extra)}, which nothing here takes; it is of another network")
    for name, shape in wanted.items():
        if tuple(shapes[name]) != shape:
            raise ValueError(f"tensor {name!r} is {list(shapes[name])}, this network needs {list(shape)}; it is of another network")


@torch.no_grad()
def fill(branch: nn.Module, copies: Sequence[Copy], source: Source) -> None:
    """Write the copies into the branch, in place; beside it, no more than one parameter and its sources are in memory.

    Raises:
        ValueError: a value is not finite; its tensor is named.
    """
    for copy in copies:
        _write(branch.get_parameter(copy.target), copy, source)


def _write(parameter: nn.Parameter, copy: Copy, source: Source) -> None:
    x = copy.make(*(source.read(name) for name, _ in copy.sources)).to(parameter)
    assert x.shape == parameter.shape, (copy.target, x.shape, parameter.shape)
    if not bool(x.isfinite().all()):
        raise ValueError(f"{_names([name for name, _ in copy.sources])}: not all values are finite; get the weights again")
    parameter.copy_(x)


def _names(names: Collection[str]) -> str:
    first = sorted(names)[0]
    return f"tensor {first!r}" if len(names) == 1 else f"{len(names)} tensors, {first!r} the first"
