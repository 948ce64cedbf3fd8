"""All weights of one modality, and the text of a clip as that modality sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .blocks import Block, BranchConfig, Modulation, Offset, Table, TimeEmbedder, modulated, taken
from .rope import Rotation
from .text import WordEmbedder
from .types import Controls


@dataclass(frozen=True)
class Text:
    """The text of B clips as one branch sees it: keys and values a layer, the words' times, and which of them exist.

    exists_BW: the timeless tokens first, then the words; a caption of features has no entry, because its padding is visible.
    first_word: place of the first word among the keys.
    """

    keys_values: list[tuple[Tensor, Tensor]]
    exists_BW: Tensor
    words_time_BW2: Tensor
    first_word: int

    def of_words(self, index: Tensor, count: int) -> Text:
        """The same text with these words alone, of which those after the first `count` are not there: they fill up a shape."""
        keys, words, entries = self.keys_values[0][0].shape[1], self.words_time_BW2.shape[1], self.exists_BW.shape[1]
        keys_kept = _around(self.first_word, index, self.first_word + words, keys)
        exists_BW = self.exists_BW[:, _around(entries - words, index, entries, entries)]
        exists_BW[:, exists_BW.shape[1] - (len(index) - count) :] = False
        return Text(
            [(k[:, keys_kept], v[:, keys_kept]) for k, v in self.keys_values],
            exists_BW,
            self.words_time_BW2[:, index],
            self.first_word,
        )


def _around(first: int, index: Tensor, end: int, total: int) -> Tensor:
    """0 .. first, then `index` counted from there, then end .. total."""
    before, after = (torch.arange(*span, device=index.device) for span in ((0, first), (end, total)))
    return torch.cat([before, first + index, after])


Placement = Callable[[nn.Module], nn.Module]
"""Called with every block as soon as it is built, then with the whole branch: puts it where it belongs (a device, the shards of many
processes), so that no process ever holds all weights. Returns the module."""


def stay(module: nn.Module) -> nn.Module:
    """Where it was built."""
    return module


class Branch(nn.Module):
    """Embeddings, blocks and output of one modality, whose tokens have `features` numbers each."""

    def __init__(
        self,
        features: int,
        width: int,
        depth: int,
        heads: int,
        head_dim: int,
        ffn_width: int,
        max_bytes: int,
        options: BranchConfig,
        place: Placement,
    ) -> None:
        super().__init__()
        self.options = options
        self.embed = nn.Linear(features, width)
        self.time = TimeEmbedder(width, options.time_features)
        self.modulation = Modulation(width, parts=6)
        self.words = WordEmbedder(width, max_bytes)
        self.word_duration = nn.Linear(1, width)
        if options.caption_features:
            self.caption = nn.Sequential(nn.Linear(options.caption_features, width), nn.GELU(approximate="tanh"), nn.Linear(width, width))
        else:
            self.null = Offset(1, 1, width, std=1.0)
        self.blocks = nn.ModuleList(place(Block(width, heads, head_dim, ffn_width, options)) for _ in range(depth))
        self.out_modulation = Modulation(width, parts=2) if options.head == "projection" else Table(width, parts=2)
        self.out = nn.Linear(width, features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def block(self, layer: int) -> Block:
        """The block of a layer."""
        block = self.blocks[layer]
        assert isinstance(block, Block)
        return block

    def output(self, x_BND: Tensor, features_BKD: Tensor, row: Tensor | slice) -> Tensor:
        """Tokens after the last block -> their outputs, modulated by the time features of their rows."""
        shift, scale = taken(self.out_modulation(features_BKD), row).unbind(dim=2)
        return self.out(modulated(x_BND, shift, scale, self.options.norm_eps))

    def text(self, controls: Controls, by: Rotation) -> Text:
        """The text of the clips; `by` is the rotation of the transcript's words."""
        start, end = controls.words_time_BW2.unbind(dim=-1)
        words = self.words(controls.words_BWL)
        words = words + self.word_duration((end - start)[..., None].to(words.dtype))
        if self.options.caption_features:
            timeless, exists = self.caption(self._features(controls, words)), controls.words_mask_BW
        else:
            caption = self.words(controls.caption_BWL)
            null = self.null(caption.new_zeros(caption.shape[0], 1, caption.shape[2]))  # there even when no caption fits
            always = controls.caption_mask_BW.new_ones(caption.shape[0], 1)
            timeless = torch.cat([null, caption], dim=1)
            exists = torch.cat([always, controls.caption_mask_BW, controls.words_mask_BW], dim=1)
        keys_values = [self.block(layer).cross.keys_values(timeless, words, by) for layer in range(len(self.blocks))]
        return Text(keys_values, exists, controls.words_time_BW2, first_word=timeless.shape[1])

    def _features(self, controls: Controls, like: Tensor) -> Tensor:
        """Caption features [B, L, E]; clips without any have one row of padding, which reads as any number of them does."""
        features, width = controls.caption_features_BLE, self.options.caption_features
        if features is None:
            return like.new_zeros(like.shape[0], 1, width)
        if features.shape[-1] != width:
            raise ValueError(f"caption features of width {features.shape[-1]}: this branch takes {width} (caption_features); encode again")
        return features.to(like.dtype)
