"""The network: streaming equals training, nothing sees the future, only relative time counts, dropped text is no text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_material import CLOCK, TEXT, assert_near, controls, latents, network, small_config, times
from torch.func import functional_call
from torch.nn import functional as F

from mutual_forcing.model.blocks import BranchConfig
from mutual_forcing.model.rope import RopeConfig, rotate, rotation
from mutual_forcing.model.sampler import chunk_latents
from mutual_forcing.model.text import Word, make_controls
from mutual_forcing.model.timeline import FIRST_FRAME_CHUNK, Layout, Timeline
from mutual_forcing.model.transformer import AVTransformer, ExecutionConfig, Stream
from mutual_forcing.model.types import AV, MODALITIES, Controls, future


def flexed(net: AVTransformer) -> AVTransformer:
    """The same weights under the other back-end of the parallel passes."""
    other = AVTransformer(net.config, net.timeline, ExecutionConfig(attention="flex")).to(next(net.parameters()).dtype).eval()
    other.load_state_dict(net.state_dict())
    return other


def parallel(net: AVTransformer, noisy: AV, context: AV, text: Controls, layout: Layout) -> AV:
    t, r = times(layout.chunks, noisy)
    with torch.no_grad():
        return net(noisy, context, t, r, text, layout)


def one_by_one(net: AVTransformer, noisy: AV, context: AV, text: Controls, layout: Layout) -> tuple[AV, Stream]:
    """The same velocities, chunk by chunk with the cache."""
    t, r = times(layout.chunks, noisy)
    present = tuple(name for name, _ in noisy.items())
    padded = AV(video=None if noisy.video is None else torch.cat([context.get("video")[:, :1], noisy.video], dim=1), audio=noisy.audio)
    made = []
    with torch.no_grad():
        stream = net.start(text, present)
        if noisy.video is not None:
            net.commit(chunk_latents(AV(video=context.video), layout, FIRST_FRAME_CHUNK), FIRST_FRAME_CHUNK, stream)
        for k in layout.chunk_range:
            at = slice(k, k + 1)
            now = [x.map(lambda y, at=at: y[:, at]) for x in (t, r)]
            made.append(net.velocity(chunk_latents(padded, layout, k), now[0], now[1], k, stream))
            net.commit(chunk_latents(context, layout, k), k, stream)
    return made[0].map(lambda *parts: torch.cat(parts, dim=1), *made[1:]), stream


def assert_same(a: AV, b: AV) -> None:
    assert_near(a, b, atol=1e-9)


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


# --- three back-ends, one mask --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", [MODALITIES, ("video",), ("audio",)], ids="+".join)
@pytest.mark.parametrize("window", [1, 8])
def test_flex_attention_equals_the_dense_mask(window: int, present: tuple[str, ...]) -> None:
    """The parallel forward and a reading; window 1 has copies of the sink."""
    layout, net = Layout(CLOCK, 5), network(small_config(window))
    other, context, noisy = flexed(net), latents(5).only(present), future(latents(5, seed=2)).only(present)
    assert_same(parallel(other, noisy, context, controls(), layout), parallel(net, noisy, context, controls(), layout))
    t, r = times(layout.chunks, noisy)
    assert_same(other.read(context, controls(), layout)(noisy, t, r), parallel(net, noisy, context, controls(), layout))


def test_flex_attention_is_not_trained_on_a_cpu() -> None:
    net, layout = flexed(network()), Layout(CLOCK, 2)
    t, r = times(2, latents(2))
    with pytest.raises(ValueError, match=r"execution\.attention='flex'.*set execution\.attention=dense"):
        net(future(latents(2)), latents(2), t, r, controls(), layout)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the backward of FlexAttention needs a GPU")
def test_gradients_through_flex_attention_equal_the_dense_ones() -> None:
    layout, net = Layout(CLOCK, 5), network(small_config(window=2), dtype=torch.float32).to("cuda")
    other, context, noisy = flexed(net).to("cuda"), latents(5, dtype=torch.float32).to("cuda"), future(latents(5, seed=2)).to("cuda")
    t, r = (x.to("cuda") for x in times(layout.chunks, noisy))
    for both in (net, other):
        u = both(noisy.map(torch.Tensor.float), context, t, r, controls().to("cuda"), layout)
        torch.stack([x.square().mean() for _, x in u.items()]).sum().backward()
    for (name, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and q.grad is not None:
            assert_near(q.grad, p.grad, atol=1e-4 * float(p.grad.abs().max() + 1e-6))


def test_a_plan_serves_every_batch_of_its_shape_and_no_other() -> None:
    """Plans are kept by shape: two shapes in turn, then the first again, give what new networks give."""
    net = network(small_config(window=1))
    for chunks in (3, 5, 3):
        layout, noisy, context = Layout(CLOCK, chunks), future(latents(chunks, seed=chunks)), latents(chunks)
        fresh = parallel(network(small_config(window=1)), noisy, context, controls(), layout)
        assert_same(parallel(net, noisy, context, controls(), layout), fresh)
    video = latents(3).only(("video",))
    alone = parallel(net, future(video), video, controls(), Layout(CLOCK, 3))
    assert_same(alone, parallel(network(small_config(window=1)), future(video), video, controls(), Layout(CLOCK, 3)))


# --- gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 8])
def test_gradients_of_the_joint_attention_are_those_of_finite_differences(window: int) -> None:
    """One layer of both branches under the mask: by every weight and every latent, along a random direction."""
    layout, net = Layout(CLOCK, 3), network(replace(small_config(window), depth=1))
    noisy, context = future(latents(3, seed=2)), latents(3)
    t, r = times(3, noisy)
    inputs = {f"{kind} {name}": x for kind, av in (("noisy", noisy), ("context", context)) for name, x in av.items()}
    weights = {name: p.detach() for name, p in net.named_parameters()}
    g = torch.Generator().manual_seed(0)
    mix = noisy.map(lambda x: torch.randn(x.shape, generator=g, dtype=x.dtype))

    def mixed(changed: dict[str, torch.Tensor]) -> torch.Tensor:
        at = inputs | changed
        clips = [AV(at[f"{kind} video"], at[f"{kind} audio"]) for kind in ("noisy", "context")]
        made = functional_call(net, weights | {k: x for k, x in changed.items() if k in weights}, (*clips, t, r, controls(), layout))
        return torch.stack([(x * mix.get(name)).sum() for name, x in made.items()]).sum()

    for name, x in (weights | inputs).items():
        if name.endswith("words.byte.weight"):
            continue  # the byte of padding has no gradient by intention
        way, step = torch.randn(x.shape, generator=g, dtype=x.dtype), 1e-6
        tracked = x.clone().requires_grad_(True)
        (found,) = torch.autograd.grad(mixed({name: tracked}), tracked, allow_unused=True)
        slope = 0.0 if found is None else float((found * way).sum())
        with torch.no_grad():
            difference = float(mixed({name: x + step * way}) - mixed({name: x - step * way})) / (2 * step)
        assert slope == pytest.approx(difference, rel=1e-5, abs=1e-5), name


# --- how the network is computed changes nothing --------------------------------------------------------------------------


def gradients(net: AVTransformer, layout: Layout) -> tuple[list[torch.Tensor | None], int]:
    """Of a loss by every parameter, and the bytes that the forward kept for the backward."""
    noisy, context = future(latents(layout.chunks, seed=2)), latents(layout.chunks)
    t, r = times(layout.chunks, noisy)
    kept: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        u = net(noisy, context, t, r, controls(), layout)
        loss = torch.stack([x.square().mean() for _, x in u.items()]).sum()
    return list(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)), sum(kept.values())


@pytest.mark.parametrize(("every", "share"), [(1, 0.55), (2, 0.85)])
def test_recomputed_layers_give_the_same_gradients_from_fewer_bytes(every: int, share: float) -> None:
    layout, config = Layout(CLOCK, 4), replace(small_config(), depth=4)
    plain, other = network(config), AVTransformer(config, CLOCK, ExecutionConfig(checkpoint_every=every)).double()
    other.load_state_dict(plain.state_dict())
    (want, all_bytes), (found, fewer) = gradients(plain, layout), gradients(other, layout)
    for a, b in zip(found, want, strict=True):
        assert (a is None) == (b is None)
        assert a is None or b is None or torch.equal(a, b)
    assert fewer < share * all_bytes, (fewer, all_bytes)


@pytest.mark.slow
def test_compiled_blocks_are_the_blocks() -> None:
    """Forward, backward and streaming, whose chunks have changing numbers of latents."""
    layout, plain = Layout(CLOCK, 4), network(small_config(window=2))
    other = AVTransformer(plain.config, CLOCK, ExecutionConfig(compile=True)).double()
    other.load_state_dict(plain.state_dict())
    for a, b in zip(gradients(other, layout)[0], gradients(plain, layout)[0], strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_near(a, b, atol=1e-9)
    noisy, context = future(latents(4, seed=2)), latents(4)
    assert_same(one_by_one(other, noisy, context, controls(), layout)[0], parallel(plain, noisy, context, controls(), layout))


@pytest.mark.parametrize("bad", [{"attention": "fast"}, {"checkpoint_every": -1}])
def test_impossible_execution_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=rf"execution\.{next(iter(bad))}="):
        ExecutionConfig(**bad)


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
    past = stream.cache.past(5)
    assert past is not None
    kept = sorted(set(past.chunk_N.tolist()) - {FIRST_FRAME_CHUNK})
    assert kept == list(range(max(0, 5 - window), 5)), "the cache holds the last `window` chunks and no more"


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


class LateTimeline(Timeline):
    """The same clock with all timestamps seven seconds later; chunks keep their numbers."""

    def video_times(self, latents: slice) -> list[float]:
        return [t + 7.0 for t in super().video_times(latents)]

    def audio_times(self, latents: slice) -> list[float]:
        return [t + 7.0 for t in super().audio_times(latents)]


@pytest.mark.parametrize("window", [2, 8])
def test_a_shift_of_all_timestamps_changes_nothing(window: int) -> None:
    """A long look-ahead shows every word to every chunk, so that the timestamps enter through rotary angles alone."""
    text, later = controls(offset=2.0), controls(offset=9.0)
    config = small_config(window, lookahead=1000.0)
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
    net.velocity(chunk_latents(context, layout, 3), t, r, 3, stream)
    assert stream.moving is not None
    for name, whole in stream.text.items():
        keys = stream.moving.text[name].keys_values[0][0].shape[1]
        assert keys == whole.first_word + 5 + (name == "video" and features > 0), "chunk 3 hears [1.0, 2.3) s: the words from 0.9 to 2.1 s"


# --- precision ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.bfloat16, 0.01)])
def test_the_three_ways_agree_in_every_precision(dtype: torch.dtype, limit: float) -> None:
    """The parity table: root mean square error of cached, read and flex over that of the dense forward; states are fp32 or wider."""
    layout, net = Layout(CLOCK, 5), network(small_config(window=2), dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    noisy, context = (x.map(lambda y: y.to(wide)) for x in (future(latents(5, seed=2)), latents(5)))
    t, r = times(5, noisy)
    want = parallel(net, noisy, context, controls(), layout)
    ways = {
        "cached": one_by_one(net, noisy, context, controls(), layout)[0],
        "read": net.read(context, controls(), layout)(noisy, t, r),
        "flex": parallel(flexed(net), noisy, context, controls(), layout),
    }
    for way, made in ways.items():
        for name, x in made.items():
            error = float(((x - want.get(name)).square().mean() / want.get(name).square().mean()).sqrt())
            assert error < limit, f"{way}, {name}: {error:.2g}"


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
    wide = AV(torch.cat([noisy.get("video")] * 2, dim=2), noisy.audio)
    with pytest.raises(ValueError, match=r"video latents: 6 channels, where model\.video_channels=3; they are of another codec"):
        net(wide, context, t, r, controls(), layout)


def test_a_chunk_can_be_begun_again() -> None:
    """Evaluations of the chunk in progress leave the cache as it was, so giving it up costs nothing: another noise, then the first."""
    net = network(small_config(window=2))
    _, stream = one_by_one(net, future(latents(4, seed=2)), latents(4), controls(), Layout(CLOCK, 4))
    x = [chunk_latents(latents(5, seed=s), Layout(CLOCK, 5), 4) for s in (2, 3)]
    at = AV(*(torch.full((2, 1), 0.5, dtype=torch.float64),) * 2)
    first, other, again = (net.velocity(x[i], at, at, 4, stream) for i in (0, 1, 0))
    assert_near(again, first)
    assert (first.get("audio") - other.get("audio")).abs().max() > 1e-3
    past = stream.cache.past(4)
    assert past is not None
    assert sorted(set(past.chunk_N.tolist())) == [-1, 2, 3]
