"""One clock: counts never drift, chunks partition the latents, and what fits is counted from both streams."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.model.timeline import FIRST_FRAME_CHUNK, Layout, Timeline

STABLE_AUDIO = Timeline(fps=24, video_stride=4, sample_rate=44100, audio_hop=2048, chunk_frames=12)
CLOCKS = [Timeline(), STABLE_AUDIO, Timeline(fps=25, video_stride=4, sample_rate=44100, audio_hop=2048, chunk_frames=16)]
TEN_MINUTES = 600

clocks = st.builds(
    lambda fps, stride, rate, hop, factor: Timeline(fps, stride, rate, hop, stride * factor),
    st.integers(8, 60),
    st.integers(2, 8),
    st.sampled_from([8000, 16000, 22050, 44100, 48000]),
    st.integers(64, 4096),
    st.integers(1, 6),
)


@pytest.mark.parametrize("clock", CLOCKS)
def test_audio_never_drifts_from_the_picture(clock: Timeline) -> None:
    """Method 6: the cumulative table errs by less than one latent for ever; constant rounding of the chunk's count does not."""
    latent = 1 / clock.audio_rate
    chunks = range(int(TEN_MINUTES / clock.chunk) + 1)
    errors = [clock.audio_latents(k) * latent - k * clock.chunk for k in chunks]
    assert all(0 <= e < latent for e in errors)
    assert chunks[-1] * clock.chunk > TEN_MINUTES - clock.chunk
    for k in chunks:  # so the middle of a latent, which is where it stands, leaves its chunk by less than half a latent
        span = clock.audio_slice(k)
        middles = [latent * (i + Fraction(1, 2)) for i in range(span.start, span.stop)]
        assert all(k * clock.chunk < middle < (k + 1) * clock.chunk + latent / 2 for middle in middles)


def test_a_fixed_count_would_drift() -> None:
    """The reason for the table: 11 audio latents for each 3 video latents are 22 ms a second late."""
    seconds = Fraction(11) / STABLE_AUDIO.audio_rate - STABLE_AUDIO.chunk
    assert float(seconds / STABLE_AUDIO.chunk) == pytest.approx(0.0217, abs=5e-4)
    counts = {STABLE_AUDIO.audio_latents(k + 1) - STABLE_AUDIO.audio_latents(k) for k in range(1200)}
    assert counts == {10, 11}


@given(clock=clocks, chunks=st.integers(1, 200))
def test_chunks_partition_all_latents(clock: Timeline, chunks: int) -> None:
    numbers = [FIRST_FRAME_CHUNK, *range(chunks)]
    for slices, total in (
        ([clock.video_slice(k) for k in numbers], clock.video_latents(chunks)),
        ([clock.audio_slice(k) for k in numbers], clock.audio_latents(chunks)),
    ):
        assert slices[0].start == 0
        assert slices[-1].stop == total
        assert all(a.stop == b.start for a, b in pairwise(slices))
    assert clock.video_slice(FIRST_FRAME_CHUNK) == slice(0, 1)
    assert clock.audio_slice(FIRST_FRAME_CHUNK) == slice(0, 0)


@given(clock=clocks, chunk=st.integers(0, 5000))
def test_a_latent_belongs_to_the_chunk_in_which_its_span_starts(clock: Timeline, chunk: int) -> None:
    begin, end = chunk * clock.chunk, (chunk + 1) * clock.chunk
    audio = clock.audio_slice(chunk)
    starts = [i / clock.audio_rate for i in range(audio.start - 1, audio.stop + 1)]
    assert all(begin <= s < end for s in starts[1:-1])
    assert starts[0] < begin
    assert starts[-1] >= end
    video = clock.video_slice(chunk)
    starts = [Fraction(1 + (i - 1) * clock.video_stride, clock.fps) for i in range(video.start, video.stop)]
    assert all(begin <= s < end for s in starts)


@given(clock=clocks, chunks=st.integers(1, 200))
def test_the_latents_span_all_frames(clock: Timeline, chunks: int) -> None:
    """1 + 4k frames -> 1 + k latents: the first latent spans one frame, the others `video_stride`."""
    assert 1 + (clock.video_latents(chunks) - 1) * clock.video_stride == clock.frames(chunks)
    assert clock.seconds(chunks) == pytest.approx(float(chunks * clock.chunk + Fraction(1, clock.fps)))
    assert clock.samples(chunks) >= chunks * clock.chunk * clock.sample_rate > clock.samples(chunks) - clock.audio_hop


@given(clock=clocks, chunks=st.integers(1, 20))
def test_times_are_the_middles_of_spans(clock: Timeline, chunks: int) -> None:
    """Rebuild every span from the middles alone: they lie end to end on the clock."""
    video = clock.video_times(slice(0, clock.video_latents(chunks)))
    edge = 0.0
    for i, middle in enumerate(video):
        half = (1 if i == 0 else clock.video_stride) / clock.fps / 2
        assert middle - half == pytest.approx(edge, abs=1e-9)
        edge = middle + half
    assert edge == pytest.approx(clock.seconds(chunks), abs=1e-9)
    audio = clock.audio_times(slice(0, clock.audio_latents(chunks)))
    assert audio[0] == pytest.approx(clock.audio_hop / clock.sample_rate / 2)
    assert all(b - a == pytest.approx(clock.audio_hop / clock.sample_rate) for a, b in pairwise(audio))


@given(clock=clocks, frames=st.integers(0, 2000), samples=st.integers(0, 2_000_000))
def test_chunks_in_is_the_largest_count_that_fits(clock: Timeline, frames: int, samples: int) -> None:
    n = clock.chunks_in(frames, samples)

    def fits(chunks: int) -> bool:
        return clock.frames(chunks) <= frames and clock.samples(chunks) <= samples

    assert n >= 0
    assert n == 0 or fits(n)
    assert not fits(n + 1)


@given(clock=clocks, chunks=st.integers(1, 30))
def test_a_clip_of_exactly_n_chunks_holds_n(clock: Timeline, chunks: int) -> None:
    frames, samples = clock.frames(chunks), clock.samples(chunks)
    assert clock.chunks_in(frames, samples) == chunks
    assert clock.chunks_in(frames - 1, samples) == chunks - 1
    assert clock.chunks_in(frames, samples - 1) == chunks - 1


@given(clock=clocks, first=st.integers(0, 5000), chunks=st.integers(1, 8))
def test_a_layout_is_a_window_of_the_whole_clock(clock: Timeline, first: int, chunks: int) -> None:
    layout = Layout(clock, chunks, first)
    for (index, times), slice_of, times_of in (
        (layout.video(with_first_frame=False), clock.video_slice, clock.video_times),
        (layout.audio(), clock.audio_slice, clock.audio_times),
    ):
        want = [(k, t) for k in layout.chunk_range for t in times_of(slice_of(k))]
        assert list(zip(index.tolist(), times.tolist(), strict=True)) == want, "exact: times are fp64"
    with_first, _ = layout.video(with_first_frame=True)
    assert with_first.tolist() == [FIRST_FRAME_CHUNK, *layout.video(with_first_frame=False)[0].tolist()]


@pytest.mark.parametrize("name", ["fps", "video_stride", "sample_rate", "audio_hop", "chunk_frames"])
def test_rates_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"timeline.{name}=0"):
        Timeline(**{name: 0})


def test_a_chunk_is_whole_video_latents_and_a_clip_has_a_chunk() -> None:
    with pytest.raises(ValueError, match="multiple of video_stride=4"):
        Timeline(chunk_frames=10)
    with pytest.raises(ValueError, match="at least one chunk"):
        Layout(Timeline(), 0)
