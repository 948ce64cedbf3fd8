"""The network: streaming equals training, nothing sees the future, only relative time counts, dropped text is no text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_material import (
    CLOCK,
    FOREIGN,
    TEXT,
    LateTimeline,
    assert_near,
    assert_same,
    controls,
    foreign,
    latents,
    network,
    one_by_one,
    parallel,
    small_config,
    times,
    with_features,
)
from torch.nn import functional as F

from mutual_forcing.model.blocks import BranchConfig
from mutual_forcing.model.mask import WORDS
from mutual_forcing.model.rope import RopeConfig, rotate, rotation
from mutual_forcing.model.sampler import chunk_latents
from mutual_forcing.model.text import Word, make_controls
from mutual_forcing.model.timeline import Layout
from mutual_forcing.model.types import AV, MODALITIES, Controls, future

# --- a past that is read once equals the parallel forward -----------------------------------------------------------------


@pytest.mark.parametrize("present", [MODALITIES, ("video",), ("audio",)], ids="+".join)
@pytest.mark.parametrize("window", [1, 8])
def test_velocities_after_one_reading_equal_the_parallel_forward(window: int, present: tuple[str, ...]) -> None:
    """Window 1 re-places the sink, whose copies the reading holds."""
    layout, net = Layout(CLOCK, 5), network(small_config(window))
    context = latents(5).only(present)
    after = net.read(context, controls(), layout)
    for seed in (2, 3):
        noisy = future(latents(5, seed=seed)).only(present)
        t, r = times(layout.chunks, noisy)
        assert_same(after(noisy, t, r), parallel(net, noisy, context, controls(), layout))


# --- pictures that the patch does not divide ------------------------------------------------------------------------------


def odd(x: AV, rows: int, columns: int) -> AV:
    return AV(x.get("video")[..., :rows, :columns], x.audio)


@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (4, 3), (3, 3)])
def test_a_picture_that_the_patch_does_not_divide_is_filled_up_and_cut_again(rows: int, columns: int) -> None:
    """It equals the picture with zeros in the rest, and streaming equals the parallel forward."""
    layout, net = Layout(CLOCK, 3), network()
    noisy, context = (odd(x, rows, columns) for x in (future(latents(3, seed=2)), latents(3)))
    made = parallel(net, noisy, context, controls(), layout)
    assert made.get("video").shape == noisy.get("video").shape
    streamed, _ = one_by_one(net, noisy, context, controls(), layout)
    assert_same(made, streamed)
    filled = [AV(F.pad(x.get("video"), (0, 4 - columns, 0, 4 - rows)), x.audio) for x in (noisy, context)]
    assert_same(made, odd(parallel(net, filled[0], filled[1], controls(), layout), rows, columns))


# --- streaming equals training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", [MODALITIES, ("video",), ("audio",)], ids="+".join)
@pytest.mark.parametrize("window", [1, 2, 8])
def test_streaming_with_the_cache_equals_the_parallel_forward(window: int, present: tuple[str, ...]) -> None:
    """Windows 1 and 2 are shorter than the five chunks: the sink is re-placed, and old chunks leave the cache."""
    layout, net = Layout(CLOCK, 5), network(small_config(window))
    noisy, context = future(latents(5, seed=2)).only(present), latents(5).only(present)
    streamed, stream = one_by_one(net, noisy, context, controls(), layout)
    assert_same(parallel(net, noisy, context, controls(), layout), streamed)
    assert all(x.abs().mean() > 0.05 for _, x in streamed.items())
    assert stream.cache.chunks == list(range(max(0, 5 - window), 5)), "the cache holds the last `window` chunks and no more"


def test_the_window_and_the_sink_matter() -> None:
    """Without this, the parities above could hold because history is ignored."""
    layout, net = Layout(CLOCK, 5), network(small_config(window=2))
    noisy, context = future(latents(5, seed=2)), latents(5)
    base = parallel(net, noisy, context, controls(), layout)
    video = context.get("video").clone()
    video[:, 0] += 1.0
    without_sink = parallel(net, noisy, AV(video, context.audio), controls(), layout)
    wide = parallel(network(small_config(window=8)), noisy, context, controls(), layout)
    for name in MODALITIES:
        last = -5  # within the last chunk of either modality
        assert (base.get(name)[:, -1] - without_sink.get(name)[:, -1]).abs().max() > 1e-4
        assert (base.get(name)[:, last:] - wide.get(name)[:, last:]).abs().max() > 1e-4


def test_the_window_forgets_older_chunks_through_one_layer() -> None:
    """One layer deep, a chunk is blind to what lies before the window; the sink stays visible."""
    layout, net = Layout(CLOCK, 5), network(replace(small_config(window=2), depth=1))
    noisy, context = future(latents(5, seed=2)), latents(5)
    base = parallel(net, noisy, context, controls(), layout)
    old = context.map(torch.clone)
    for x in (chunk_latents(old, layout, k) for k in (0, 1)):
        x.map(lambda y: y.add_(1.0))
    seen = parallel(net, noisy, old, controls(), layout)
    assert_split(base, seen, layout, same={0, 4}, changed={1, 2, 3})


# --- causality ------------------------------------------------------------------------------------------------------------


def assert_split(a: AV, b: AV, layout: Layout, same: set[int], changed: set[int]) -> None:
    """Chunks of `same` are bit-identical in both, chunks of `changed` differ."""
    for name, x in a.items():
        index, _ = layout.video(with_first_frame=False) if name == "video" else layout.audio()
        for k in layout.chunk_range:
            equal = torch.equal(x[:, index == k], b.get(name)[:, index == k])
            assert equal == (k in same), f"{name}, chunk {k}: {'identical' if equal else 'different'}"
    assert same | changed == set(layout.chunk_range)


@pytest.mark.parametrize("name", MODALITIES)
@pytest.mark.parametrize("chunk", range(4))
def test_a_context_chunk_is_seen_by_later_chunks_only(chunk: int, name: str) -> None:
    layout, net = Layout(CLOCK, 4), network(small_config(window=2))
    noisy, context = future(latents(4, seed=2)), latents(4)
    other = context.map(torch.clone)
    chunk_latents(other, layout, chunk).get(name).mul_(-3.0)
    before, after = (parallel(net, noisy, c, controls(), layout) for c in (context, other))
    assert_split(before, after, layout, same=set(range(chunk + 1)), changed=set(range(chunk + 1, 4)))


@pytest.mark.parametrize("name", MODALITIES)
@pytest.mark.parametrize("chunk", range(4))
def test_a_noisy_chunk_is_seen_by_itself_only(chunk: int, name: str) -> None:
    layout, net = Layout(CLOCK, 4), network(small_config(window=2))
    noisy, context = future(latents(4, seed=2)), latents(4)
    index, _ = layout.video(with_first_frame=False) if name == "video" else layout.audio()
    other = noisy.map(torch.clone)
    other.get(name)[:, index == chunk] *= -3.0
    before, after = (parallel(net, n, context, controls(), layout) for n in (noisy, other))
    assert_split(before, after, layout, same=set(range(4)) - {chunk}, changed={chunk})


def test_clips_of_a_batch_do_not_see_each_other() -> None:
    layout, net = Layout(CLOCK, 3), network()
    noisy, context, text = future(latents(3, seed=2)), latents(3), controls()
    other_noisy, other_context = (x.map(lambda y: torch.cat([y[:1], y[1:] + 1])) for x in (noisy, context))
    before = parallel(net, noisy, context, text, layout)
    after = parallel(net, other_noisy, other_context, text, layout)
    assert_same(before.map(lambda x: x[:1]), after.map(lambda x: x[:1]))
    assert (before.get("audio")[1] - after.get("audio")[1]).abs().max() > 1e-3


# --- only relative time counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [2, 8])
@pytest.mark.parametrize("pretrained", [False, True], ids=["own", "as pretrained"])
def test_a_shift_of_all_timestamps_changes_nothing(window: int, pretrained: bool) -> None:
    """A long look-ahead shows every word to every chunk, so that the timestamps enter through rotary angles alone."""
    text, later = with_features(controls(offset=2.0)), with_features(controls(offset=9.0))
    config = foreign(window, FOREIGN, lookahead=1000.0) if pretrained else small_config(window, lookahead=1000.0)
    early_clock, late_clock = CLOCK, LateTimeline(**{name: getattr(CLOCK, name) for name in CLOCK.__dataclass_fields__})
    noisy, context = future(latents(4, seed=2)), latents(4)
    early = parallel(network(config, early_clock), noisy, context, text, Layout(early_clock, 4))
    late = parallel(network(config, late_clock), noisy, context, later, Layout(late_clock, 4))
    assert_same(early, late)
    only_words = parallel(network(config, early_clock), noisy, context, later, Layout(early_clock, 4))
    assert (early.get("audio") - only_words.get("audio")).abs().max() > 1e-3, "words moved against the audio must matter"


def test_a_later_first_chunk_changes_nothing() -> None:
    """Audio alone (it has no sink): chunks 0..3, and chunks 14400.. of the same length two hours later; words move along."""
    late = 16 * 900  # a multiple of the chunks after which the audio table repeats
    assert (late * CLOCK.chunk * CLOCK.audio_rate).denominator == 1
    net = network(small_config(window=2))
    context = latents(4).only(("audio",))
    noisy = latents(4, seed=2).only(("audio",))
    a = parallel(net, noisy, context, controls(), Layout(CLOCK, 4))
    b = parallel(net, noisy, context, controls(offset=late * float(CLOCK.chunk)), Layout(CLOCK, 4, first=late))
    assert_same(a, b)


def test_a_rolled_sink_stays_at_one_distance() -> None:
    """Once the window has rolled, only the chunk's place relative to it counts: chunk 4.. equals chunk 20.. (both modalities)."""
    net, silent = network(small_config(window=2)), controls().unconditional()
    later = 16  # 16 chunks are a whole number of audio latents, so both layouts have equal tokens
    n, shape = CLOCK.video_latents(3), latents(3)
    a_layout, b_layout = Layout(CLOCK, 3, first=4), Layout(CLOCK, 3, first=4 + later)
    audio = latents(3).get("audio")[:, : len(a_layout.audio()[0])]
    context, noisy = AV(shape.get("video")[:, :n], audio), AV(shape.get("video")[:, 1:n] * 2, audio * 2)
    assert_same(parallel(net, noisy, context, silent, a_layout), parallel(net, noisy, context, silent, b_layout))


