"""A stream: chunks in order and whole, no more memory when it gets longer, sound alone, and failures that leave it as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_material import (
    CHANNELS,
    CLOCK,
    assert_near,
    controls,
    latents,
    network,
    one_by_one,
    small_config,
    times,
)

from mutual_forcing.model.sampler import chunk_latents
from mutual_forcing.model.timeline import FIRST_FRAME_CHUNK, Layout, Timeline
from mutual_forcing.model.transformer import AVTransformer
from mutual_forcing.model.types import AV, future


def test_a_stream_holds_no_more_when_it_gets_longer() -> None:
    """Numbers in the cache and in the chunk in progress: the most of chunks 6 to 17 is the most of chunks 18 to 29."""
    net, text = network(small_config(window=2)), controls()
    at = AV(*(torch.full((2, 1), 0.5, dtype=torch.float64),) * 2)
    clip, layout, held = latents(30), Layout(CLOCK, 30), []
    stream = net.start(text)
    stream.commit(chunk_latents(AV(video=clip.video), layout, FIRST_FRAME_CHUNK), FIRST_FRAME_CHUNK)
    for k in range(30):
        stream.velocity(now := chunk_latents(clip, layout, k), at, at, k)
        assert stream.moving is not None
        cached = [kv for layer in range(net.config.depth) for kv in stream.cache.read(layer, None)]
        held.append(sum(x.numel() for kv in [*cached, *stream.moving.window._held.values()] for x in kv))
        stream.commit(now, k)
    assert max(held[6:18]) == max(held[18:]) > 1000


def test_a_stream_takes_its_chunks_in_order_and_whole() -> None:
    net, clip, layout = network(small_config(window=2)), latents(4), Layout(CLOCK, 4)
    _, stream = one_by_one(net, future(latents(2, seed=2)), latents(2), controls(), Layout(CLOCK, 2))
    at = AV(*(torch.full((2, 1), 0.5, dtype=torch.float64),) * 2)
    third = chunk_latents(clip, layout, 3)
    for wrong in (lambda: stream.commit(third, 3), lambda: stream.velocity(third, at, at, 3)):
        with pytest.raises(ValueError, match=r"chunk 3: the stream's last is 1; give chunk 2, or start another stream"):
            wrong()
    now = chunk_latents(clip, layout, 2)
    stream.velocity(now, at, at, 2)
    with pytest.raises(ValueError, match=r"chunk 2: has latents of audio, this stream of video, audio; give these"):
        stream.velocity(now.only(("audio",)), at.only(("audio",)), at.only(("audio",)), 2)
    short = AV(now.video, now.get("audio")[:, :-1])
    with pytest.raises(ValueError, match=r"audio latents: there are 7, timeline gives 8 for chunk 2; they are of another rate"):
        stream.velocity(short, at, at, 2)
    stream.commit(now, 2)
    assert stream.cache.chunks == [1, 2], "what was refused left nothing behind"


def test_a_chunk_can_be_begun_again() -> None:
    """Evaluations of the chunk in progress leave the cache as it was, so giving it up costs nothing: another noise, then the first."""
    net = network(small_config(window=2))
    _, stream = one_by_one(net, future(latents(4, seed=2)), latents(4), controls(), Layout(CLOCK, 4))
    x = [chunk_latents(latents(5, seed=s), Layout(CLOCK, 5), 4) for s in (2, 3)]
    at = AV(*(torch.full((2, 1), 0.5, dtype=torch.float64),) * 2)
    first, other, again = (stream.velocity(x[i], at, at, 4) for i in (0, 1, 0))
    assert_near(again, first)
    assert (first.get("audio") - other.get("audio")).abs().max() > 1e-3
    assert stream.cache.chunks == [2, 3]


@pytest.mark.parametrize("window", [1, 2])
def test_sound_alone_never_forgets_how_it_began(window: int) -> None:
    """Without a picture the first chunk is the sink: seen by all, forward and stream alike; of the chunks between, only the window is."""
    net, chunks = network(small_config(window=window), dtype=torch.float64), 7
    layout, clip, noisy = Layout(CLOCK, chunks), latents(chunks).only(("audio",)), latents(chunks, seed=2).only(("audio",))
    t, r = (x.only(("audio",)) for x in times(chunks, latents(chunks)))

    def changed_by(chunk: int) -> list[bool]:
        other = clip.get("audio").clone()
        other[:, CLOCK.audio_slice(chunk)] += 1.0
        with torch.no_grad():
            a, b = (net(noisy, c, t, r, controls(), layout).get("audio") for c in (clip, AV(audio=other)))
        moved = (a - b).abs().amax(dim=(0, 2))
        return [bool(moved[CLOCK.audio_slice(k)].max() > 0) for k in range(chunks)]

    assert changed_by(0) == [False] + [True] * (chunks - 1)
    assert not changed_by(1)[1]
    parallel = net(noisy, clip, t, r, controls(), layout)
    assert_near(one_by_one(net, noisy, clip, controls(), layout)[0], parallel, atol=1e-9)
    assert_near(net.read(clip, controls(), layout)(noisy, t, r), parallel, atol=1e-9)


def test_chunks_without_sound_of_their_own_are_streamed() -> None:
    """Where an audio latent is longer than a chunk, some chunks have none."""
    clock = Timeline(24, 4, 16000, 4096, chunk_frames=4)
    net = AVTransformer(small_config(window=2), clock).double().eval()
    counts = [clock.audio_slice(k).stop - clock.audio_slice(k).start for k in range(4)]
    assert 0 in counts
    stream = net.start(controls(), ("audio",))
    at = AV(audio=torch.full((2, 1), 0.5, dtype=torch.float64))
    for k, n in enumerate(counts):
        x = AV(audio=torch.randn(2, n, CHANNELS["audio"], dtype=torch.float64))
        assert [stream.velocity(x, at, at, k).get("audio").shape[1] for _ in range(2)] == [n, n]
        stream.commit(x, k)


def test_a_commit_that_fails_can_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(small_config(window=2))
    _, stream = one_by_one(net, future(latents(2, seed=2)), latents(2), controls(), Layout(CLOCK, 2))
    now, after, failing = chunk_latents(latents(3), Layout(CLOCK, 3), 2), net._after, [True]

    def out_of_memory(*a: Any) -> Any:
        if failing:
            failing.pop()
            raise torch.OutOfMemoryError("no room")
        return after(*a)

    monkeypatch.setattr(net, "_after", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        stream.commit(now, 2)
    assert stream.cache.chunks == [0, 1]
    stream.commit(now, 2)
    assert stream.cache.chunks == [1, 2]


def test_a_picture_is_refused_by_a_stream_of_sound() -> None:
    net = network(small_config(window=2))
    stream = net.start(controls(), ("audio",))
    with pytest.raises(ValueError, match=r"chunk -1: has latents of video, this stream of sound alone; give these"):
        stream.commit(AV(video=latents(1).get("video")[:, :1]), FIRST_FRAME_CHUNK)
