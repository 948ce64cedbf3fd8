"""Is my loss normal? What the report answers for runs whose answer is known."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from losses_material import make_run

from mutual_forcing.orchestration.config import RunConfig, with_settings
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.reference import read_reference
from mutual_forcing.orchestration.report.page import build_report


def words_of(run_dir: Path) -> tuple[str, str]:
    """The page, and its words."""
    page = build_report(run_dir).read_text(encoding="utf-8")
    return page, " ".join(re.sub(r"<[^>]+>", " ", page.split("<body>")[1]).split())


def replayed(folder: Path, config: RunConfig, factor: float = 1.0) -> Path:
    """A run with the mean curves of the shipped reference, its losses multiplied from the fourth step of `joint` on."""
    reference = read_reference("tiny")

    def change(stage: str, step: int, metrics: dict[str, Any]) -> None:
        steps = next(s.steps for s in config.stages if s.name == stage)
        curves = reference.curves[stage].items()
        metrics |= {name: means.mean(0)[min(step * means.shape[1] // steps, means.shape[1] - 1)] for name, means in curves}
        if stage == "joint" and step >= 3:
            metrics["loss"] *= factor

    return make_run(folder, config, change)


def test_the_report_answers_yes_for_a_run_like_the_reference_and_shades_every_curve(tmp_path: Path) -> None:
    page, words = words_of(replayed(tmp_path / "run", replace(recipe("tiny"), seed=77)))
    runs = f"{len(read_reference('tiny').seeds)} reference runs"
    assert f"Is my loss normal? Yes: all 14 losses of 4 stages end within what {runs} showed" in words
    assert f"Is my loss normal? Yes: all 3 losses are within what {runs} showed." in words
    assert page.count("<polygon") == sum(map(len, read_reference("tiny").curves.values()))
    assert "its seed is one of theirs" not in words
    assert "Where the normal range comes from" in words
    assert "mutual-forcing train tiny --set seed=" in words


def test_the_report_says_that_the_seed_is_one_of_the_references(tmp_path: Path) -> None:
    seed = read_reference("tiny").seeds[0]
    assert "showed; its seed is one of theirs" in words_of(replayed(tmp_path / "run", replace(recipe("tiny"), seed=seed)))[1]


def test_the_report_answers_no_and_says_which_loss_and_from_where(tmp_path: Path) -> None:
    _, words = words_of(replayed(tmp_path / "run", replace(recipe("tiny"), seed=77), factor=2.0))
    assert "Is my loss normal? No, in 1 of 4 stages: joint: total is 2× the reference from step 3 on" in words
    assert "Is my loss normal? No: total is 2× the reference from step 3 on." in words
    assert re.search(r"total: above the reference from step 3 on \(mean [\d.]+ against [\d.]+\)", words)
    assert "above, 2×" in words


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["data.media=/my/clips"], "the media are yours, not the recipe's; levels may differ"),
        (["objective.w_fm=2", "model.depth=3"], "model.depth is 3, not 2, objective.w_fm is 2.0, not 1.0; levels may differ"),
        (
            ["model.depth=3", "stages.joint.steps=6", "data.seed=4", "data.synthetic_count=9", "objective.w_fm=2", "objective.w_distil=2"],
            "data.seed is 4, not 0, data.synthetic_count is 9, not 8, model.depth is 3, not 2 and 2 more settings; levels may differ",
        ),
    ],
)
def test_a_run_unlike_the_reference_is_shown_beside_it_and_not_judged(tmp_path: Path, settings: list[str], reason: str) -> None:
    page, words = words_of(replayed(tmp_path / "run", with_settings(recipe("tiny"), [*settings, "seed=77"]), factor=2.0))
    words = words.replace("&#39;", "'")
    assert f"Is my loss normal? – Not judged: {reason}" in words
    assert f"Is my loss normal? Not judged: {reason}" in words
    assert "above" not in re.findall(r'<td class="n[^"]*">([^<]*)</td>', page)
    assert "2×" in words, "the comparison itself is still shown"
    assert 'class="band faint total"' in page


def test_a_stage_cut_into_other_parts_than_the_reference_is_drawn_without_a_range(tmp_path: Path) -> None:
    """The reference of a short stage has a part a step; a longer one has tenths."""
    page, words = words_of(replayed(tmp_path / "run", with_settings(recipe("tiny"), ["stages.joint.steps=25", "seed=77"])))
    assert "Not judged: stages.joint.steps is 25, not 6" in words
    others = [curves for stage, curves in read_reference("tiny").curves.items() if stage != "joint"]
    assert page.count("<polygon") == sum(map(len, others))


def test_a_recipe_without_a_reference_says_so(tmp_path: Path) -> None:
    page, words = words_of(make_run(tmp_path / "run", with_settings(recipe("tiny"), ["name=mine", "objective.w_distil=0.5"])))
    assert "Is my loss normal? – no reference curves ship for the recipe" in words
    assert "<polygon" not in page


def test_a_run_under_way_says_how_far_it_is(tmp_path: Path) -> None:
    run_dir = replayed(tmp_path / "run", replace(recipe("tiny"), seed=77))
    spool = run_dir / "metrics/mutual.jsonl"
    spool.write_text("\n".join(spool.read_text().splitlines()[:4]))
    assert "showed. So far: 4 of 6 steps." in words_of(run_dir)[1]
