"""Named networks: their exact counts, and that counting takes no memory."""

from __future__ import annotations

import resource

import pytest
import torch
from model_material import controls

from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.presets import PRESETS, preset
from mutual_forcing.model.sampler import SamplerConfig, generate
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import MODALITIES

COUNTS = {
    "tiny": (486_528, 486_528),
    "small": (14_647_296, 14_647_296),
    "base": (1_309_417_152, 741_301_312),
    "paper": (7_099_664_064, 7_098_746_432),
}


def by_hand(name: str, modality: str) -> int:
    """The weights of a branch, from the sizes of its matrices."""
    net = preset(name).network
    d = net.video_width if modality == "video" else net.audio_width
    features = net.video_channels * net.patch**2 if modality == "video" else net.audio_channels
    h, f, o = net.heads * net.head_dim, net.ffn_ratio * d, net.branch(modality)
    norm = h if o.qk_norm == "all" else net.head_dim
    attention = (d * 3 * h + 3 * h) + 2 * norm + (h * d + d)
    text = (d * h + h) + (d * 2 * h + 2 * h) + 2 * norm + (h * d + d)
    if o.caption_features:
        text += (d * 2 * h + 2 * h) + norm + h  # words apart, their norm, and the gate
    block = 6 * d + attention + 2 * d + text + (d * f + f) + (f * d + d)
    times = 2 * (o.time_features * d + d + d * d + d)
    words = 256 * d + net.text.max_bytes * d + 2 * (d * d + d) + 2 * d
    caption = o.caption_features * d + d + d * d + d if o.caption_features else d
    head = 2 * d if o.head == "table" else d * 2 * d + 2 * d
    return net.depth * block + (features * d + d) + times + (d * 6 * d + 6 * d) + words + caption + head + (d * features + features)


@pytest.mark.parametrize("name", PRESETS)
def test_the_counts_are_those_of_the_matrices(name: str) -> None:
    assert preset(name).parameters() == dict(zip(MODALITIES, COUNTS[name], strict=True))
    assert tuple(by_hand(name, m) for m in MODALITIES) == COUNTS[name]


def test_counting_the_papers_network_takes_no_memory_for_it() -> None:
    """Its weights would be 57 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    net = preset("paper").meta()
    assert all(p.is_meta for p in net.parameters())
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 500e6


def test_tiny_generates() -> None:
    chosen = preset("tiny")
    net = AVTransformer(chosen.network, chosen.clock).eval()
    first = torch.randn(1, 1, chosen.network.video_channels, 8, 8)
    text = controls(1)
    noise = PositionalNoise([(0,)])
    made = list(generate(net, text, first, (1, chosen.network.audio_channels), 2, SamplerConfig("few", 4), noise))
    assert [x.get("video").shape for x in made] == [(1, 3, 32, 8, 8)] * 2


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="preset 'huge': unknown; choose from tiny, small, base, paper"):
        preset("huge")
