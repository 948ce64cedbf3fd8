"""Wan's video network as plain functions on its own state dict: slow, written from its equations, the reference of the import."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]
FILE = "diffusion_pytorch_model.safetensors"
INDEX = f"{FILE}.index.json"

TINY = {
    "_class_name": "WanTransformer3DModel",
    "_diffusers_version": "0.35.0",
    "patch_size": [1, 2, 2],
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 3,
    "out_channels": 3,
    "text_dim": 7,
    "freq_dim": 20,
    "ffn_dim": 50,
    "num_layers": 2,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "rope_max_seq_len": 1024,
    "pos_embed_seq_len": None,
}
# Wan2.2-TI2V-5B, with two of its thirty layers.
TRUE_SHAPE = TINY | {
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "in_channels": 48,
    "out_channels": 48,
    "text_dim": 4096,
    "freq_dim": 256,
    "ffn_dim": 14336,
}


def random_state(config: dict[str, Any], dtype: torch.dtype = torch.float64, seed: int = 0) -> State:
    """Random weights under Wan's names; everything counts, so that a tensor in the wrong place is seen."""
    g = torch.Generator().manual_seed(seed)
    width = config["num_attention_heads"] * config["attention_head_dim"]
    state: State = {}

    def draw(*shape: int, around: float = 0.0, spread: float = 1.0) -> Tensor:
        return around + spread * torch.randn(*shape, generator=g, dtype=dtype)

    def linear(name: str, outputs: int, *inputs: int) -> None:
        state[f"{name}.weight"] = draw(outputs, *inputs, spread=torch.Size(inputs).numel() ** -0.5)
        state[f"{name}.bias"] = draw(outputs, spread=0.2)

    patch = config["patch_size"]
    linear("patch_embedding", width, config["in_channels"], *patch)
    linear("condition_embedder.time_embedder.linear_1", width, config["freq_dim"])
    linear("condition_embedder.time_embedder.linear_2", width, width)
    linear("condition_embedder.time_proj", 6 * width, width)
    linear("condition_embedder.text_embedder.linear_1", width, config["text_dim"])
    linear("condition_embedder.text_embedder.linear_2", width, width)
    for i in range(config["num_layers"]):
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                linear(f"blocks.{i}.{attention}.{part}", width, width)
            for norm in ("norm_q", "norm_k"):
                state[f"blocks.{i}.{attention}.{norm}.weight"] = draw(width, around=1.0, spread=0.3)
        state[f"blocks.{i}.norm2.weight"] = draw(width, around=1.0, spread=0.3)
        state[f"blocks.{i}.norm2.bias"] = draw(width, spread=0.3)
        linear(f"blocks.{i}.ffn.net.0.proj", config["ffn_dim"], width)
        linear(f"blocks.{i}.ffn.net.2", width, config["ffn_dim"])
        state[f"blocks.{i}.scale_shift_table"] = draw(1, 6, width, spread=0.5)
    state["scale_shift_table"] = draw(1, 2, width, spread=0.5)
    linear("proj_out", config["out_channels"] * torch.Size(patch).numel(), width)
    return state


