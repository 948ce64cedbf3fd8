"""How pleasing pictures are: LAION's aesthetic predictor on CLIP ViT-L/14, about 1 to 10.

    2 frames a second -> CLIP, image side, projected, of length 1 [768] -> five linear layers, nothing between them -> mean over frames

Schuhmann, improved-aesthetic-predictor, "sac+logos+ava1-l14-linearMSE" (LAION-Aesthetics v2; the aesthetic quality of VBench, which divides
by 10). Compared with its source: the layers are 768-1024-128-64-16-1 with dropout and no activations; its names are `layers.0`, `.2`, `.4`,
`.6` and `.7`; its input is CLIP's projected feature divided by its length.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from ..clip import About, EvalClip
from .identity import Features
from .material import seen
from .weights import Weights, fill_network, read_tensors

FILE, PICKLED = "sac+logos+ava1-l14-linearMSE.safetensors", "sac+logos+ava1-l14-linearMSE.pth"
SIZES = (768, 1024, 128, 64, 16, 1)
PLACES = (0, 2, 4, 6, 7)  # of the linear layers among those of the published network: the others drop out in training
PER_SECOND = 2.0
PROTOCOL = "LAION sac+logos+ava1-l14-linearMSE on CLIP ViT-L/14, 2 frames a second; version 1"


class Head(nn.Module):
    """The five linear layers under their published names."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({str(place): nn.Linear(*sizes) for place, sizes in zip(PLACES, pairwise(SIZES), strict=True)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 768] -> [N]."""
        for layer in self.layers.values():
            x = layer(x)
        return x[:, 0]


class PictureAesthetics:
    """See the module. Its weights: the folder of CLIP ViT-L/14 (openai/clip-vit-large-patch14) with the predictor's file beside CLIP's own,
    `sac+logos+ava1-l14-linearMSE.pth` as it was published, or `.safetensors` with the same tensors.
    """

    about = (About("aesthetics", "score", True, PROTOCOL, ("picture",)),)

    def __init__(self, weights: Weights) -> None:
        """Raises ValueError where the folder is no CLIP network whose features have 768 numbers, or holds no predictor."""
        with weights.named():
            self._head = Head()
            fill_network(self._head, read_tensors(weights.folder, FILE, PICKLED), "cpu")
            self._features = Features(weights, "clip")
            if (width := self._features.width) != SIZES[0]:
                raise ValueError(f"config.json: projection_dim={width}: the predictor reads {SIZES[0]}; give the folder of CLIP ViT-L/14")

    @torch.no_grad()
    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """Raises: NotApplicable."""
        return {"aesthetics": float(self._head(self._features(seen(clip, PER_SECOND))).mean())}
