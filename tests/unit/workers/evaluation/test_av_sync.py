"""Lags that were put in come out, own pairs stand out, shuffled ones are chance, and what has no face or voice says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from evaluation_material import FPS, PACK, character, clip, delayed, moving, noise, person

from mutual_forcing.workers.evaluation.av_sync import AVSync
from mutual_forcing.workers.evaluation.clip import EvalClip, NotApplicable

SYNC = AVSync()
FRAME_MS = 1000 / FPS


def lags(clips: list[EvalClip]) -> list[float]:
    return [figures["sync_lag_ms"] for figures in SYNC.of_each([SYNC.keep(c) for c in clips])]


@pytest.mark.parametrize("offset", [-400, -200, -100, -40, 0, 40, 100, 200, 400])
def test_an_injected_offset_is_found_within_a_frame(offset: int) -> None:
    late = [replace(c, samples=delayed(c.samples, offset / 1000)) for c in map(character, range(8))]
    errors = np.array(lags(late)) - offset
    assert np.abs(errors).max() < FRAME_MS / 3, "measured: at most 8 ms"


def test_absolute_lags_are_those_without_sign() -> None:
    [figures] = SYNC.of_each([SYNC.keep(replace(character(0), samples=delayed(character(0).samples, -0.2)))])
    assert figures["sync_lag_abs_ms"] == -figures["sync_lag_ms"] == pytest.approx(200, abs=10)


def test_own_voices_stand_out_and_those_of_others_are_chance() -> None:
    clips = [character(i) for i in range(10)]
    shuffled = [replace(c, samples=clips[i - 1].samples) for i, c in enumerate(clips)]
    own, others = (SYNC.of_each([SYNC.keep(c) for c in some]) for some in (clips, shuffled))
    assert np.mean([f["sync_correlation"] for f in own]) > 0.75
    assert np.mean([f["sync_gap"] for f in own]) > 0.35
    assert abs(np.mean([f["sync_gap"] for f in others])) < 0.1


def test_the_gap_is_the_mean_over_all_other_pairings() -> None:
    """Mean over clips of the gap = mean of the own heights - mean of all others, which `matched_and_shuffled` defines."""
    kept = [SYNC.keep(character(i)) for i in range(4)]
    heights = np.array([[a.height(b) for b in kept] for a in kept])
    off = ~np.eye(4, dtype=bool)
    gaps = [f["sync_gap"] for f in SYNC.of_each(kept)]
    assert np.mean(gaps) == pytest.approx(heights[~off].mean() - heights[off].mean())


def test_chance_is_the_same_in_windows_of_other_lengths() -> None:
    """Voices of others over 5 and over 10 s: without stretches the longer window would have a third less, and would look worse."""

    def joined(a: int, b: int) -> EvalClip:
        one, two = character(a), character(b)
        frames, samples = np.concatenate([one.frames, two.frames]), np.concatenate([one.samples, two.samples])
        return replace(one, frames=frames, samples=samples)

    long = [SYNC.keep(joined(i, i + 10).cut(0, 10)) for i in range(8)]
    short = [SYNC.keep(joined(i, i + 10).cut(0, 5)) for i in range(8)]
    chances = [np.mean([kept[i].height(kept[i - 1]) for i in range(8)]) for kept in (short, long)]
    assert chances[0] == pytest.approx(chances[1], rel=0.25)
    assert long[0].curves(long[1]).shape == (2, 25)


def test_silence_and_a_still_mouth_are_out_of_sync() -> None:
    silent = replace(character(0), samples=np.zeros_like(character(0).samples))
    still = replace(character(0), frames=np.repeat(character(0).frames[:1], 120, axis=0))
    for bad in (silent, still):
        assert SYNC.of_each([SYNC.keep(bad)]) == [{"sync_correlation": 0.0}], "one clip alone: no lag, and no gap"


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (clip(moving(60)), "needs pictures and sound"),
        (clip(samples=noise(2)), "needs pictures and sound"),
        (clip(moving(30), noise(1.25)), "too short"),
        (clip(moving(60), noise(2.5)), "a face in 0 % of the pictures"),
    ],
)
def test_where_it_does_not_apply_it_says_why(bad: EvalClip, why: str) -> None:
    with pytest.raises(NotApplicable, match=why):
        SYNC.keep(bad)


@pytest.mark.skipif(not PACK.is_dir(), reason="without the media beside the checkout")
@pytest.mark.parametrize("name", ["grid_bbaf2n.mpg", "grid_lbax4n.mpg"])
def test_the_mouth_of_a_person_is_found(name: str) -> None:
    real = person(name)
    for offset in (-200, 0, 200):
        [found] = SYNC.of_each([SYNC.keep(replace(real, samples=delayed(real.samples, offset / 1000)))])
        assert found["sync_correlation"] > 0.2
        assert "sync_lag_ms" not in found or found["sync_lag_ms"] - offset == pytest.approx(0, abs=100), "only a sure lag is told"
