"""Figures of sets: intervals that cover, pairing that helps, reasons instead of numbers, and equal sets at 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from evaluation_material import character, clip, moving

from mutual_forcing.workers.evaluation.builtin import BUILTIN, chosen
from mutual_forcing.workers.evaluation.clip import About, EvalClip, NotApplicable
from mutual_forcing.workers.evaluation.figures import Figure, difference, fewest_features, figures
from mutual_forcing.workers.evaluation.gathering import WHOLE, Gathered, Metric, Window
from mutual_forcing.workers.evaluation.intervals import centred_estimate, mean_estimate, redraws


def gathered(metrics: Sequence[Metric], clips: Sequence[EvalClip], *windows: Window) -> Gathered:
    found = Gathered(metrics, windows or [WHOLE])
    for one in clips:
        found.add(one)
    return found


def test_every_metric_says_what_it_is_and_names_are_told_apart() -> None:
    every = [about for metric in chosen([]) for about in metric.about]
    assert len({about.name for about in every}) == len(every) > 20
    assert all(about.protocol.startswith("mutual-forcing ") for about in every)
    assert [len(chosen([name])) for name in BUILTIN] == [1, 3, 3, 1, 1, 1, 1, 1]
    with pytest.raises(ValueError, match=r"--metrics: 'moton' is unknown; choose from sync, "):
        chosen(["moton"])


def test_a_set_against_itself_is_at_zero_and_a_worse_one_is_not() -> None:
    metrics = chosen(["random"])
    clips = [character(i).cut(0, 2) for i in range(8)]
    reference = gathered(metrics, clips)
    same = figures(gathered(metrics, clips), WHOLE, reference)
    dark = figures(gathered(metrics, [replace(c, frames=c.frames // 3, samples=c.samples / 30) for c in clips]), WHOLE, reference)
    for view in ("video", "audio", "joint"):
        name = f"frechet_random_{view}"
        value = same[name].estimate
        assert value is not None
        assert value.value == pytest.approx(0, abs=1e-5)
        apart = difference(same[name], dark[name])
        assert apart is not None
        assert 0 < apart.low < apart.value < apart.high


class Level:
    about = (About("level", "", None, "test"),)

    def of_clip(self, clip: EvalClip) -> dict[str, float]:
        if clip.samples.max() > 0.9:
            raise NotApplicable("too loud")
        return {"level": float(clip.samples[0])}


def levels(values: Sequence[float]) -> Figure:
    clips = [clip(samples=np.full(100, v), name=str(i)) for i, v in enumerate(values)]
    return figures(gathered([Level()], clips), WHOLE)["level"]


def test_what_does_not_apply_is_left_out_with_its_reason() -> None:
    some = levels([0.1, 0.95, 0.3])
    assert some.estimate is not None
    assert (some.estimate.value, some.clips, some.why) == (pytest.approx(0.2), 2, "too loud")
    assert math.isnan(some.values[1])
    none = levels([0.95, 0.99])
    assert (none.estimate, none.clips, none.why) == (None, 0, "too loud")
    assert difference(some, levels([0.95, 0.2, 0.95])) is None, "no clip has both"


def test_pairing_finds_what_clips_that_differ_hide() -> None:
    """The same 0.01 on clips that differ by 0.2: apart for sure when clips are paired, and only then."""
    base = np.random.default_rng(0).uniform(0.1, 0.6, 30)
    a, b = levels(base.tolist()), levels((base + 0.01).tolist())
    paired = difference(a, b)
    assert paired is not None
    assert paired.low > 0.009
    assert a.estimate is not None
    assert b.estimate is not None
    assert b.estimate.low < a.estimate.high


def test_a_silent_window_of_one_metric_does_not_touch_another() -> None:
    metrics = chosen(["motion", "sound"])
    one = figures(gathered(metrics, [clip(moving(60))]), WHOLE)
    assert one["motion"].estimate is not None
    assert (one["loudness_db"].estimate, one["loudness_db"].why) == (None, "needs sound")


def test_a_window_beyond_the_clips_has_no_figures() -> None:
    late = Window(9, 10)
    found = figures(gathered(chosen(["motion"]), [character(0)], late), late)
    assert (found["motion"].estimate, found["motion"].why) == (None, "the clip ends before 9 s")


def test_windows_of_different_length_compare_equal_counts() -> None:
    metrics, windows = chosen(["random"]), (Window(0, 1), Window(1, 4))
    clips = [character(i) for i in range(8)]
    made, reference = gathered(metrics, clips, *windows), gathered(metrics, clips)
    assert fewest_features([made, reference]) == [2, 2, 2]
    counts = []

    class Counting:
        about = (About("count", "", None, "test"),)

        def features(self, clip: EvalClip) -> np.ndarray:
            return np.zeros((int(clip.seconds * 2), 1))

        def between(self, real_ND: np.ndarray, generated_ND: np.ndarray) -> dict[str, float]:
            counts.append((len(real_ND), len(generated_ND)))
            return {"count": 0.0}

    made, reference = gathered([Counting(), Level()], clips, *windows), gathered([Counting(), Level()], clips)
    assert fewest_features([made, reference]) == [2, 0], "each metric has its own count"
    for window in windows:
        figures(made, window, reference, fewest_features([made, reference]))
    assert set(counts) == {(16, 16)}


class Means:
    """A metric of whole sets, as those with weights are."""

    about = (About("apart", "", False, "test"),)

    def of_sets(self, real: Sequence[EvalClip], generated: Sequence[EvalClip]) -> dict[str, float]:
        if len(generated) < 2:
            raise NotApplicable("needs two clips")
        means = [np.mean([c.samples.mean() for c in some]) for some in (real, generated)]
        return {"apart": float(means[1] - means[0])}


def test_metrics_of_whole_sets_have_a_value_and_no_interval() -> None:
    real, made = ([clip(samples=np.full(100, v), name=str(i)) for i in range(2)] for v in (0.1, 0.3))
    found = figures(gathered([Means()], made), WHOLE, same=gathered([Means()], real))["apart"]
    assert found.estimate is not None
    assert found.estimate.value == pytest.approx(0.2)
    assert math.isnan(found.estimate.low)
    alone = figures(gathered([Means()], made[:1]), WHOLE, same=gathered([Means()], real))["apart"]
    assert (alone.estimate, alone.why) == (None, "needs two clips")
    assert figures(gathered([Means()], made), WHOLE)["apart"].why == "there are no real clips to compare with"


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        found = mean_estimate(rng.normal(3, 1, 30))
        hits += found.low <= 3 <= found.high
    assert 0.88 <= hits / 200 <= 0.98, "the percentile interval of 30 clips is a little narrow"


def test_draws_are_centred_and_the_same_for_all() -> None:
    found = centred_estimate(1.0, np.linspace(5, 7, 101))
    assert (found.low, found.value, found.high) == (pytest.approx(0.05), 1.0, pytest.approx(1.95))
    np.testing.assert_array_equal(redraws(7, 5), redraws(7, 5))
    np.testing.assert_array_equal(redraws(7, 5), redraws(7, 9)[:5])


@pytest.mark.parametrize("values", [[0.5], [0.5, math.nan], [0.4, 0.5, 0.5, 0.6]])
def test_few_clips_have_no_interval(values: list[float]) -> None:
    found = mean_estimate(np.array(values))
    assert (found.value, math.isnan(found.low), math.isnan(found.high)) == (0.5, True, True)
