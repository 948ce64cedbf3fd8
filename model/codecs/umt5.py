"""Text encoder: umT5 (Wan's), through transformers: captions -> features, as `Controls.caption_features_BLE` takes them.

The folder is that of a Wan pipeline: `text_encoder/` (config.json, safetensors) and `tokenizer/` (tokenizer.json; the vocabulary's other
form, spiece.model, is not read). The embedded default is bytes (`model/text.py`), which needs none of this.

A caption is cut to 512 tokens, its end mark included, encoded, and padded with zeros. Words are spaced by single blanks and HTML
entities are resolved, as Wan's pipeline does before; it also repairs broken encodings, which is left to whoever writes the captions.
Dimensions: B captions, L tokens, E features.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from ..pretrained import Copy, same_names
from ..types import at_least_fp32
from ..weights import read_json
from .base import TextFeatures
from .folder import CONFIG, FromFolder, Layout, Origin, Place, load_network, named, needs, on_meta, whole

MAX_TOKENS = 512  # Wan was trained with so many, padding included
TOKENIZER = "tokenizer/tokenizer.json"
MAX_TOKENIZER = 64 * 2**20  # bytes; that of 256,000 tokens has about 17 MB
HIGHEST = {  # of the numbers that make the network
    "vocab_size": 2**24,
    "d_model": 2**16,
    "d_kv": 2**12,
    "d_ff": 2**18,
    "num_layers": 256,
    "num_heads": 1024,
    "relative_attention_num_buckets": 1024,
    "relative_attention_max_distance": 2**16,
}


class Umt5TextEncoder(FromFolder):
    """See the module."""

    kind: ClassVar[str] = "umt5-text"
    layout: ClassVar[Layout] = Layout(
        "model_type",
        "umt5",
        "model.safetensors",
        inside="text_encoder",
        beside=(TOKENIZER,),
        fields=(*HIGHEST, "feed_forward_proj", "layer_norm_epsilon", "pad_token_id"),
        keep=lambda name: name != "encoder.embed_tokens.weight",  # the table of embeddings has two names; a file may hold it under both
    )

    def __init__(self, network: Any, tokenizer: Any, origin: Origin) -> None:
        super().__init__(network, origin)
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()

    @staticmethod
    def build(config: dict[str, Any]) -> tuple[nn.Module, list[Copy]]:
        with needs("transformers"):
            from transformers import UMT5Config, UMT5EncoderModel

        for field, high in HIGHEST.items():
            whole(config, field, 1, high)
        if config.get("feed_forward_proj") not in ("gated-gelu", "relu"):
            raise ValueError(
                f"{CONFIG}: feed_forward_proj={str(config.get('feed_forward_proj'))[:80]!r}: only 'gated-gelu' and 'relu' are read"
            )
        network: Any = on_meta(lambda **fields: UMT5EncoderModel(UMT5Config(**fields)), config)
        network.encoder.set_input_embeddings(network.shared)  # one table, not two of the same content
        return network, same_names(network, "")

    @classmethod
    def load(cls, place: Place, data: Mapping[str, Any] | None = None) -> Self:
        """From the folder of a Wan pipeline; with `data`, only the very encoder that wrote it.

        Raises:
            ValueError: see `folder.load_network`; the tokenizer is missing, damaged or has more tokens than the network.
        """
        network, origin = load_network(cls.kind, cls.layout, place, cls.build, data)
        folder = place.folder or (data or {})["folder"]
        return cls(network, _tokenizer(Path(folder), origin.config["vocab_size"]), origin)

    @property
    def width(self) -> int:
        return self.origin.config["d_model"]

    @property
    def max_tokens(self) -> int:
        return MAX_TOKENS

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> TextFeatures:
        """B captions -> features float32 `[B,512,E]` and their mask, on the network's device. What a caption gets depends on it alone."""
        if not captions:
            raise ValueError("captions: none; give at least one, which may be empty")
        tokens = [entry.ids for entry in self._tokenizer.encode_batch([spaced(caption) for caption in captions])]
        device, pad = next(self.network.parameters()).device, self.origin.config.get("pad_token_id") or 0
        lengths_B = torch.tensor([len(ids) for ids in tokens])
        longest = max(1, int(lengths_B.max()))
        ids_BL = torch.tensor([[*ids, *[pad] * (longest - len(ids))] for ids in tokens])
        mask_BL = (torch.arange(longest) < lengths_B[:, None]).to(device)
        found_BLE = at_least_fp32(self.network(input_ids=ids_BL.to(device), attention_mask=mask_BL.long()).last_hidden_state)
        features_BLE = found_BLE.new_zeros(len(tokens), MAX_TOKENS, found_BLE.shape[2])
        features_BLE[:, :longest] = found_BLE.masked_fill(~mask_BL[:, :, None], 0.0)
        return TextFeatures(features_BLE, torch.arange(MAX_TOKENS, device=device) < lengths_B.to(device)[:, None])


def spaced(caption: str) -> str:
    """HTML entities resolved (twice: some captions were escaped twice), words one blank apart."""
    return " ".join(html.unescape(html.unescape(caption)).split())


def _tokenizer(folder: Path, most: int) -> Any:
    with needs("tokenizers"):
        from tokenizers import Tokenizer

    with named(folder):
        read_json(folder / TOKENIZER, MAX_TOKENIZER)
        try:
            tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ValueError(f"{TOKENIZER} is no tokenizer ({error}); get it again") from error
        if (size := tokenizer.get_vocab_size()) > most:
            raise ValueError(f"{TOKENIZER} has {size} tokens, the network {most}; they are not of one release")
        return tokenizer
