"""Folders of Whisper networks as transformers writes them: with random weights, and with weights that say a script, whatever they hear.

A speaking network: every vector is random in many dimensions, so that no two are alike. A place of the decoder is the sum of the token that
it says next and of the moment of the sound that it looks at; all else is zero or the identity, so attention and output find these two. It
may hear one thing: whether a sound is low (German) or high (English).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

SECONDS = 2  # of a window
STEPS = 50 * SECONDS  # moments that can be told
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
END, START, ENGLISH, GERMAN, JAPANESE, TRANSLATE, TRANSCRIBE, NO_TIMES = range(256, 264)
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|ja|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
VOCABULARY = NO_TIMES + 1 + STEPS + 1
WIDTH, MOST = 256, 64
PROMPT = 3  # start, language, task


@dataclass(frozen=True)
class Spoken:
    """A token and the moment, in hundredths of a window's two seconds, at which it ends."""

    token: int
    moment: int = 0


def at(moment: int) -> Spoken:
    """The timestamp of a moment."""
    return Spoken(NO_TIMES + 1 + moment, moment)


def letters(text: str, first: int, last: int) -> list[Spoken]:
    """A token a byte, which end between two moments, the last one at the second."""
    tokens = [BYTES.index(c) for c, _ in _bytes(text)]
    return [Spoken(token, first + (last - first) * (i + 1) // len(tokens)) for i, token in enumerate(tokens)]


def _bytes(text: str) -> list[tuple[str, tuple[int, int]]]:
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return [(c, where) for piece, where in pieces for c in piece]


def whisper_folder(
    path: Path,
    script: Sequence[Spoken] | None = None,
    language: int | None = ENGLISH,
    heads: bool = True,
    multilingual: bool = True,
    seed: int = 0,
) -> Path:
    """script: what a speaking network says; None: random weights. language: that it believes to hear;
    None: by the sound.
    """
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {
        "d_model": WIDTH,
        "encoder_ffn_dim": 8,
        "decoder_ffn_dim": 8,
        "max_source_positions": STEPS,
        "max_target_positions": MOST,
    }
    deep: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 1, "decoder_attention_heads": 1}
    ids: dict[str, Any] = {"decoder_start_token_id": START, "eos_token_id": END, "bos_token_id": END, "pad_token_id": END}
    config = WhisperConfig(vocab_size=VOCABULARY, num_mel_bins=80, median_filter_width=1, init_std=1.0, **sizes, **deep, **ids)
    network = WhisperForConditionalGeneration(config).eval()
    if script is not None:
        _teach(network, script, language, PROMPT if multilingual else 1)
    known: dict[str, Any] = {"alignment_heads": [[0, 0]]} if heads else {}
    if multilingual:
        known["lang_to_id"] = {"<|en|>": ENGLISH, "<|de|>": GERMAN, "<|ja|>": JAPANESE}
        known["task_to_id"] = {"translate": TRANSLATE, "transcribe": TRANSCRIBE}
    rules: dict[str, Any] = {"suppress_tokens": []} | {
        "no_timestamps_token_id": NO_TIMES,
        "suppress_tokens": [],
        "begin_suppress_tokens": [END],
        "max_initial_timestamp_index": STEPS,
    }
    network.generation_config = GenerationConfig(is_multilingual=multilingual, return_timestamps=False, **ids, **rules, **known)
    network.save_pretrained(path)
    WhisperFeatureExtractor(chunk_length=SECONDS).save_pretrained(path)
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(BYTES)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in SPECIAL])
    tokenizer.add_tokens([AddedToken(f"<|{i / 50:.2f}|>", special=False) for i in range(STEPS + 1)])
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "WhisperTokenizer"}))
    return path


@torch.no_grad()
def _teach(network: Any, script: Sequence[Spoken], language: int | None, prompt: int) -> None:
    for parameter in network.parameters():
        parameter.zero_()
    for module in network.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.fill_(1)
    model = network.model
    attention = model.decoder.layers[0].encoder_attn
    attention.q_proj.weight.copy_(torch.eye(WIDTH))
    attention.k_proj.weight.copy_(torch.eye(WIDTH))
    tokens_VE, moments_ME = torch.randn(VOCABULARY, WIDTH), torch.randn(STEPS, WIDTH)
    model.decoder.embed_tokens.weight.copy_(tokens_VE)
    model.encoder.embed_positions.weight.copy_(moments_ME)
    network.tie_weights()
    places: Tensor = model.decoder.embed_positions.weight
    if language is not None:
        places[0] = 20 * tokens_VE[language]  # after the start
    else:
        low, high = slice(0, 40), slice(40, 80)  # as many bins each, so that the floor of the spectrum cancels
        for channel, (more, less, spoken) in enumerate(((low, high, GERMAN), (high, low, ENGLISH))):
            model.encoder.conv1.weight[channel, more, 1], model.encoder.conv1.weight[channel, less, 1] = 1.0, -1.0
            model.encoder.conv2.weight[:, channel, 1] = tokens_VE[spoken]
        attention.v_proj.weight.copy_(torch.eye(WIDTH))
        attention.out_proj.weight.copy_(torch.eye(WIDTH))
    for i, spoken in enumerate([*script, Spoken(END)]):
        places[prompt - 1 + i] += 20 * tokens_VE[spoken.token]
        if i < len(script):
            places[prompt + i] += 20 * moments_ME[min(spoken.moment, STEPS - 1)]
    for i in range(prompt + len(script), MOST):
        places[i] += 20 * tokens_VE[END]