def test_rotation_depends_on_the_difference_of_positions() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=g, dtype=torch.float64)
    place = torch.tensor([0.3, 2.0, 5.0], dtype=torch.float64)

    def rotated(x: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        return rotate(x, rotation(at[0:1], at[1:2], at[2:3], 16, RopeConfig(), x))

    def score(q_at: torch.Tensor, k_at: torch.Tensor) -> torch.Tensor:
        return (rotated(q, q_at) * rotated(k, k_at)).sum()

    base = score(place, 2 * place)
    assert_near(score(place + 7200.0, 2 * place + 7200.0), base, atol=1e-9)
    for axis in range(3):
        moved = place.clone()
        moved[axis] += 1.3
        assert (score(moved, 2 * place) - base).abs() > 1e-3, f"axis {axis} must count"
    assert_near(rotated(q, place).norm(), q.norm(), atol=1e-9)


# --- text -----------------------------------------------------------------------------------------------------------------


def test_dropped_text_is_no_text() -> None:
    layout, net = Layout(CLOCK, 3), network()
    noisy, context, text = future(latents(3, seed=2)), latents(3), controls()
    no_text = make_controls(["", ""], [[], []], TEXT)
    empty = replace(no_text, words_time_BW2=no_text.words_time_BW2.double())
    nothing = Controls(
        *(x[:, :0] for x in (empty.caption_BWL, empty.caption_mask_BW, empty.words_BWL, empty.words_mask_BW, empty.words_time_BW2))
    )
    full, dropped, absent, unpadded = (parallel(net, noisy, context, c, layout) for c in (text, text.unconditional(), empty, nothing))
    assert_same(dropped, absent)
    assert_same(dropped, unpadded)
    yes, no = torch.tensor([True, True]), torch.tensor([False, False])
    for part in (text.drop(yes, no), text.drop(no, yes)):
        half = parallel(net, noisy, context, part, layout)
        for other in (full, dropped):
            assert (half.get("video") - other.get("video")).abs().max() > 1e-3
            assert (half.get("audio") - other.get("audio")).abs().max() > 1e-3


def test_a_word_is_seen_within_the_look_ahead_and_the_window() -> None:
    """A word at [2.05, 2.1] with a look-ahead of 0.3 s is seen from chunk 3 ([1.5, 2) s) on, and through one layer until chunk 3 + W."""
    layout, net = Layout(CLOCK, 8), network(replace(small_config(window=2), depth=1))
    noisy, context, text = future(latents(8, seed=2)), latents(8), controls().unconditional()
    times_BW2 = text.words_time_BW2.clone()
    times_BW2[:, 0] = torch.tensor([2.05, 2.1], dtype=torch.float64)
    mask = torch.zeros_like(text.words_mask_BW)
    mask[:, 0] = True
    spoken = replace(text, words_mask_BW=mask, words_time_BW2=times_BW2)
    silent, heard = (parallel(net, noisy, context, c, layout) for c in (text, spoken))
    assert_split(silent, heard, layout, same={0, 1, 2, 7}, changed={3, 4, 5, 6})


@pytest.mark.parametrize("features", [0, 6])
def test_a_long_transcript_costs_a_chunk_only_the_words_near_it(features: int) -> None:
    """Streaming leaves out words that no token of the chunk can see: fewer keys, the same velocities."""
    layout, net = Layout(CLOCK, 6), network(replace(small_config(window=1), video=BranchConfig(caption_features=features)))
    spoken = [[Word(f"w{i}", 0.3 * i, 0.3 * i + 0.2) for i in range(40)], [Word("so", 0.2, 0.4), Word("it", 11.0, 11.5)]]
    text = make_controls(["a", "b"], spoken, replace(TEXT, max_words=40))
    noisy, context = future(latents(6, seed=2)), latents(6)
    streamed, stream = one_by_one(net, noisy, context, text, layout)
    assert_same(streamed, parallel(net, noisy, context, text, layout))
    t, r = (x.map(lambda y: y[:, :1]) for x in times(6, noisy))
    _, stream = one_by_one(net, future(latents(3, seed=2)), latents(3), text, Layout(CLOCK, 3))
    stream.velocity(chunk_latents(context, layout, 3), t, r, 3)
    assert stream.moving is not None
    for name, whole in stream.text.items():
        near = stream.moving.text[name]
        assert near.keys_values[0][0].shape[1] == whole.first_word + WORDS + (name == "video" and features > 0) < 40
        there = near.exists_BW[:, -WORDS:]
        assert there.sum(dim=1).tolist() == [5, 0], "chunk 3 hears [1.0, 2.3) s: the words from 0.9 to 2.1 s"


# --- precision ------------------------------------------------------------------------------------------------------------


def test_bf16_weights_take_fp32_states() -> None:
    layout = Layout(CLOCK, 3)
    noisy, context = future(latents(3, seed=2)), latents(3)
    exact = parallel(network(), noisy, context, controls(), layout)
    rough = parallel(network(dtype=torch.bfloat16), noisy.map(torch.Tensor.float), context.map(torch.Tensor.float), controls(), layout)
    for name, x in rough.items():
        assert x.dtype == torch.float32
        error = (x.double() - exact.get(name)).square().mean().sqrt() / exact.get(name).std()
        assert error < 0.1, f"{name}: relative error {error:.3f}"


def test_the_networks_groups_are_its_parameters_and_only_the_interval_is_apart() -> None:
    net = network()
    (one, shared), (ratio, interval) = net.parameter_groups(("video", "audio"), 20.0)
    assert (one, ratio) == (1.0, 20.0)
    assert {id(p) for p in (*shared, *interval)} == {id(p) for p in net.parameters()}
    assert len(shared) + len(interval) == len(list(net.parameters()))
    names = {id(p): name for name, p in net.named_parameters()}
    assert {names[id(p)].split(".")[2:4] == ["time", "end"] for p in interval} == {True}
    assert not any(".time.end." in names[id(p)] for p in shared)
    assert {names[id(p)].split(".")[1] for p in net.parameter_groups(("audio",), 2.0)[0][1]} == {"audio"}


# --- latents that do not fit ----------------------------------------------------------------------------------------------


def test_latents_of_another_rate_or_codec_are_refused_by_name() -> None:
    layout, net = Layout(CLOCK, 3), network()
    noisy, context = future(latents(3, seed=2)), latents(3)
    t, r = times(3, noisy)
    short = AV(noisy.video, noisy.get("audio")[:, :-1])
    with pytest.raises(ValueError, match=r"audio latents: there are 23, timeline gives 24 for 1\.5 s; they are of another rate"):
        net(short, context, t, r, controls(), layout)
    long = AV(torch.cat([context.get("video"), context.get("video")[:, :1]], dim=1), context.audio)
    for refuse in (lambda: net(noisy, long, t, r, controls(), layout), lambda: net.read(long, controls(), layout)):
        with pytest.raises(ValueError, match=r"video latents: there are 11, timeline gives 10 for 1\.5 s"):
            refuse()
    few = AV(audio=noisy.get("audio")[:, :3])
    stream = net.start(controls(), ("audio",))
    with pytest.raises(ValueError, match=r"audio latents: there are 3, timeline gives 8 for chunk 0; they are of another rate"):
        stream.commit(few, 0)
    wide = AV(torch.cat([noisy.get("video")] * 2, dim=2), noisy.audio)
    with pytest.raises(ValueError, match=r"video latents: 6 channels, where model\.video_channels=3; they are of another codec"):
        net(wide, context, t, r, controls(), layout)
