"""The embedded text encoder: words as bytes (no tokenizer, no download), pooled to one token a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .types import Controls


@dataclass(frozen=True)
class Word:
    """A transcript word with its start and end in seconds on the clip's clock."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class TextConfig:
    """Bounds on the text of a clip: what exceeds them is cut."""

    max_caption_words: int = 24
    max_words: int = 32
    max_bytes: int = 12

    def __post_init__(self) -> None:
        for name in ("max_caption_words", "max_words", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.text.{name}={getattr(self, name)}: must be at least 1")


def _bytes(words: Sequence[str], max_words: int, max_bytes: int) -> tuple[Tensor, Tensor]:
    """Words -> (bytes [W, L] uint8, mask [W] bool), padded and cut."""
    data = torch.zeros(max_words, max_bytes, dtype=torch.uint8)
    for i, word in enumerate(words[:max_words]):
        raw = word.lower().encode()[:max_bytes].replace(b"\0", b" ")
        data[i, : len(raw)] = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else 0
    return data, torch.arange(max_words) < len(words)


def make_controls(captions: Sequence[str], transcripts: Sequence[Sequence[Word]], config: TextConfig) -> Controls:
    """Captions and transcripts of B clips -> padded `Controls`."""
    caption = [_bytes(c.split(), config.max_caption_words, config.max_bytes) for c in captions]
    words = [_bytes([w.text for w in t], config.max_words, config.max_bytes) for t in transcripts]
    times = torch.zeros(len(transcripts), config.max_words, 2)
    for b, transcript in enumerate(transcripts):
        for i, word in enumerate(transcript[: config.max_words]):
            times[b, i, 0], times[b, i, 1] = word.start, word.end
    return Controls(
        caption_BWL=torch.stack([c[0] for c in caption]),
        caption_mask_BW=torch.stack([c[1] for c in caption]),
        words_BWL=torch.stack([w[0] for w in words]),
        words_mask_BW=torch.stack([w[1] for w in words]),
        words_time_BW2=times,
    )


class WordEmbedder(nn.Module):
    """Words as bytes -> one token a word: a sum over (byte, place) embeddings, then a small MLP."""

    def __init__(self, width: int, max_bytes: int) -> None:
        super().__init__()
        self.byte = nn.Embedding(256, width, padding_idx=0)
        self.place = nn.Parameter(torch.ones(max_bytes, width) + 0.5 * torch.randn(max_bytes, width))
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, bytes_BWL: Tensor) -> Tensor:
        """[B, W, L] uint8 -> [B, W, D]."""
        letters = self.byte(bytes_BWL.long())
        return self.mlp((letters * self.place[: bytes_BWL.shape[-1]]).sum(dim=2))
