"""The targets are read as the issue of the ablation states them, and settings reach the objective or are refused."""

from __future__ import annotations

from typing import Any

import pytest

from mutual_forcing.benchmarks._settings import with_settings
from mutual_forcing.benchmarks._targets import targets
from mutual_forcing.model.objective import ObjectiveConfig

WINDOWS = ("0-5", "5-15", "15-25")


def record(early: float, late: float, **rest: float) -> dict[str, Any]:
    """What a recipe measured, the same in both ways of sampling."""
    seams = {f"seam_{kind}_{m}": 1.0 for kind in ("jump", "correlation") for m in ("video", "audio")}
    figures = {"sync_minus_real": 0.0} | seams | rest
    windows = {w: figures | {"frechet_joint": x} for w, x in zip(WINDOWS, (early, 0.5, late), strict=True)}
    return {"few4": {"windows": windows}, "multi": {"windows": windows}}


def verdicts(mutual: list[dict[str, Any]], **others: list[dict[str, Any]]) -> dict[str, str]:
    records = {"mutual": dict(enumerate(mutual))} | {name.replace("_", "-"): dict(enumerate(x)) for name, x in others.items()}
    return {name: x["verdict"] for name, x in targets(records).items()}


def test_a_good_run_meets_every_target() -> None:
    mutual, joint, worse = ([record(a, b) for _ in range(3)] for a, b in ((0.12, 0.2), (0.1, 0.9), (0.1, 0.3)))
    found = verdicts(mutual, joint=joint, sc_tf=worse, dmd_tf=worse, dmd_sf=worse)
    assert len(found) == 1 + 3 + 8 + 3
    assert set(found.values()) == {"met"}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("early", record(0.13, 0.2)),
        ("late-sc-tf", record(0.1, 0.31)),
        ("jump-few4-video", record(0.1, 0.2, seam_jump_video=1.11)),
        ("jump-multi-audio", record(0.1, 0.2, seam_jump_audio=1.11)),
        ("correlation-few4-audio", record(0.1, 0.2, seam_correlation_audio=0.89)),
        ("sync-5-15", record(0.1, 0.2, sync_minus_real=-0.031)),
    ],
)
def test_each_target_can_be_missed(name: str, bad: dict[str, Any]) -> None:
    joint, worse = ([record(0.1, 0.3) for _ in range(3)] for _ in range(2))
    assert verdicts([bad] * 3, joint=joint, sc_tf=worse)[name] == "missed"
    assert verdicts([bad], joint=joint, sc_tf=worse)[name] == "one seed"


@pytest.mark.parametrize("window", WINDOWS)
def test_one_torn_window_misses_the_seam_targets(window: str) -> None:
    torn = record(0.1, 0.2)
    for mode in ("few4", "multi"):
        broken = {"seam_jump_video": 1.2, "seam_correlation_video": 0.7}
        torn[mode] = {"windows": torn[mode]["windows"] | {window: torn[mode]["windows"][window] | broken}}
    found = verdicts([torn] * 3)
    seams = {f"{kind}-{mode}-video" for kind in ("jump", "correlation") for mode in ("few4", "multi")}
    assert {name for name, verdict in found.items() if verdict == "missed"} == seams


def test_a_mean_on_the_right_side_is_not_enough() -> None:
    """By more than the interval: here the pairs differ by -0.1, -0.1 and +0.1."""
    mutual, baseline = [record(0.1, x) for x in (0.2, 0.2, 0.4)], [record(0.1, 0.3) for _ in range(3)]
    assert verdicts(mutual, sc_tf=baseline)["late-sc-tf"] == "undecided"


def test_seeds_are_paired_and_missing_ones_left_out() -> None:
    records = {"mutual": {0: record(0.1, 0.2), 1: record(0.1, 0.4)}, "sc-tf": {1: record(0.1, 0.5), 2: record(0.1, 9.0)}}
    assert targets(records)["late-sc-tf"]["found"] == {"mean": pytest.approx(-0.1), "half": None, "seeds": 1}
    assert "early" not in targets(records), "no joint start was measured"


def test_settings_reach_the_objective() -> None:
    made = with_settings(ObjectiveConfig(), ["shortcut.sub_steps=8", "dmd.guidance=1", "teacher=frozen", "w_fm=0.5"])
    assert (made.shortcut.sub_steps, made.dmd.guidance, made.teacher, made.w_fm) == (8, 1.0, "frozen", 0.5)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("shortcut.sub_steps", "write PATH=VALUE"),
        ("shortcut.steps=2", "'steps' is no field; choose from weight, sub_steps"),
        ("shortcut=2", "'shortcut' has fields of its own"),
        ("teacher.name=ema", "'teacher' has no fields"),
        ("shortcut.sub_steps=2.5", "needs a value of the kind of 2"),
        ("shortcut.sub_steps=True", "needs a value of the kind of 2"),
        ("shortcut.sub_steps=0", "objective.shortcut.sub_steps=0"),
        ("teacher=nobody", "objective.teacher='nobody'"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        with_settings(ObjectiveConfig(), [setting])
