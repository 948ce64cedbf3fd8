"""A second device without hardware: its tensors compute on the CPU, say that they are elsewhere, and refuse to meet those of the CPU.

So what a GPU refuses ("expected all tensors to be on the same device") is found without one, and the numbers can be compared.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FAR = torch.device("meta")  # a name that PyTorch knows everywhere and that holds no data of its own
CPU = torch.device("cpu")
CROSSING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
Network = TypeVar("Network", bound=nn.Module)


class FarTensor(Tensor):
    """near: the same elements on the CPU."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> FarTensor:
        shape = {"strides": near.stride(), "storage_offset": near.storage_offset()}
        made: Any = Tensor._make_wrapper_subclass(cls, near.size(), device=FAR, dtype=near.dtype, **shape)
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Far(TorchDispatchMode):
    """A context in which `FAR` is such a device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def moved(network: Network) -> Network:
    """The network with all that it has on the device, in place."""
    for module in network.modules():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(FarTensor(p.data), p.requires_grad))
        for name, x in module.named_buffers(recurse=False):
            module.register_buffer(name, FarTensor(x))
    return network


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    far = any(isinstance(x, FarTensor) for x in tensors)
    if far and func not in CROSSING:
        for x in tensors:
            if x.dim() and not isinstance(x, FarTensor):  # a single number may come from anywhere
                raise RuntimeError(f"{func}: a tensor of the CPU, {list(x.shape)}, meets one of the device")
    asked = kwargs.get("device")
    goes = torch.device(asked) if asked is not None else FAR if far else CPU
    near_args, near_kwargs = tree_map(lambda x: x.near if isinstance(x, FarTensor) else x, (args, kwargs))
    made = func(*near_args, **near_kwargs if asked is None else near_kwargs | {"device": CPU})
    if func._schema.is_mutable and made is near_args[0]:
        return args[0]
    return tree_map(lambda x: FarTensor(x) if isinstance(x, Tensor) and goes == FAR else x, made)
