"""Recorded passes give what the others give, whatever changes from chunk to chunk, and hold no more when a stream gets longer.

On a CPU the same work is done from the same places, but for the recording; with a GPU it is recorded.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_material import CHANNELS, CLOCK, TEXT, clip_noise, controls, foreign, latents, network, small_config, with_features

from mutual_forcing.model.execution import ExecutionConfig
from mutual_forcing.model.noise import PositionalNoise
from mutual_forcing.model.recording import Tape
from mutual_forcing.model.sampler import Generation, SamplerConfig, generate
from mutual_forcing.model.text import Word, make_controls
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import AV, Controls

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]
FEW, MULTI = SamplerConfig("few", 3), SamplerConfig("multi", 2, guidance=3.0)


def recorded(net: AVTransformer) -> AVTransformer:
    """The same weights, played."""
    other = AVTransformer(net.config, net.timeline, ExecutionConfig(graphs=True)).to(net.like).eval()
    other.load_state_dict(net.state_dict())
    return other


def played(net: AVTransformer, text: Controls, config: SamplerConfig, chunks: int, clips: int = 2, sound: bool = True) -> list[AV]:
    device = net.like.device
    first = latents(1, clips).get("video")[:, :1].to(device)
    noise = PositionalNoise([(7, "test", position) for position in range(clips)], device)
    return list(generate(net, text.to(device), first, (clips, CHANNELS["audio"]) if sound else None, chunks, config, noise))


def assert_played_alike(net: AVTransformer, text: Controls, config: SamplerConfig, chunks: int, clips: int = 2, sound: bool = True) -> None:
    expected, made = (played(n, text, config, chunks, clips, sound) for n in (net, recorded(net)))
    for k, (a, b) in enumerate(zip(expected, made, strict=True)):
        for name, x in a.items():
            torch.testing.assert_close(b.get(name), x, rtol=1e-9, atol=1e-9, msg=lambda m, k=k, name=name: f"chunk {k}, {name}: {m}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [FEW, MULTI], ids=["few", "multi"])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_a_recorded_stream_is_the_same_stream(window: int, config: SamplerConfig, device: str) -> None:
    """Chunks of this clock have 7 or 8 latents of sound, so passes have several shapes; the sink moves with every chunk."""
    assert_played_alike(network(small_config(window=window)).to(device), controls(), config, 12)


@pytest.mark.parametrize("device", DEVICES)
def test_of_a_long_transcript_the_words_near_a_chunk_are_read(device: str) -> None:
    """Each chunk has other words at the same places, one clip has hardly any, and in the end nobody speaks."""
    spoken = [[Word(f"w{i}", 0.15 * i, 0.15 * i + 0.1) for i in range(30)], [Word("so", 0.2, 0.4), Word("it", 4.0, 4.5)]]
    text = make_controls(["a", "b"], spoken, replace(TEXT, max_words=40))
    assert_played_alike(network(small_config(window=2)).to(device), text, FEW, 14)


@pytest.mark.parametrize("device", DEVICES)
def test_branches_like_pretrained_ones_are_recorded_too(device: str) -> None:
    assert_played_alike(network(foreign(window=2)).to(device), with_features(controls()), FEW, 8)


def test_a_picture_without_sound_is_recorded_too() -> None:
    assert_played_alike(network(small_config(window=2)), controls(), FEW, 8, sound=False)


def test_what_a_pass_gives_stays_what_it_is() -> None:
    """The next pass writes where it lay; and a chunk can be begun again."""
    net = recorded(network(small_config(window=1)))
    clip, text = latents(4), controls()
    at = AV(*(torch.full((2, 1), 0.5, dtype=torch.float64),) * 2)
    stream = net.start(text)
    t = CLOCK
    stream.commit(AV(video=clip.get("video")[:, :1]), -1)
    parts = [AV(clip.get("video")[:, t.video_slice(k)], clip.get("audio")[:, t.audio_slice(k)]) for k in range(3)]
    for k in range(2):
        stream.commit(parts[k], k)
    first = stream.velocity(parts[2], at, at, 2)
    kept = first.map(torch.clone)
    other = stream.velocity(parts[2].map(lambda x: 2 * x), at, at, 2)
    again = stream.velocity(parts[2], at, at, 2)
    for name, x in kept.items():
        assert torch.equal(first.get(name), x)
        assert torch.equal(again.get(name), x)
        assert not torch.allclose(other.get(name), x)


def test_a_recorded_stream_holds_no_more_when_it_gets_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many recordings as there are shapes, made within the first chunks after the window is full."""
    made: list[Tape] = []
    record = Tape.record
    monkeypatch.setattr(Tape, "record", lambda tape, work, pool: (made.append(tape), record(tape, work, pool))[1])
    net = recorded(network(small_config(window=2)))
    counts = []
    first = latents(1).get("video")[:, :1]
    for _ in generate(net, controls(), first, (2, CHANNELS["audio"]), 40, FEW, clip_noise()):
        counts.append(len(made))
    assert counts[1] == 0, "while the window fills nothing is recorded"
    assert 1 <= counts[12] == counts[-1] <= 8


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [FEW, MULTI], ids=["few", "multi"])
def test_text_that_changes_and_clips_that_leave_are_recorded_too(config: SamplerConfig, device: str) -> None:
    """Other text, then the first again, then fewer clips; passes of one shape return after about five chunks."""
    nets = [network(small_config(window=2)).to(device)]
    nets.append(recorded(nets[0]))
    text = controls().to(device)
    other = make_controls(["a loud voice", "an old dog"], [[Word("so", 3.1, 3.4)], [Word("it", 3.0, 4.5)]], TEXT).to(device)
    made = []
    for net in nets:
        first = latents(1).get("video")[:, :1].to(device)
        noise = PositionalNoise([(7, "test", position) for position in range(2)], device)
        clips, steps = Generation(net, text, first, (2, CHANNELS["audio"]), config, noise), []
        for k in range(20):
            if k in (6, 12):
                clips.control(other if k == 6 else text)
            if k == 16:
                clips.keep([1])
            steps.append(clips.next_chunk())
        made.append(steps)
    for k, (a, b) in enumerate(zip(*made, strict=True)):
        assert b.batch == (2 if k < 16 else 1)
        for name, x in a.items():
            torch.testing.assert_close(b.get(name), x, rtol=1e-9, atol=1e-9, msg=lambda m, k=k, name=name: f"chunk {k}, {name}: {m}")
