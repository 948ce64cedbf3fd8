"""SyncNet: five pictures of a face and a fifth of a second of speech -> two points that are close where mouth and voice agree.

    faces [N, 3, 5, 224, 224] -> lips   -> 512 -> 1024      blue, green, red as 0..255
    mfcc  [N, 1, 13, 20]      -> speech -> 512 -> 1024      `mfcc.py`: 20 steps of 10 ms

Chung & Zisserman, "Out of time: automated lip sync in the wild", ACCV workshop 2016. The weights that the field evaluates with
(`syncnet_v2.model` of the authors' syncnet_python) are of a larger network than the paper's (colour instead of grey, 224 pixels instead
of 111, 1024 dimensions instead of 256); layers, sizes and names below are those of that file. Compared with the authors' source layer by
layer: the speech side is a VGG-M of six convolutions (3x3 but for the last, 5x4, which leaves one place), the side of the lips the same
with a first convolution over all five pictures (5x7x7, stride 2, nothing padded) and a last one of 6x6; a batch norm and a ReLU follow
each, and two linear layers with a batch norm between them. Biases are kept, nothing is dropped out.

It has 13,631,616 parameters, 5,664,704 of them for speech: 52 MiB, the size of the published file. With random weights its points
were those of that source bit for bit.
"""

from __future__ import annotations

from torch import Tensor, nn

FILE, PICKLED = "syncnet_v2.safetensors", "syncnet_v2.model"
PICTURES, SIDE = 5, 224  # of a face
STEPS, COEFFICIENTS = 20, 13  # of the sound beside them
WIDTH, DIMENSIONS = 512, 1024


class SyncNet(nn.Module):
    """See the module. The names of its parts are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud = nn.Sequential(
            *_flat(1, 64, 3, 1),
            nn.MaxPool2d(1, 1),
            *_flat(64, 192, 3, 1),
            nn.MaxPool2d(3, (1, 2)),
            *_flat(192, 384, 3, 1),
            *_flat(384, 256, 3, 1),
            *_flat(256, 256, 3, 1),
            nn.MaxPool2d(3, 2),
            *_flat(256, WIDTH, (5, 4), 0),
        )
        self.netfcaud = _head()
        self.netfclip = _head()
        self.netcnnlip = nn.Sequential(
            *_deep(3, 96, (PICTURES, 7, 7), (1, 2, 2), 0),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_deep(96, 256, (1, 5, 5), (1, 2, 2), 1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
            *_deep(256, 256, (1, 3, 3), 1, 1),
            *_deep(256, 256, (1, 3, 3), 1, 1),
            *_deep(256, 256, (1, 3, 3), 1, 1),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2)),
            *_deep(256, WIDTH, (1, 6, 6), 1, 0),
        )

    def speech(self, mfcc_N1CT: Tensor) -> Tensor:
        """[N, 1, 13, 20] -> [N, 1024]."""
        return self.netfcaud(self.netcnnaud(mfcc_N1CT).flatten(1))

    def lips(self, faces_NCFHW: Tensor) -> Tensor:
        """[N, 3, 5, 224, 224] -> [N, 1024]."""
        return self.netfclip(self.netcnnlip(faces_NCFHW).flatten(1))


def _flat(inputs: int, outputs: int, kernel: int | tuple[int, int], padding: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, padding=padding), nn.BatchNorm2d(outputs), nn.ReLU()]


def _deep(inputs: int, outputs: int, kernel: tuple[int, int, int], stride: int | tuple[int, int, int], padding: int) -> list[nn.Module]:
    around = (0, padding, padding)
    return [nn.Conv3d(inputs, outputs, kernel, stride, around), nn.BatchNorm3d(outputs), nn.ReLU()]


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Linear(WIDTH, DIMENSIONS))
