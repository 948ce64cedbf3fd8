"""The rule that holds a loss against the reference, on curves whose answer is known; the shipped references, and how they are made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from losses_material import make_run

from mutual_forcing.orchestration.config import with_settings
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.reference import FOLDER, Verdict, band, edges, judge, part_means, read_reference, reference_for, unlike
from mutual_forcing.orchestration.reference_collect import collect, main, written
from mutual_forcing.orchestration.report.losses import LOSSES
from mutual_forcing.orchestration.run_reader import Series, UnavailableError

STEPS = 200
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.json"))


def curve(seed: int, steps: int = STEPS) -> Series:
    """A loss that falls from 2 to 1, as noisy as one of small batches."""
    at = np.arange(steps)
    return Series(at.astype(float), (1 + np.exp(-4 * at / steps)) * np.random.default_rng(seed).normal(1, 0.15, steps))


def scaled(series: Series, factor: float, first: int = 0, end: int = STEPS) -> Series:
    """The curve with the steps from `first` until before `end` multiplied."""
    inside = (series.steps >= first) & (series.steps < end)
    return Series(series.steps, np.where(inside, factor, 1.0) * series.values)


REFERENCE = band(np.array([part_means(curve(seed), STEPS) for seed in range(3)]))


def verdict(series: Series) -> Verdict:
    found = judge(series, STEPS, REFERENCE)
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(3, 23))
def test_another_seed_of_the_same_training_is_normal(seed: int) -> None:
    assert verdict(curve(seed)).state == "normal"


@pytest.mark.parametrize("seed", range(3, 8))
@pytest.mark.parametrize(("factor", "state"), [(2.0, "above"), (0.5, "below")])
def test_a_doubled_and_a_halved_loss_are_flagged_from_where_they_begin(seed: int, factor: float, state: str) -> None:
    for first in (0, 60):
        found = verdict(scaled(curve(seed), factor, first))
        assert (found.state, found.since, found.back) == (state, first, None)
        assert found.ratio == pytest.approx(factor, rel=0.1)


def test_one_tenth_alone_is_chance_and_two_that_ended_are_told_apart_from_now() -> None:
    assert verdict(scaled(curve(5), 2.0, 60, 80)).state == "normal"
    found = verdict(scaled(curve(5), 2.0, 60, 100))
    assert (found.state, found.since, found.back) == ("above", 60, 100)


def test_a_run_under_way_is_judged_by_the_tenths_that_have_ended() -> None:
    whole = scaled(curve(5), 2.0, 100)

    def until(end: int) -> Series:
        return Series(whole.steps[:end], whole.values[:end])

    assert judge(until(19), STEPS, REFERENCE) is None
    assert verdict(until(139)).state == "normal", "the second doubled tenth has not ended"
    assert verdict(until(140)).since == 100


def test_the_band_is_at_least_a_tenth_of_the_level_wide_and_grows_with_the_spread() -> None:
    three = band(np.array([[1.0, 2.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2.0, 1.0]]))
    assert (three.low.tolist(), three.high.tolist()) == (pytest.approx([0.9, 1.8, 0.9]), pytest.approx([1.1, 2.2, 1.1]))
    # Widths of 0 % and 60 % of their levels: 30 % is typical, 60 % the second's own.
    wide = band(np.array([[1.0, 1.4], [1.0, 2.0], [1.0, 2.6]]))
    assert (wide.low.tolist(), wide.high.tolist()) == (pytest.approx([0.7, 0.2]), pytest.approx([1.3, 3.8]))
    two = band(np.array([[1.0, 1.4], [1.0, 2.6]]))
    assert (two.low.tolist(), two.high.tolist()) == (pytest.approx([0.4, -1.0]), pytest.approx([1.6, 5.0]))


@pytest.mark.parametrize("seeds", [2, 3, 4])
@pytest.mark.parametrize("noise", [0.03, 0.1, 0.3])
def test_chance_alone_flags_few_curves_and_a_doubled_one_is_rarely_missed(seeds: int, noise: float) -> None:
    """Curves of ten steps that differ between seeds by independent noise: the hardest case, because no tenth tells of the next."""
    draw, steps = np.random.default_rng([seeds, round(100 * noise)]), np.arange(10.0)
    flagged = {1.0: 0, 2.0: 0}
    for _ in range(1000):
        others, own = band(draw.normal(1, noise, (seeds, 10))), draw.normal(1, noise, 10)
        for factor in flagged:
            found = judge(Series(steps, factor * own), 10, others)
            assert found is not None
            flagged[factor] += found.state != "normal"
    assert flagged[1.0] < 30
    assert flagged[2.0] > (750 if noise == 0.3 else 990)


@pytest.mark.parametrize("steps", [1, 3, 10, 24, 60, 317])
def test_the_parts_cover_a_stage_and_none_is_empty(steps: int) -> None:
    bounds = edges(steps)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, steps, min(10, steps) + 1)
    assert (np.diff(bounds) >= 1).all()
    assert np.isfinite(part_means(curve(0, steps), steps)).all()


def test_what_makes_a_run_another_training_is_named_and_the_rest_does_not_matter() -> None:
    base = recipe("tiny")

    def words(*assignments: str, stage: str = "mutual") -> list[str]:
        return unlike(with_settings(base, assignments), base, stage)

    same = ["seed=9", "workers.count=1", "rollouts.actors=1", "samples.clips=1", "stages.mutual.health_every=0", "name=mine"]
    assert words(*same) == []
    assert words("stages.joint.batch=8") == ["stages.joint.batch is 8, not 4"]
    assert words("stages.joint.batch=8", stage="pretrain-audio") == [], "a later stage"
    assert words("rollouts.max_age=3") == ["rollouts.max_age is 3, not 1"]
    assert words("rollouts.max_age=3", stage="joint") == [], "no stage up to it takes rollouts"
    assert words("data.media=clips", "model.depth=3") == ["the media are yours, not the recipe's", "model.depth is 3, not 2"]
    assert words("data.prepared=/mine")[0] == "the dataset is one that you prepared, not the recipe's"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_reference_is_of_todays_recipe(name: str) -> None:
    reference, config = read_reference(name), recipe(name)
    remedy = f"make references/{name}.json again (orchestration/reference_collect.py says how), or delete it"
    assert reference.recipe == name
    assert [unlike(config, reference.config, stage.name) for stage in config.stages] == [[] for _ in config.stages], remedy
    assert list(reference.curves) == [stage.name for stage in config.stages]
    assert len(set(reference.seeds)) == len(reference.seeds) >= 2
    for stage in config.stages:
        for means in reference.curves[stage.name].values():
            assert means.shape == (len(reference.seeds), min(10, stage.steps))
            assert np.isfinite(means).all()
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert written(json.loads(text)) == text


@pytest.mark.parametrize("name", [name for name in SHIPPED if len(read_reference(name).seeds) > 2])
def test_each_seed_of_a_shipped_reference_is_normal_beside_the_others_and_twice_its_loss_is_not(name: str) -> None:
    reference = read_reference(name)
    for stage, curves in reference.curves.items():
        for metric, means in curves.items():
            for place in range(len(means)):
                values, others = means[place], band(np.delete(means, place, axis=0))
                series = Series(np.arange(len(values), dtype=float), values)
                where = (stage, metric, reference.seeds[place])
                if metric in LOSSES:
                    found = judge(series, len(values), others)
                    assert found is not None
                    assert found.state == "normal", where
                if metric == "loss":
                    found = judge(Series(series.steps, 2 * values), len(values), others)
                    assert found is not None
                    assert found.state == "above", where


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [make_run(tmp_path / f"run-{seed}", replace(recipe("tiny"), seed=seed)) for seed in (1, 2)]


def test_runs_of_several_seeds_become_a_reference_that_reads_back(runs: list[Path], tmp_path: Path) -> None:
    made = collect(runs)
    assert made["seeds"] == [1, 2]
    assert made["commands"] == ["mutual-forcing train tiny --set seed=1", "mutual-forcing train tiny --set seed=2"]
    assert "skipped" not in made["curves"]["joint"]
    (tmp_path / "tiny.json").write_text(written(made))
    reference = read_reference("tiny", tmp_path)
    assert unlike(recipe("tiny"), reference.config, "mutual") == []
    logged = [json.loads(line)["metrics"]["loss"] for line in (runs[1] / "metrics/joint.jsonl").read_text().splitlines()]
    assert reference.curves["joint"]["loss"][1].tolist() == pytest.approx(logged, rel=1e-4), "six steps are six parts"
    with pytest.raises(UnavailableError, match=r"no reference curves ship for the recipe 'other' \(there are some for: tiny\)"):
        read_reference("other", tmp_path)


def test_a_recipe_that_trains_as_another_does_has_its_reference() -> None:
    """`mutual` is the demo under the name that the ablation gives it; `sc-tf` trains otherwise, and nothing ships for it."""
    assert reference_for(recipe("tiny")).recipe == "tiny"
    assert reference_for(recipe("mutual")).recipe == "demo"
    with pytest.raises(UnavailableError, match="no reference curves ship for the recipe 'sc-tf'"):
        reference_for(recipe("sc-tf"))


def test_a_reference_that_this_release_cannot_read_is_no_reference(runs: list[Path], tmp_path: Path) -> None:
    made = collect(runs)
    made["config"]["gone"] = 3
    (tmp_path / "tiny.json").write_text(written(made))
    with pytest.raises(UnavailableError, match=r"references/tiny\.json: the configuration is not one of this release: gone"):
        read_reference("tiny", tmp_path)


def at_step_two(metric: str, value: float | None) -> Callable[[str, int, dict[str, Any]], None]:
    def change(stage: str, step: int, metrics: dict[str, Any]) -> None:
        if (stage, step) == ("joint", 2):
            metrics[metric] = value

    return change


@pytest.mark.parametrize(
    ("metric", "value", "reason"),
    [("loss", None, "joint.jsonl: 1 values are not finite"), ("skipped", 1.0, "joint.jsonl: 1 steps were skipped")],
)
def test_a_run_with_broken_steps_becomes_no_reference(
    runs: list[Path], tmp_path: Path, metric: str, value: float | None, reason: str
) -> None:
    broken = make_run(tmp_path / "broken", replace(recipe("tiny"), seed=3), at_step_two(metric, value))
    with pytest.raises(ValueError, match=f"{re.escape(str(broken))}.*{reason}"):
        collect([*runs, broken])


def test_torn_missing_unfinished_repeated_single_and_foreign_runs_become_no_reference(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 run: a reference needs two"):
        collect(runs[:1])
    with pytest.raises(ValueError, match="tiny with seed 1, tiny with seed 1: give runs of one recipe, each of another seed"):
        collect([runs[0], make_run(tmp_path / "again", replace(recipe("tiny"), seed=1))])
    foreign = make_run(tmp_path / "foreign", replace(with_settings(recipe("tiny"), ["stages.joint.batch=8"]), seed=4))
    with pytest.raises(ValueError, match=r"foreign.*stages\.joint\.batch is 8, not 4; a reference is made of the recipe as it ships"):
        collect([*runs, foreign])
    spool = runs[1] / "metrics/joint.jsonl"
    lines = spool.read_text().splitlines()
    for kept, reason in (([*lines, lines[0][:20]], "1 torn lines"), (lines[:-1], "5 of 6 steps")):
        spool.write_text("\n".join(kept))
        with pytest.raises(ValueError, match=f"run-2.*{reason}"):
            collect(runs)
    record = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps(record | {"finished": False}))
    with pytest.raises(ValueError, match=r"run-2.*is not finished"):
        collect(runs)


def test_what_cannot_be_collected_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path)]) == 1
    assert re.fullmatch(r"error: run folder .*run\.json is not there.*\n", capsys.readouterr().err)
