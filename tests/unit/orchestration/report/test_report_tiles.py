"""The first screen's answers, for figures whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from mutual_forcing.orchestration.report.evaluation import Change, Evaluated, Row, command_for
from mutual_forcing.orchestration.report.plots import Interval
from mutual_forcing.orchestration.report.sections import Mode, StageTime, SyncRow
from mutual_forcing.orchestration.report.tiles import Ends, Normal, cost, drifts, fast, in_sync, learned
from mutual_forcing.orchestration.report.words import between, signed

FELL, ROSE, STOOD = Ends("joint", 3.0, 2.0), Ends("mutual", 1.0, 1.2), Ends("mutual", 1.0, 0.99)


@pytest.mark.parametrize(
    ("ends", "normal", "verdict", "state"),
    [
        ([FELL], None, "Yes", "good"),
        ([FELL, STOOD], None, "Yes", "good"),
        ([STOOD], None, "Hardly", "open"),
        ([FELL, ROSE], None, "In part", "bad"),
        ([ROSE], None, "No", "bad"),
        ([Ends("joint", 1.0, math.nan)], None, "No", "bad"),
        ([], None, "Not known", "open"),
        ([FELL], "Yes", "Yes", "good"),
        ([FELL], "–", "Yes", "good"),
        ([FELL], "No", "Yes", "bad"),
        ([STOOD], "No", "Hardly", "bad"),
    ],
)
def test_learnt(ends: list[Ends], normal: str | None, verdict: str, state: str) -> None:
    tile = learned(ends, None if normal is None else Normal(normal, "as it is"))
    assert (tile.verdict, tile.state) == (verdict, state)
    told = {"Yes": "Yes: as it is", "No": "No, as it is", "–": "– as it is"}
    assert tile.aside == (None if normal is None else ("Is my loss normal?", told[normal]))


def test_a_small_fall_shows_as_one() -> None:
    assert [learned([Ends("mutual", 1.2541, after)], None).figure for after in (1.1, 1.2531, 1.25409)] == [
        "mutual 1.25 → 1.10",
        "mutual 1.254 → 1.253",
        "mutual 1.2541 → 1.2541",
    ]


def test_the_figure_of_learning_is_that_of_the_stage_that_decides_and_all_are_told() -> None:
    assert learned([FELL, STOOD], None).figure == "joint 3.00 → 2.00", "not the one that hardly fell, below a Yes"
    assert learned([ROSE, FELL], None).figure == ROSE.words, "nor one that fell, below an In part"
    tile = learned([FELL, replace(ROSE, title=" (with DMD)")], None)
    assert tile.figure == "mutual (with DMD) 1.00 → 1.20"
    assert tile.detail == "1 of 2 stages end at a lower loss than they began: joint 3.00 → 2.00, mutual (with DMD) 1.00 → 1.20"


def sync_row(low: float, high: float, count: int = 12, title: str = "FEW 4") -> SyncRow:
    return SyncRow(title, 0.5, 0.3, Interval(0.2, low, high), 0.0, count)


@pytest.mark.parametrize(
    ("row", "verdict", "state"),
    [
        (sync_row(0.1, 0.3), "Yes", "good"),
        (sync_row(-0.1, 0.3), "Not shown", "open"),
        (sync_row(-0.3, -0.1), "No", "bad"),
        (sync_row(0.2, 0.2, count=7), "Too few clips", "open"),
    ],
)
def test_in_sync(row: SyncRow, verdict: str, state: str) -> None:
    tile = in_sync([sync_row(0.3, 0.5, title="Real"), row, sync_row(0.4, 0.5, title="MULTI")], "")
    assert (tile.verdict, tile.state, tile.figure, tile.section) == (verdict, state, "+0.20", "sync")
    assert tile.detail.startswith("FEW 4: own pairs correlate 0.50, shuffled 0.30; gap ")
    assert tile.detail.endswith("; real clips: gap 0.20")


def test_sync_that_does_not_apply_has_no_figure() -> None:
    tile = in_sync([], "on real faces it says nothing")
    assert (tile.verdict, tile.figure, tile.detail) == ("Does not apply", "", "on real faces it says nothing")
    assert in_sync([sync_row(0.3, 0.5, title="Real")], "").verdict == "Not measured"


def evaluated(apart: Interval | None = None, gap: Interval | None = None, windows: tuple[str, ...] = ("0-5 s", "15-25 s")) -> Evaluated:
    rows = (Row("sync_gap", "", Interval(0.5, 0.4, 0.6), (gap, None)),)
    change = None if apart is None else Change("Distance", windows[0], windows[-1], apart)
    return Evaluated("evaluation/evaluation.json", "", "mutual-forcing evaluate", 16, windows, rows, change)


def test_an_evaluation_tells_the_sync_of_real_faces() -> None:
    tile = in_sync([], "on real faces it says nothing", evaluated(gap=Interval(0.3, 0.1, 0.5)))
    assert (tile.verdict, tile.figure, tile.section) == ("Yes", "+0.30", "evaluation")
    assert tile.detail == "gap to other clips' voices, 0-5 s, [0.10, 0.50], 16 clips; real clips: gap 0.50"
    assert in_sync([], "", evaluated(gap=Interval(0.3, -0.1, 0.5))).verdict == "Not shown"
    assert in_sync([], "", evaluated(gap=Interval(0.3, math.nan, math.nan))).verdict == "Too few clips"
    assert in_sync([], "", replace(evaluated(gap=Interval(0.3, 0.1, 0.5)), clips=7)).verdict == "Too few clips"
    assert in_sync([], "nothing", evaluated(gap=None)).verdict == "Does not apply"


@pytest.mark.parametrize(
    ("apart", "verdict", "state"),
    [
        (Interval(0.3, 0.1, 0.5), "Yes", "bad"),
        (Interval(-0.3, -0.5, -0.1), "No", "good"),
        (Interval(0.3, -0.1, 0.5), "Not shown", "open"),
        (Interval(0.0, 0.0, 0.0), "Not shown", "open"),
        (Interval(0.3, math.nan, math.nan), "Too few clips", "open"),
    ],
)
def test_drift(apart: Interval, verdict: str, state: str) -> None:
    tile = drifts(evaluated(apart), "")
    assert (tile.verdict, tile.state, tile.figure, tile.section) == (verdict, state, signed(apart.value), "evaluation")
    assert tile.detail == f"Distance, 15-25 s minus 0-5 s {between(apart)}, 16 clips"


def test_drift_of_few_clips_decides_nothing() -> None:
    few = replace(evaluated(Interval(0.3, 0.1, 0.5)), clips=7)
    assert (drifts(few, "").verdict, drifts(replace(few, clips=8), "").verdict) == ("Too few clips", "Yes")


def test_drift_that_nobody_measured_names_the_command() -> None:
    tile = drifts(None, command_for(Path("my runs/one")))
    assert (tile.verdict, tile.figure) == ("Not measured", "")
    assert tile.command == "mutual-forcing evaluate 'my runs/one' --out 'my runs/one/evaluation'"
    assert (drifts(None, "", "it is torn").verdict, drifts(None, "", "it is torn").detail) == ("Not known", "it is torn")
    assert "it has one window" in drifts(evaluated(windows=("0-5 s",)), "").detail
    assert "no figure of drift" in drifts(evaluated(), "").detail


FEW, MULTI = Mode("FEW 4", 4.0, 30.0), Mode("MULTI", 32.0, 5.0)
STAGES = [StageTime("joint", 10, 100, 10.0), StageTime("mutual", 5, 40, 8.0)]


@pytest.mark.parametrize(
    ("rate", "fps", "verdict", "state"),
    [
        (24.0, 24.0, "Faster than it plays", "good"),
        (23.9, 24.0, "Slower than it plays", "open"),
        (24.0, None, "Measured", "open"),
        (None, 24.0, "Not measured", "open"),
    ],
)
def test_fast(rate: float | None, fps: float | None, verdict: str, state: str) -> None:
    tile = fast([replace(FEW, frames_per_s=rate)], fps, STAGES)
    assert (tile.verdict, tile.state) == (verdict, state)
    assert "training: 5.00 clips/s (mutual)" in tile.detail


def test_the_speed_is_that_of_the_first_mode_and_the_others_are_told() -> None:
    tile = fast([FEW, MULTI], 24.0, [])
    assert tile.figure == "30 frames/s"
    assert "MULTI: 32 evaluations a chunk, 5 frames/s" in tile.detail
    assert "training" not in tile.detail


def test_cost() -> None:
    tile = cost(7200.0, 2.0, (), "2 CPU cores, without a GPU", STAGES, [FEW, MULTI], 0.5)
    assert (tile.verdict, tile.figure) == ("2 h 00 min", "4.00 core hours")
    assert tile.detail == (
        "on 2 CPU cores, without a GPU; 18 s of it in training steps; network evaluations a chunk of 0.5 s: 4 with FEW 4, 32 with MULTI "
        "(a guided step is two)"
    )
    assert cost(7200.0, 16.0, ("H", "H"), "", [], [], None).figure == "4.00 GPU hours"
    assert cost(7200.0, None, (), "", [], [], None).figure == ""
    assert cost(None, 2.0, (), "", STAGES, [FEW], 0.5).verdict == "Not known"
