"""Inflated Inception (I3D): 16 pictures -> 400 logits of Kinetics-400, the features of the Fréchet video distance.

    [N, 3, T, 224, 224] in -1..1 -> 7x7x7 -> pools and nine Inception blocks -> mean of 2 x 7 x 7 -> 1x1x1 -> mean over time -> [N, 400]

Carreira & Zisserman, "Quo vadis, action recognition?", CVPR 2017. The weights are DeepMind's `rgb_imagenet` as the state dict
`rgb_imagenet.pt` of the public pytorch-i3d, compared with that source layer by layer: each unit is a convolution without bias, a batch norm
with eps 1e-3 and a ReLU; padding is TensorFlow's SAME, the larger part behind; pools are padded with zeros, which after a ReLU is the same
as leaving them out; the last unit has a bias, no norm and no ReLU. Names below are those of that file. With
random weights its logits were those of that source bit for bit.

FVD's authors and StyleGAN-V take the same network from TensorFlow Hub and as TorchScript. TorchScript is code, so it is not read here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FILE, PICKLED = "rgb_imagenet.safetensors", "rgb_imagenet.pt"
CLASSES, SIDE = 400, 224
LEAST = 9  # pictures: below it nothing is left for the pool over time
BLOCKS = {  # name: channels of its branches: 1x1 | 1x1, 3x3 | 1x1, 3x3 | pool, 1x1
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": (3, 2),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": (2, 2),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
Three = tuple[int, int, int]


class I3D(nn.Module):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        parts: dict[str, nn.Module] = {
            "Conv3d_1a_7x7": Unit(3, 64, 7, 2),
            "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": Unit(64, 64, 1),
            "Conv3d_2c_3x3": Unit(64, 192, 3),
            "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
        }
        channels = 192
        for name, sizes in BLOCKS.items():
            if len(sizes) == 2:
                parts[name] = Pool((sizes[0],) * 3, (sizes[1],) * 3)
            else:
                parts[name] = Inception(channels, *sizes)
                channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
        self._order = tuple(parts)
        for name, part in parts.items():
            self.add_module(name, part)
        self.logits = Unit(channels, CLASSES, 1, last=True)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """[N, 3, T, 224, 224] in -1..1, T at least 9 -> [N, 400]."""
        for name in self._order:
            x_NCTHW = getattr(self, name)(x_NCTHW)
        return self.logits(F.avg_pool3d(x_NCTHW, (2, 7, 7), 1)).mean((2, 3, 4))


class Unit(nn.Module):
    """Convolution, batch norm, ReLU; the last one: a convolution with a bias alone."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, last: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=last)
        self.bn = None if last else nn.BatchNorm3d(outputs, eps=1e-3)
        self._kernel, self._stride = (kernel, kernel, kernel), (stride, stride, stride)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        x_NCTHW = self.conv3d(same(x_NCTHW, self._kernel, self._stride))
        return x_NCTHW if self.bn is None else self.bn(x_NCTHW).relu()


class Pool(nn.Module):
    """The maximum, padded as TensorFlow does."""

    def __init__(self, kernel: Three, stride: Three) -> None:
        super().__init__()
        self._kernel, self._stride = kernel, stride

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return F.max_pool3d(same(x_NCTHW, self._kernel, self._stride), self._kernel, self._stride)


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, one: int, before3: int, three: int, before5: int, five: int, pooled: int) -> None:
        super().__init__()
        self.b0 = Unit(inputs, one, 1)
        self.b1a, self.b1b = Unit(inputs, before3, 1), Unit(before3, three, 3)
        self.b2a, self.b2b = Unit(inputs, before5, 1), Unit(before5, five, 3)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(inputs, pooled, 1)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        branches = (self.b0, nn.Sequential(self.b1a, self.b1b), nn.Sequential(self.b2a, self.b2b), nn.Sequential(self.b3a, self.b3b))
        return torch.cat([branch(x_NCTHW) for branch in branches], dim=1)


def same(x_NCTHW: Tensor, kernel: Three, stride: Three) -> Tensor:
    """Zeros around, so that a kernel gives ceil(size / stride) places: TensorFlow's SAME."""
    around = list[int]()
    for size, k, s in reversed(list(zip(x_NCTHW.shape[2:], kernel, stride, strict=True))):
        total = max(k - (s if size % s == 0 else size % s), 0)
        around += [total // 2, total - total // 2]
    return F.pad(x_NCTHW, around)
