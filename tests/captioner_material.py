"""Folders of image-to-text networks with random weights, as transformers writes them: one that captions by itself, one that is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

WORDS = ["a", "red", "fox", "speaks", "softly", "woman", "man", "with", "blue", "hair", "looks", "at", "the", "camera", "USER", "ASSISTANT"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "<cls>"]
SMALL: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
SIDE = {"height": 32, "width": 32}
POSITIONS = 40  # that the one which captions by itself knows


def _tokenizer(framed: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    if framed:  # as BERT's: BLIP puts its own beginning in the place of the first, and goes on at the last
        framing = processors.TemplateProcessing(single="<cls> $A </s>", special_tokens=[("<cls>", 5), ("</s>", 3)])
        tokenizer.post_processor = framing  # pyright: ignore[reportAttributeAccessIssue]
    named = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<cls>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, extra_special_tokens={"image_token": "<image>"}, **named)


def blip_folder(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    ids = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    text = SMALL | ids | {"vocab_size": len(SPECIAL + WORDS), "num_hidden_layers": 1, "encoder_hidden_size": 16}
    text |= {"max_position_embeddings": POSITIONS}
    vision = SMALL | {"num_hidden_layers": 1, "image_size": 32, "patch_size": 16}
    network = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=16))
    _louder(network)
    network.save_pretrained(path)
    BlipProcessor(BlipImageProcessorPil(size=SIDE), _tokenizer(framed=True)).save_pretrained(path)
    return path


def llava_folder(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    text = LlamaConfig(**SMALL, vocab_size=len(SPECIAL + WORDS), num_hidden_layers=1, bos_token_id=2, eos_token_id=3, pad_token_id=0)
    vision = CLIPVisionConfig(**SMALL, num_hidden_layers=2, image_size=32, patch_size=16, projection_dim=16)
    network = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision, image_token_index=4))
    _louder(network)
    network.save_pretrained(path)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SIDE)
    sees = {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(pictures, _tokenizer(), chat_template="{{ 1 / 0 }}", **sees).save_pretrained(path)
    return path


def _louder(network: torch.nn.Module) -> None:
    """Weights that make different captions of different pictures."""
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.6)
