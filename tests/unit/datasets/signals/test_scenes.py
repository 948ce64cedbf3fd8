"""Scenes are found where films were cut, and clips are planned between: as today by default, never across, and the same from a stream."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutual_forcing.datasets.drawn.synthetic import SyntheticConfig, make_character_clip
from mutual_forcing.datasets.signals.scenes import SceneConfig, SceneFinder, plan_clips, scene_starts
from mutual_forcing.model.timeline import Timeline

FPS = 24
CLOCK = Timeline()
WHOLE: tuple[tuple[int, int], ...] = ()


def person(index: int, frames: int) -> np.ndarray:
    return make_character_clip(SyntheticConfig(seconds=frames / FPS), index).frames


@pytest.fixture(scope="module")
def film() -> tuple[np.ndarray, list[int]]:
    """Four people, cut hard one after the other, and where they begin."""
    pytest.importorskip("scenedetect")
    parts = [person(index, count) for index, count in enumerate((40, 31, 55, 48))]
    return np.concatenate(parts), [40, 71, 126]


def test_hard_cuts_are_found_on_the_frame(film: tuple[np.ndarray, list[int]]) -> None:
    frames, cuts = film
    assert scene_starts(frames, FPS, SceneConfig()) == cuts


@pytest.mark.parametrize("block", [1, 7, 72])
def test_a_stream_gives_what_the_whole_gives(film: tuple[np.ndarray, list[int]], block: int) -> None:
    frames, cuts = film
    finder, found = SceneFinder(SceneConfig(), FPS), []
    for first in range(0, len(frames), block):
        settled = finder.settled
        fresh = finder.push(frames[first : first + block])
        assert all(start >= settled for start in fresh), "a start came that was called settled"
        found += fresh
        assert finder.settled <= first + block
        assert found == [cut for cut in cuts if cut < finder.settled]
    assert found + finder.finish() == cuts


def test_a_talking_head_is_one_scene() -> None:
    pytest.importorskip("scenedetect")
    assert scene_starts(person(5, 96), FPS, SceneConfig()) == []


@pytest.mark.parametrize("length", [1, 3])
def test_a_flash_is_no_scene_and_a_short_scene_is_one(length: int) -> None:
    pytest.importorskip("scenedetect")
    frames = person(1, 72).copy()
    frames[30 : 30 + length] = 250
    assert scene_starts(frames, FPS, SceneConfig()) == []
    assert scene_starts(frames, FPS, SceneConfig(flash_s=0)) != [], "without the rule, both of its edges are cuts"
    frames[30:50] = person(2, 24)[:20]
    assert scene_starts(frames, FPS, SceneConfig()) == [30, 50]


def test_a_dissolve_is_not_found() -> None:
    """What docs/data.md says: a limit, not a wish."""
    pytest.importorskip("scenedetect")
    share = np.linspace(0, 1, 24)[:, None, None, None]
    first, second = person(0, 48), person(1, 48)
    mixed = ((1 - share) * first[24:] + share * second[:24]).astype(np.uint8)
    assert scene_starts(np.concatenate([first[:24], mixed, second[24:]]), FPS, SceneConfig()) == []


@pytest.mark.parametrize(
    ("field", "value"), [("ratio", 1.0), ("ratio", float("nan")), ("min_change", 0.0), ("min_change", 256.0), ("flash_s", 3.0)]
)
def test_a_setting_that_means_nothing_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"data\.scenes\.{field}"):
        replace(SceneConfig(), **{field: value})


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    SceneConfig()
    with pytest.raises(ValueError, match=r"mutual-forcing\[scenes\]"):
        SceneConfig(detect=True)


# --- the plan ---


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 400), chunks=st.integers(1, 6), rate=st.sampled_from([(16000, 512), (44100, 2048)]))
def test_by_default_clips_follow_each_other_and_share_a_frame(frames: int, chunks: int, rate: tuple[int, int]) -> None:
    sample_rate, hop = rate
    clock = Timeline(sample_rate=sample_rate, audio_hop=hop)
    samples = round(frames * sample_rate / FPS)
    wanted = [
        (first, chunks)
        for first in range(0, frames, chunks * clock.chunk_frames)
        if first + clock.frames(chunks) <= frames and round(first * sample_rate / FPS) + clock.samples(chunks) <= samples
    ]
    assert plan_clips(frames, [], WHOLE, chunks, chunks, chunks, clock) == wanted


@st.composite
def plans(draw: st.DrawFn) -> dict:
    frames = draw(st.integers(1, 500))
    clip = draw(st.integers(1, 6))
    spans = [(a, a + length) for a, length in draw(st.lists(st.tuples(st.integers(0, 480), st.integers(1, 300)), max_size=4))]
    return {
        "frames": frames,
        "starts": draw(st.lists(st.integers(-5, 520), max_size=8)),
        "spans": spans,
        "clip_chunks": clip,
        "min_chunks": draw(st.integers(1, clip)),
        "stride_chunks": draw(st.integers(1, clip)),
        "timeline": CLOCK,
    }


def pieces(plan: dict) -> list[tuple[int, int]]:
    """The stretches between which nothing may cross."""
    found = []
    for first, end in plan["spans"] or [(0, plan["frames"])]:
        end = min(end, plan["frames"])
        edges = [first, *sorted({s for s in plan["starts"] if first < s < end}), end]
        found += [(a, b) for a, b in pairwise(edges) if a < b]
    return found


@settings(max_examples=100, deadline=None)
@given(plans())
def test_no_clip_crosses_and_none_is_missing(plan: dict) -> None:
    clips = plan_clips(**plan)
    assert clips == sorted(set(clips))
    step = CLOCK.chunk_frames
    for first, chunks in clips:
        end = first + CLOCK.frames(chunks)
        assert plan["min_chunks"] <= chunks <= plan["clip_chunks"]
        assert any(a <= first and end <= b for a, b in pieces(plan)), "a clip lies within one scene of one span"
    for a, b in pieces(plan):
        # Chunks of sound are whole latents, so at the very end of a piece one more chunk may not be there.
        fitting = max((n for n in range((b - a) // step + 1) if _fits(a, n, b)), default=0)
        covered = {n for first, chunks in clips if a <= first < b and (first - a) % step == 0 for n in _chunks(first - a, chunks)}
        if fitting >= plan["clip_chunks"]:
            left = fitting - len(covered & set(range(fitting)))
            assert left < max(plan["min_chunks"], plan["stride_chunks"]), "what is left over is too short for a clip"
        elif fitting >= plan["min_chunks"]:
            assert len(covered) >= fitting - 1


def _chunks(offset: int, chunks: int) -> range:
    return range(offset // CLOCK.chunk_frames, offset // CLOCK.chunk_frames + chunks)


def _fits(first: int, chunks: int, end: int) -> bool:
    sound = round(first * CLOCK.sample_rate / FPS) + CLOCK.samples(chunks) <= round(end * CLOCK.sample_rate / FPS)
    return chunks > 0 and sound and first + CLOCK.frames(chunks) <= end


@settings(max_examples=100, deadline=None)
@given(plans(), st.lists(st.integers(1, 500), max_size=6))
def test_what_is_planned_while_reading_is_the_beginning_of_the_plan(plan: dict, stops: list[int]) -> None:
    whole, before = plan_clips(**plan), []
    for read in sorted(stop for stop in stops if stop <= plan["frames"]):
        known = {**plan, "frames": read, "starts": [start for start in plan["starts"] if start < read]}
        now = plan_clips(**known, ended=False)
        assert now == whole[: len(now)]
        assert now[: len(before)] == before
        before = now


def test_reading_on_lets_clips_go_at_once() -> None:
    """61 frames are the first clip, whatever comes behind them."""
    assert plan_clips(61, [], WHOLE, 5, 5, 5, CLOCK, ended=False) == [(0, 5)]
    assert plan_clips(130, [100], WHOLE, 5, 2, 5, CLOCK, ended=False) == [(0, 5), (60, 3)], "the rest of a scene that is over"


def test_overlapping_and_variable_clips() -> None:
    assert plan_clips(109, [], WHOLE, 5, 5, 2, CLOCK) == [(0, 5), (24, 5), (48, 5)]
    assert plan_clips(125, [], WHOLE, 5, 1, 5, CLOCK) == [(0, 5), (60, 5)], "the 4 frames behind them are no chunk"
    assert plan_clips(150, [], WHOLE, 5, 2, 5, CLOCK) == [(0, 5), (60, 5), (120, 2)]
    assert plan_clips(150, [], WHOLE, 5, 3, 5, CLOCK) == [(0, 5), (60, 5)]
    assert plan_clips(90, [], [(10, 80), (0, 70)], 5, 5, 5, CLOCK) == [(0, 5), (10, 5)]


def test_the_rest_of_overlapping_clips_is_one_only_where_it_shows_more() -> None:
    assert plan_clips(85, [], WHOLE, 5, 1, 2, CLOCK) == [(0, 5), (24, 5)]
    assert plan_clips(97, [], WHOLE, 5, 1, 2, CLOCK) == [(0, 5), (24, 5), (48, 4)]


def test_a_clip_waits_for_those_before_it() -> None:
    """Of the second span all is known, of the first nothing yet: its clip comes first."""
    spans = [(0, 300), (10, 50)]
    assert plan_clips(60, [], spans, 5, 1, 5, CLOCK, ended=False) == []
    assert plan_clips(61, [], spans, 5, 1, 5, CLOCK, ended=False) == [(0, 5), (10, 3)]


@pytest.mark.parametrize(
    ("change", "words"),
    [({"min_chunks": 0}, "min_chunks=0"), ({"stride_chunks": 6}, "stride_chunks=6"), ({"spans": [(5, 5)]}, "span 5..5")],
)
def test_a_plan_that_means_nothing_is_refused(change: dict, words: str) -> None:
    good = {"frames": 100, "starts": [], "spans": [], "clip_chunks": 5, "min_chunks": 5, "stride_chunks": 5, "timeline": CLOCK}
    with pytest.raises(ValueError, match=words):
        plan_clips(**{**good, **change})
