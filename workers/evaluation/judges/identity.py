"""Whether a clip still shows whom it began with: the cosine between features of its first picture and of later ones, by DINOv2 or CLIP.

    the clip's first frame, 8 frames a second -> DINOv2: last hidden state of the class token | CLIP: image side, projected -> unit vectors
        identity     mean cosine to the first frame of the whole clip
        consistency  mean of (cosine to the first + cosine to the one before) / 2, each at least 0

DINOv2: Oquab et al., TMLR 2024 (facebook/dinov2-*). CLIP: Radford et al., ICML 2021 (openai/clip-vit-*). `consistency` is the formula of
VBench (Huang et al., CVPR 2024), whose subject consistency uses DINO ViT-B/16 and whose background consistency uses CLIP ViT-B/32, on all
frames: figures of another network or of other frames are not to be compared with it. `identity` falls as a clip drifts, `consistency`
falls for flicker too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..clip import About, EvalClip
from .material import View, in_batches, seen
from .weights import Weights, read_object, transformers_network

PICTURES = "preprocessor_config.json"
PER_SECOND = 8.0
PROTOCOL = "{network} of transformers, 8 frames a second; version 1"


def _dino() -> tuple[Any, Any]:
    from transformers import Dinov2Config, Dinov2Model

    return Dinov2Config, Dinov2Model


def _clip() -> tuple[Any, Any]:
    from transformers import CLIPConfig, CLIPModel

    return CLIPConfig, CLIPModel


class Features:
    """Pictures -> unit vectors, by a DINOv2 or CLIP folder as transformers writes it: config.json, model.safetensors,
    preprocessor_config.json.
    """

    def __init__(self, weights: Weights, model_type: str) -> None:
        """model_type: dinov2 or clip. Raises ValueError where the folder is no such network. The caller names the folder."""
        network, config = transformers_network(weights, model_type, _dino if model_type == "dinov2" else _clip)
        self.view = View.of(PICTURES, read_object(weights.folder, PICTURES))
        size = config.get("vision_config", {}).get("image_size", 224)
        if model_type == "clip" and (self.view.height, self.view.width) != (size, size):
            cut = f"{self.view.height}x{self.view.width}"
            raise ValueError(f"{PICTURES}: crop_size={cut}: the network sees {size}x{size}; get the folder again")
        self._make: Callable[[Tensor], Tensor] = (
            (lambda x: network(pixel_values=x).pooler_output)
            if model_type == "dinov2"
            else (lambda x: network.get_image_features(pixel_values=x).pooler_output)
        )
        self.width = int(network.config.projection_dim if model_type == "clip" else network.config.hidden_size)
        self._device = weights.device

    def __call__(self, frames: np.ndarray) -> Tensor:
        """uint8 [N, H, W, 3] -> float32 [N, D] of length 1."""
        return torch.cat([F.normalize(in_batches(self._make, self.view(part), self._device), dim=-1) for part in _parts(frames)])


class Identity:
    """See the module."""

    def __init__(self, weights: Weights, network: str) -> None:
        """network: dino or clip. Raises ValueError where the folder is no such network."""
        with weights.named():
            self._features = Features(weights, {"dino": "dinov2", "clip": "clip"}[network])
        protocol = PROTOCOL.format(network={"dino": "DINOv2", "clip": "CLIP"}[network])
        self._names = (f"{network}_identity", f"{network}_consistency")
        self.about = (
            About(self._names[0], "cosine", True, protocol, ("picture",)),
            About(self._names[1], "cosine", True, f"{protocol}; formula of VBench", ("picture",)),
        )

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        """Raises: NotApplicable."""
        shown = self._features(seen(clip, PER_SECOND, least=2))
        first = shown[0] if clip.first is None else self._features(clip.first[None])[0]
        later = shown[1:] if clip.first is None or np.array_equal(clip.first, clip.frames[0]) else shown
        return dict(zip(self._names, (float((later @ first).mean()), consistency(shown)), strict=True))


def consistency(shown_ND: Tensor) -> float:
    """Unit vectors of at least two pictures in order -> mean of (cosine to the first + cosine to the one before) / 2, each at least 0."""
    first, before = shown_ND[1:] @ shown_ND[0], (shown_ND[1:] * shown_ND[:-1]).sum(-1)
    return float(((first.clamp(min=0) + before.clamp(min=0)) / 2).mean())


def _parts(frames: np.ndarray, size: int = 64) -> list[np.ndarray]:
    return [frames[start : start + size] for start in range(0, len(frames), size)]
