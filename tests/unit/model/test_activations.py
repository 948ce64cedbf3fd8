"""Bytes that are counted for a pass are those that autograd keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from mutual_forcing.benchmarks.step import Size, material
from mutual_forcing.model.activations import Activations
from mutual_forcing.model.arithmetic import Arithmetic
from mutual_forcing.model.execution import ExecutionConfig
from mutual_forcing.model.losses import Models, flow_matching
from mutual_forcing.model.objective import ObjectiveConfig
from mutual_forcing.model.presets import WAN, Preset
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.trunk import TransformerConfig
from mutual_forcing.model.types import MODALITIES, AVBatch


def size_of(depth: int, chunks: int, clips: int, wan: bool) -> Size:
    """Widths that no two of which are equal, so that one cannot stand for the other."""
    options = replace(WAN, caption_features=48) if wan else TransformerConfig().video
    network = TransformerConfig(
        video_width=112, audio_width=96, depth=depth, heads=5, head_dim=32, ffn_ratio=3, window=4, video=options, audio=options
    )
    return Size(clips=clips, chunks=chunks, grid=8, model=network)


def kept_bytes(size: Size, dtype: torch.dtype, every: int) -> tuple[int, AVBatch]:
    """Bytes of all storages that the graph of a flow matching loss keeps, without weights; each counts once."""
    batch, _, noise = material(size, "cpu")
    network = AVTransformer(size.model, size.timeline, ExecutionConfig(checkpoint_every=every)).to(dtype)
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        flow_matching(Models(network, network), batch, None, noise, ObjectiveConfig())
    layers = [n for n in range(size.model.depth) if every and (n + 1) % every == 0]  # they hold their text, and do not tell autograd so
    text = sum(x.nbytes for m in MODALITIES for n in layers for x in network.text(m, batch.controls).keys_values[n])
    return sum(kept.values()) + text, batch


def counted(size: Size, batch: AVBatch, item: int) -> Activations:
    features = bool(size.model.video.caption_features)
    of = Arithmetic(Preset(size.model, size.timeline), 8, 8, torch.empty(0, 2), 1 if features else batch.controls.caption_BWL.shape[1])
    return Activations(of, size.chunks, batch.controls.words_BWL.shape[1], item)


@pytest.mark.parametrize("wan", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("depth", "every", "chunks", "clips"), [(3, 0, 6, 2), (4, 2, 6, 2), (2, 0, 12, 1), (2, 1, 6, 1)])
def test_kept_bytes_are_those_of_autograd(wan: bool, dtype: torch.dtype, depth: int, every: int, chunks: int, clips: int) -> None:
    size = size_of(depth, chunks, clips, wan)
    there, batch = kept_bytes(size, dtype, every)
    here = counted(size, batch, dtype.itemsize).saved(every, clips)
    assert here == pytest.approx(
        there, rel=0.03 if every != 1 else 0.2
    )  # every layer recomputed: a fiftieth is left, and the two ends are counted roughly


def test_recomputed_layers_keep_their_input_alone() -> None:
    size = size_of(4, 6, 1, wan=False)
    _, batch = kept_bytes(replace(size, model=replace(size.model, depth=1)), torch.float32, 0)
    of = counted(size, batch, 4)
    assert of.saved(1) < of.saved(2) < of.saved(0)
    assert of.saved(0) - of.saved(4) == of.layer(last=True) + of.mask(last=True) - of._inputs()
    assert of.recomputed(0) == 0
    assert of.recomputed(1, clips=2) == 2 * of.layer() + of.mask()


def test_a_reading_is_the_keys_and_values_of_all_layers() -> None:
    size = size_of(3, 6, 2, wan=False)
    batch, _, _ = material(size, "cpu")
    network = AVTransformer(size.model, size.timeline)
    made: Any = network.read(batch.latents, batch.controls, batch.layout)
    made = made.__wrapped__  # without no_grad
    cells = dict(zip(made.__code__.co_freevars, made.__closure__ or (), strict=True))
    held: Any = cells["held"].cell_contents
    assert counted(size, batch, 4).reading(size.clips) == sum(x.nbytes for pair in held for x in pair)
