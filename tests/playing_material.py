"""An opened model whose every weight is random, so that text and noise make a difference, and prompts for it."""

from __future__ import annotations

from pathlib import Path

import torch

from mutual_forcing.orchestration.generation.opened_model import OpenedModel, open_model
from mutual_forcing.orchestration.generation.playing import Chunk, Playing, Prompt


def lively(checkpoint: Path) -> OpenedModel:
    """Open it, and move all weights."""
    model = open_model(str(checkpoint), device="cpu", threads=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.network.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return model


def first_latent(model: OpenedModel, number: int = 0) -> torch.Tensor:
    return torch.from_numpy(model.held_out(number).get("video")[:1].astype("float32"))


def prompt(model: OpenedModel, seed: int = 0, **text: object) -> Prompt:
    return Prompt(first_latent(model), "a calm voice", (("hello", 0.1, 0.6), ("world", 1.2, 1.7)), seed, **text)  # pyright: ignore[reportArgumentType]


def played(playing: Playing, steps: int) -> list[list[Chunk]]:
    return [next(playing) for _ in range(steps)]
