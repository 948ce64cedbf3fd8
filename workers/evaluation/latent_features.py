"""Distances on latents: a chunk's latents, by a fixed random projection as 32 numbers. What the network makes, before any codec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...model.evaluation import chunk_features
from ...model.types import MODALITIES
from .clip import About, EvalClip, NotApplicable
from .distances import between, both
from .random_features import View, projection

PROTOCOL = "mutual-forcing latent features 1 (chunks, PCG64 projection to 32 numbers; of one codec only)"


@dataclass(frozen=True)
class LatentFeatures:
    """Distances of generated to real chunks of latents in one view; joint: both modalities, each with the same weight."""

    view: View

    @property
    def about(self) -> tuple[About, About]:
        """Both distances."""
        return both((f"frechet_latent_{self.view}", f"kernel_latent_{self.view}"), PROTOCOL, ("reference",))

    def features(self, clip: EvalClip) -> np.ndarray:
        """Vectors float32 [chunks, 32].

        Raises:
            NotApplicable: its latents are not known, or no chunk is wholly in it.
        """
        if clip.latents is None or clip.layout is None:
            raise NotApplicable("no chunk's latents are known" if clip.latents is None else "no chunk is wholly in it")
        of_chunks = chunk_features(clip.latents, clip.layout)
        parts = {name: x[0].float() for name, x in of_chunks.items() if self.view in (name, "joint")}
        if len(parts) < (2 if self.view == "joint" else 1):
            raise NotApplicable(f"its latents have no {'second modality' if self.view == 'joint' else self.view}")
        projected = [x @ projection(x.shape[1], seed=MODALITIES.index(name)) / x.shape[1] ** 0.5 for name, x in parts.items()]
        return torch.stack(projected).sum(0).numpy()

    def between(self, real_ND: np.ndarray, generated_ND: np.ndarray) -> dict[str, float]:
        """See `about`. Raises: NotApplicable."""
        return between(self.about, real_ND, generated_ND)
