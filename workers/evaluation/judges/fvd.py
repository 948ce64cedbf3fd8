"""Fréchet video distance: Gaussians of I3D's logits on two sets of clips.

    frames -> 16 in a row, one row after the other -> 224 x 224 bilinear, -1..1 -> I3D -> [n, 400] -> Fréchet distance

Unterthiner et al., "FVD: a new metric for video generation", 2019, as StyleGAN-V computes it (Skorokhodov et al., CVPR 2022: fvd2048_16f,
2,048 rows of 16 frames). Frames are taken at the clip's own rate and squeezed to a square, as there; here a clip gives all its rows of 16,
there a random one. The network is an own I3D with the published state dict (`i3d.py`), not their TorchScript file. Fewer rows than some
2,048 make the figure larger for any two sets: compare only figures of as many rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..clip import About, EvalClip
from .distances import frechet_of
from .i3d import FILE, I3D, PICKLED, SIDE
from .material import in_batches, seen
from .weights import Weights, fill_network, read_tensors

FRAMES = 16
PROTOCOL = "I3D rgb_imagenet logits, all rows of 16 frames, squeezed to 224 x 224; version 1"


class FrechetVideo:
    """See the module. Its weights: `rgb_imagenet.pt` of pytorch-i3d, or `rgb_imagenet.safetensors` with the same tensors."""

    about = (About("fvd", "distance", False, PROTOCOL, ("picture", "reference")),)

    def __init__(self, weights: Weights) -> None:
        """Raises ValueError where the file is missing or of another network."""
        with weights.named():
            self._network, self._device = I3D(), weights.device
            fill_network(self._network, read_tensors(weights.folder, FILE, PICKLED), weights.device)

    def features(self, clip: EvalClip) -> np.ndarray:
        """[n, 400], a row 16 frames. Raises: NotApplicable."""
        frames = seen(clip, clip.fps, least=FRAMES)
        rows = [rescaled(frames[start : start + FRAMES]) for start in range(0, len(frames) - FRAMES + 1, FRAMES)]
        return torch.cat([in_batches(self._network, row[None], self._device) for row in rows]).double().numpy()

    def between(self, real_ND: np.ndarray, generated_ND: np.ndarray) -> dict[str, float]:
        """Raises: NotApplicable."""
        return {"fvd": frechet_of(real_ND, generated_ND)}

    def of_sets(self, real: Sequence[EvalClip], generated: Sequence[EvalClip]) -> dict[str, float]:
        """Raises: NotApplicable."""
        return self.between(*(np.concatenate([self.features(clip) for clip in clips] or [np.zeros((0, 1))]) for clips in (real, generated)))


def rescaled(frames: np.ndarray) -> Tensor:
    """Frames uint8 [T, H, W, 3] -> float32 [3, T, 224, 224] in -1..1."""
    shown = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    small = F.interpolate(shown, (SIDE, SIDE), mode="bilinear", align_corners=False)
    return (small / 127.5 - 1).transpose(0, 1)
