"""What a step makes and what it asks of a device, counted from a batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_material import CLOCK, controls, foreign, latents, small_config, with_features

from mutual_forcing.model.arithmetic import Arithmetic, new_tokens, peak_of, step_flops
from mutual_forcing.model.objective import ObjectiveConfig
from mutual_forcing.model.presets import Preset
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.types import AVBatch

CHUNKS = 3
BATCH = AVBatch(latents(CHUNKS), controls(), Layout(CLOCK, CHUNKS), (0, 1), ("a", "b"))


def test_tokens_are_the_patches_and_audio_latents_that_are_predicted() -> None:
    """4 x 4 latents in patches of 2: 4 tokens a frame, 3 frames a chunk; 3 chunks of half a second hold 24 audio latents at 15.625/s."""
    assert new_tokens(small_config(), BATCH) == 2 * (CHUNKS * 3 * 4 + 24)
    assert new_tokens(small_config(), replace(BATCH, latents=BATCH.latents.only(("audio",)))) == 2 * 24
    assert new_tokens(small_config(), replace(BATCH, chunks_B=(3, 1))) == 36 + 24 + 12 + 8, "padding is not predicted"


@pytest.mark.parametrize("branches", ["own", "like Wan's"])
def test_a_steps_flops_are_those_of_its_forwards(branches: str) -> None:
    config, text, caption = (small_config(), BATCH.controls, 3) if branches == "own" else (foreign(), with_features(BATCH.controls), 5)
    batch = replace(BATCH, controls=text)
    words, o = text.words_BWL.shape[1], ObjectiveConfig()
    one = Arithmetic(Preset(config, CLOCK), 4, 4, torch.empty(0, 2), caption)
    flow = step_flops(config, batch, o, mutual=False)
    assert flow == 2 * 2 * one.training(CHUNKS, words), "two clips; a multiply-add is two operations"
    assert step_flops(config, batch, o, mutual=True) == pytest.approx(flow * sum(o.forward_equivalents().values()) / 3)
    shorter = step_flops(config, replace(batch, chunks_B=(3, 1)), o, mutual=False)
    assert shorter == 2 * (one.training(3, words) + one.training(1, words))


def test_peaks_are_known_by_the_whole_name_of_a_board() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_of("NVIDIA H100 PCIe") == 756e12
    assert peak_of("NVIDIA H100") is None
    assert peak_of("NVIDIA GeForce GTX 970") is None
    assert peak_of("") is None