def wan_forward(
    state: State,
    config: dict[str, Any],
    latents_BCFHW: Tensor,
    timestep_BF: Tensor,
    features_BLE: Tensor,
    position_F: Tensor | None = None,
    visible_FF: Tensor | None = None,
) -> Tensor:
    """The velocity that Wan predicts. timestep_BF: 0 to 1000, one a latent frame; position_F: where the frames stand in time, else
    0, 1, ...; visible_FF: which frame may see which, else all of them may.
    """
    b, c, frames, h, w = latents_BCFHW.shape
    p, heads, eps = config["patch_size"][1], config["num_attention_heads"], config["eps"]
    d = config["attention_head_dim"]
    rows, columns = h // p, w // p
    cells = rows * columns

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()

    def rms(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * state[f"{name}.weight"]

    # Rotary turns of every token: time, height and width each have frequencies 10000^(-2j / n) for their n of the d features.
    space = 2 * (d // 6)
    place = torch.cartesian_prod(
        (torch.arange(frames) if position_F is None else position_F).double(), torch.arange(rows).double(), torch.arange(columns).double()
    )
    angles = [
        place[:, axis, None] * 10_000.0 ** (-torch.arange(0, n, 2, dtype=torch.float64) / n)
        for axis, n in enumerate((d - 2 * space, space, space))
    ]
    turn = torch.polar(torch.ones((), dtype=torch.float64), torch.cat(angles, dim=1))[:, None]

    def rotated(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turn.to(pairs.dtype)).flatten(-2)

    def attention(x: Tensor, context: Tensor, name: str, own: bool) -> Tensor:
        q, k, v = (linear(y, f"{name}.to_{part}") for y, part in ((x, "q"), (context, "k"), (context, "v")))
        q, k = rms(q, f"{name}.norm_q"), rms(k, f"{name}.norm_k")
        q, k, v = (y.unflatten(-1, (heads, d)) for y in (q, k, v))
        if own:
            q, k = rotated(q), rotated(k)
        logits = torch.einsum("bnmd,bkmd->bmnk", q, k) / d**0.5
        if own and visible_FF is not None:
            seen = visible_FF.repeat_interleave(cells, 0).repeat_interleave(cells, 1)
            logits = logits.masked_fill(~seen, -torch.inf)
        return linear(torch.einsum("bmnk,bkmd->bnmd", logits.softmax(-1), v).flatten(2), f"{name}.to_out.0")

    # Patches, their channels before rows before columns, as the convolution has them.
    patches = latents_BCFHW.reshape(b, c, frames, rows, p, columns, p).permute(0, 2, 3, 5, 1, 4, 6).reshape(b, frames * cells, c * p * p)
    x = patches @ state["patch_embedding.weight"].flatten(1).T + state["patch_embedding.bias"]
    # Time: 1000 t times fp32 frequencies, as diffusers has them; cosines first.
    half = config["freq_dim"] // 2
    phase = timestep_BF[..., None].to(x.dtype) * torch.exp(-torch.log(torch.tensor(10_000.0)) * torch.arange(half) / half)
    time = linear(torch.cat([phase.cos(), phase.sin()], -1), "condition_embedder.time_embedder.linear_1")
    time = linear(F.silu(time), "condition_embedder.time_embedder.linear_2")
    shared = linear(F.silu(time), "condition_embedder.time_proj").unflatten(-1, (6, -1))
    text = linear(features_BLE, "condition_embedder.text_embedder.linear_1")
    text = linear(F.gelu(text, approximate="tanh"), "condition_embedder.text_embedder.linear_2")
    for i in range(config["num_layers"]):
        name = f"blocks.{i}"
        parts = (shared + state[f"{name}.scale_shift_table"]).repeat_interleave(cells, 1)
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = parts.unbind(2)
        y = norm(x) * (1 + scale) + shift
        x = x + gate * attention(y, y, f"{name}.attn1", own=True)
        y = norm(x) * state[f"{name}.norm2.weight"] + state[f"{name}.norm2.bias"]
        x = x + attention(y, text, f"{name}.attn2", own=False)
        y = linear(norm(x) * (1 + ffn_scale) + ffn_shift, f"{name}.ffn.net.0.proj")
        x = x + ffn_gate * linear(F.gelu(y, approximate="tanh"), f"{name}.ffn.net.2")
    shift, scale = (time[:, :, None] + state["scale_shift_table"]).repeat_interleave(cells, 1).unbind(2)
    x = linear(norm(x) * (1 + scale) + shift, "proj_out")
    return x.reshape(b, frames, rows, columns, p, p, c).permute(0, 6, 1, 2, 4, 3, 5).reshape(b, c, frames, h, w)


def wan_folder(folder: Path, shards: int = 1, config: dict[str, Any] = TINY, state: State | None = None) -> Path:
    """A transformer folder as diffusers writes it."""
    folder.mkdir(parents=True)
    state = state or random_state(config, torch.float32)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(state, str(folder / FILE))
        return folder
    places = {name: f"diffusion_pytorch_model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(state)}
    for file in set(places.values()):
        save_file({name: x for name, x in state.items() if places[name] == file}, str(folder / file))
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return folder
