"""Folders of judges in the forms in which their weights are published, with random weights; and clips to be judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from mutual_forcing.workers.evaluation.clip import EvalClip

AXES = ("CE", "CU", "PC", "PQ")
OPENAI = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
STEPS = {"do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True, "resample": 3, "rescale_factor": 1 / 255}


def clip(
    seconds: float = 2.0,
    fps: float = 25,
    rate: int = 16000,
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
    caption: str = "a voice",
    words: tuple[str, ...] = (),
    id: str = "clip",
) -> EvalClip:
    """Noise in picture and sound; words share the time evenly."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (round(seconds * fps), *size, 3), dtype=np.uint8)
    samples = rng.normal(0, 0.1, round(seconds * rate)).clip(-1, 1).astype(np.float32)
    each = seconds / max(1, len(words))
    said = tuple((word, i * each, (i + 1) * each) for i, word in enumerate(words))
    return EvalClip(id, frames, fps, samples, rate, caption, said)


def shaken(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of a network, vectors moved a little: no batch norm is left as it began, and running variances stay above 0."""
    generator = torch.Generator().manual_seed(seed)
    moved = {name: 0.1 * torch.rand(x.shape, generator=generator) for name, x in network.state_dict().items() if x.ndim == 1}
    return {name: x + moved[name] if name in moved and x.is_floating_point() else x for name, x in network.state_dict().items()}


def pickled(path: Path, tensors: Mapping[str, Tensor], old: bool = False) -> Path:
    """A state dict as PyTorch writes it, or as it did before version 1.6."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(tensors), path, _use_new_zipfile_serialization=not old)
    return path


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def clap_folder(path: Path, fused: bool = False) -> Path:
    """laion/clap-htsat-unfused or -fused, narrow."""
    from transformers import ClapAudioConfig, ClapConfig, ClapFeatureExtractor, ClapModel, ClapTextConfig

    torch.manual_seed(0)
    text = ClapTextConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    narrow: dict[str, Any] = {"depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16}
    fusion: dict[str, Any] = {"enable_fusion": True, "fusion_type": "aff_2d", "aff_block_r": 2} if fused else {}
    audio = ClapAudioConfig(**narrow, **fusion, num_hidden_layers=2, num_classes=4)
    network = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=8)).eval()
    network.load_state_dict(shaken(network))
    network.save_pretrained(path)
    ClapFeatureExtractor(frequency_min=50, frequency_max=14000, truncation="fusion" if fused else "rand_trunc").save_pretrained(path)
    byte = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *byte])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def ast_folder(path: Path) -> Path:
    """MIT/ast-finetuned-audioset, narrow."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(0)
    narrow: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "num_labels": 6}
    network = ASTForAudioClassification(ASTConfig(**narrow, initializer_range=0.5)).eval()
    network.save_pretrained(path)
    ASTFeatureExtractor().save_pretrained(path)
    return path


def dino_folder(path: Path) -> Path:
    """facebook/dinov2, narrow."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    narrow: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56}
    Dinov2Model(Dinov2Config(**narrow, initializer_range=0.3)).eval().save_pretrained(path)
    write(path / "preprocessor_config.json", STEPS | IMAGENET | {"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}})
    return path


def clip_folder(path: Path, projection: int = 12) -> Path:
    """openai/clip-vit, narrow, with the preprocessor's old form."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

    torch.manual_seed(0)
    narrow: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision, text = CLIPVisionConfig(**narrow, image_size=32, patch_size=16), CLIPTextConfig(**narrow, vocab_size=20)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)).eval().save_pretrained(path)
    write(path / "preprocessor_config.json", STEPS | OPENAI | {"size": 32, "crop_size": 32})
    return path


def audiobox_tensors(layers: int, width: int, inner: int, heads: int, channels: int, reach: int, groups: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of facebook/audiobox-aesthetics; at the published sizes there are 324."""
    found: dict[str, tuple[int, ...]] = {"mask_emb": (width,), "layer_norm.weight": (channels,), "layer_norm.bias": (channels,)}
    found |= {"post_extract_proj.weight": (width, channels), "post_extract_proj.bias": (width,)}
    for i, kernel in enumerate((10, 3, 3, 3, 3, 2, 2)):
        found[f"feature_extractor.conv_layers.{i}.0.weight"] = (channels, channels if i else 1, kernel)
    found |= {f"feature_extractor.conv_layers.0.2.{x}": (channels,) for x in ("weight", "bias")}
    found |= {"encoder.pos_conv.0.bias": (width,), "encoder.pos_conv.0.weight_g": (1, 1, reach)}
    found |= {"encoder.pos_conv.0.weight_v": (width, width // groups, reach)}
    found |= {f"encoder.layer_norm.{x}": (width,) for x in ("weight", "bias")}
    found["encoder.layers.0.self_attn.relative_attention_bias.weight"] = (320, heads)
    for i in range(layers):
        at = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            found |= {f"{at}.self_attn.{name}.weight": (width, width), f"{at}.self_attn.{name}.bias": (width,)}
        found |= {f"{at}.self_attn.grep_a": (1, heads, 1, 1), f"{at}.self_attn.grep_linear.bias": (8,)}
        found[f"{at}.self_attn.grep_linear.weight"] = (8, width // heads)
        found |= {
            f"{at}.fc1.weight": (inner, width),
            f"{at}.fc1.bias": (inner,),
            f"{at}.fc2.weight": (width, inner),
            f"{at}.fc2.bias": (width,),
        }
        found |= {f"{at}.{norm}.{x}": (width,) for norm in ("self_attn_layer_norm", "final_layer_norm") for x in ("weight", "bias")}
    named = {f"wavlm_model.{name}": shape for name, shape in found.items()}
    for axis in AXES:
        named[f"layer_weights.{axis}"] = (layers + 1,)
        for i in range(4):
            named |= {f"proj_layer.{axis}.{3 * i}.weight": (width, width), f"proj_layer.{axis}.{3 * i}.bias": (width,)}
            named |= {f"proj_layer.{axis}.{3 * i + 1}.{x}": (width,) for x in ("weight", "bias")}
        named |= {f"proj_layer.{axis}.12.weight": (1, width), f"proj_layer.{axis}.12.bias": (1,)}
    return named


def audiobox_folder(path: Path, layers: int = 2, width: int = 32) -> Path:
    """facebook/audiobox-aesthetics as its own package writes it, narrow."""
    path.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    shapes = audiobox_tensors(layers, width, inner=24, heads=4, channels=16, reach=8, groups=4)
    tensors = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["wavlm_model.encoder.layers.0.self_attn.relative_attention_bias.weight"] *= 10  # else where a step stands hardly counts
    save_file(tensors, path / "model.safetensors")
    config: dict[str, Any] = {"nth_layer": layers + 1, "proj_num_layer": 5, "proj_ln": True, "proj_act_fn": "gelu", "proj_dropout": 0.0}
    config |= {"use_weighted_layer_sum": True, "normalize_embed": True, "output_dim": 1, "precision": "32"}
    config["target_transform"] = {axis: {"mean": 5.0 + i, "std": 1.5 + i} for i, axis in enumerate(AXES)}
    write(path / "config.json", config)
    return path
