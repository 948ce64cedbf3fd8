"""What a branch may do as a pretrained network does it: without it nothing changes, with it the network keeps its promises."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields, replace

import pytest
import torch
from model_material import (
    CLOCK,
    FEATURES,
    FOREIGN,
    assert_near,
    clip_batch,
    controls,
    foreign,
    latents,
    network,
    small_config,
    times,
    with_features,
)
from torch import Tensor

from mutual_forcing.model.blocks import BranchConfig, modulated
from mutual_forcing.model.sampler import chunk_latents
from mutual_forcing.model.timeline import FIRST_FRAME_CHUNK, Layout
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import AV, Controls, future

CHUNKS = 4


def velocities(net: AVTransformer, text: Controls, noisy: AV | None = None) -> AV:
    noisy = noisy or future(latents(CHUNKS, seed=2))
    t, r = times(CHUNKS, noisy)
    with torch.no_grad():
        return net(noisy, latents(CHUNKS), t, r, text, Layout(CLOCK, CHUNKS))


# --- the defaults are the network of before ---------------------------------------------------------------------------------


def test_the_defaults_are_the_network_that_it_was_before_there_were_options() -> None:
    """Names, shapes, random start and outputs, taken down before the first option was written."""
    torch.manual_seed(0)
    weights = AVTransformer(small_config(), CLOCK).state_dict()
    names = json.dumps([[name, list(x.shape)] for name, x in weights.items()])
    assert hashlib.sha256(names.encode()).hexdigest() == "10e7dfc075754fc34aea131515ee1c84e1e2b5f7b10de232882dc3341c5f8f97"
    assert sum(x.double().abs().sum().item() for x in weights.values()) == pytest.approx(12832.765021158426, rel=1e-6)
    clips = clip_batch(3)
    noisy = future(latents(3, seed=2))
    t, r = times(3, noisy)
    with torch.no_grad():
        out = network()(noisy, clips.latents, t, r, clips.controls, clips.layout)
    golden = {
        "video": (-792.6291251018864, 29645.178450676358, [1.0990565435365223, -2.2735818882441707, 1.824257402329767]),
        "audio": (118.4664663430116, 6169.932410673081, [-2.3105476229922406, -0.25354345718206006, 7.570946541450704]),
    }
    for name, (total, square, first) in golden.items():
        x = out.get(name)
        assert x.sum().item() == pytest.approx(total, rel=1e-5)
        assert x.square().sum().item() == pytest.approx(square, rel=1e-5)
        assert x.flatten()[:3].tolist() == pytest.approx(first, rel=1e-3)


def test_no_eps_is_pytorchs_own() -> None:
    x, shift, scale = torch.randn(3, 2, 5, 8, generator=torch.Generator().manual_seed(0)).unbind()
    assert torch.equal(modulated(x, shift, scale), modulated(x, shift, scale, 1e-5))


# --- with every option ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 8])
@pytest.mark.parametrize("audio", [BranchConfig(), FOREIGN], ids=["one branch", "both branches"])
def test_streaming_and_reading_equal_the_parallel_forward(window: int, audio: BranchConfig) -> None:
    net, text, layout = network(foreign(window, audio)), with_features(controls()), Layout(CLOCK, CHUNKS)
    noisy, context = future(latents(CHUNKS, seed=2)), latents(CHUNKS)
    expected = velocities(net, text)
    t, r = times(CHUNKS, noisy)
    assert_near(net.read(context, text, layout)(noisy, t, r), expected, atol=1e-9)
    padded, made = AV(torch.cat([context.get("video")[:, :1], noisy.get("video")], dim=1), noisy.audio), []
    with torch.no_grad():
        stream = net.start(text)
        stream.commit(chunk_latents(AV(video=context.video), layout, FIRST_FRAME_CHUNK), FIRST_FRAME_CHUNK)
        for k in layout.chunk_range:
            now = [x.map(lambda y, k=k: y[:, k : k + 1]) for x in (t, r)]
            made.append(stream.velocity(chunk_latents(padded, layout, k), now[0], now[1], k))
            stream.commit(chunk_latents(context, layout, k), k)
    assert_near(made[0].map(lambda *parts: torch.cat(parts, dim=1), *made[1:]), expected, atol=1e-9)


@pytest.mark.parametrize("option", [f.name for f in fields(BranchConfig) if f.name != "ffn_width"])
def test_each_option_changes_the_function(option: str) -> None:
    value = {"norm_eps": 0.1}.get(option, getattr(FOREIGN, option))
    one = network(replace(small_config(), video=replace(BranchConfig(), **{option: value})))
    plain = network()
    shared = {name: x for name, x in plain.state_dict().items() if name in (own := one.state_dict()) and own[name].shape == x.shape}
    one.load_state_dict(shared, strict=False)
    changed = (velocities(one, with_features(controls())).get("video") - velocities(plain, controls()).get("video")).abs().max()
    assert changed > 1e-6


def closed(net: AVTransformer) -> AVTransformer:
    """As at the start: the gates of the words are zero in the branches that take caption features."""
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".gate." in name:
                p.zero_()
    return net


def without(text: Controls, words: bool = False, caption: bool = False) -> Controls:
    clips = text.caption_BWL.shape[0]
    return text.drop(torch.full((clips,), caption), torch.full((clips,), words))


def test_words_have_no_influence_until_their_gate_opens_and_then_they_have() -> None:
    text, net = with_features(controls()), network(foreign(audio=FOREIGN))
    moved = [velocities(net, t).get("video") for t in (text, without(text, words=True))]
    assert (moved[0] - moved[1]).abs().max() > 1e-3
    assert_near(velocities(closed(net), text), velocities(net, without(text, words=True)))


def test_the_gate_of_the_words_learns_from_the_start() -> None:
    net = closed(network(foreign()))
    noisy = AV(video=future(latents(CHUNKS, seed=2)).video)
    t, r = times(CHUNKS, noisy)
    net(noisy, latents(CHUNKS).only(("video",)), t, r, with_features(controls()), Layout(CLOCK, CHUNKS)).get(
        "video"
    ).square().sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if name.startswith("branches.video") and "gate" in name}
    assert len(gradients) == 2
    assert all(g is not None and g.abs().max() > 0 for g in gradients.values())


def test_a_dropped_caption_is_a_caption_of_padding() -> None:
    net, text = network(foreign(audio=FOREIGN)), with_features(controls())
    features = text.caption_features_BLE
    assert features is not None
    padding = replace(text, caption_features_BLE=torch.zeros_like(features))
    dropped = velocities(net, without(text, caption=True))
    assert_near(dropped, velocities(net, padding))
    assert_near(dropped, velocities(net, replace(text, caption_features_BLE=None)), atol=1e-12)
    assert (dropped.get("video") - velocities(net, text).get("video")).abs().max() > 1e-3


def test_no_text_at_all_is_finite() -> None:
    net, text = network(foreign(audio=FOREIGN)), controls()
    nothing = velocities(net, text.unconditional())
    assert all(bool(x.isfinite().all()) for _, x in nothing.items())


def test_features_travel_with_their_clips() -> None:
    text = with_features(controls())
    both = text.cat(without(text, caption=True)).to("cpu")
    assert isinstance(both.caption_features_BLE, Tensor)
    assert torch.equal(both.caption_features_BLE[:2], text.tensors()["caption_features_BLE"])
    assert not both.caption_features_BLE[2:].any()
    assert controls().cat(controls()).caption_features_BLE is None


def test_features_of_another_width_are_refused() -> None:
    text = replace(controls(), caption_features_BLE=torch.zeros(2, 5, FEATURES + 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=rf"width {FEATURES + 1}: this branch takes {FEATURES}"):
        velocities(network(foreign()), text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("qk_norm", "none"),
        ("head", "mlp"),
        ("prediction", "noise"),
        ("norm_eps", 0.0),
        ("norm_eps", float("nan")),
        ("time_features", 3),
        ("time_features", 0),
        ("ffn_width", 0),
        ("caption_features", -1),
    ],
)
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_impossible_values_are_refused_by_the_name_of_their_field(modality: str, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^model\.{modality}\.{field}="):
        replace(small_config(), **{modality: replace(BranchConfig(), **{field: value})})
