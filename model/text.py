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
    """Bounds on the text of a clip: what exceeds them is cut. max_caption_words: of a caption. max_words: of a transcript in training.
    max_bytes: of a word, in UTF-8.
    """

    max_caption_words: int = 24
    max_words: int = 32
    max_bytes: int = 12

    def __post_init__(self) -> None:
        for name in ("max_caption_words", "max_words", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.text.{name}={getattr(self, name)}: must be at least 1")


def _bytes(texts: Sequence[Sequence[str]], max_words: int, max_bytes: int) -> tuple[Tensor, Tensor]:
    """Words of B clips -> (bytes [B, W, L] uint8, mask [B, W] bool), padded and cut."""
    data = bytearray()
    for words in texts:
        for word in words[:max_words]:
            data += word.lower().encode()[:max_bytes].replace(b"\0", b" ").ljust(max_bytes, b"\0")
        data += bytes(max_bytes * max(0, max_words - len(words)))
    counts = torch.tensor([len(words) for words in texts])
    return torch.frombuffer(data, dtype=torch.uint8).view(len(texts), max_words, max_bytes), torch.arange(max_words) < counts[:, None]


def make_controls(captions: Sequence[str], transcripts: Sequence[Sequence[Word]], config: TextConfig) -> Controls:
    """Captions and transcripts of B clips -> padded `Controls`."""
    caption, caption_mask = _bytes([c.split() for c in captions], config.max_caption_words, config.max_bytes)
    words, words_mask = _bytes([[w.text for w in t] for t in transcripts], config.max_words, config.max_bytes)
    heard = [[(w.start, w.end) for w in t[: config.max_words]] for t in transcripts]
    return Controls(
        caption_BWL=caption,
        caption_mask_BW=caption_mask,
        words_BWL=words,
        words_mask_BW=words_mask,
        words_time_BW2=torch.tensor([times + [(0.0, 0.0)] * (config.max_words - len(times)) for times in heard], dtype=torch.float32),
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
