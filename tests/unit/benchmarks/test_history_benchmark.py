"""The sweep of the dial: its settings, its pairs, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mutual_forcing.benchmarks import _records, _runs, history
from mutual_forcing.benchmarks._toy_training import QUICK, TOY
from mutual_forcing.benchmarks._training import Scale

SEAMS = {f"seam_{kind}_{m}": 1.0 for kind in ("jump", "correlation") for m in ("video", "audio")}


def record(name: str, seed: int, early: float, late: float) -> dict[str, Any]:
    excess = {"0-5": early, "5-15": 9.0, "15-25": late}
    windows = {w: SEAMS | {"frechet_joint": x, "sync_minus_real": 0.0} for w, x in excess.items()}
    return {"name": name, "seed": seed, "few4": {"windows": windows}, "history_use": {"video": 2.0, "audio": 1.0}}


def test_every_setting_is_what_its_name_says() -> None:
    start, arms = history.arms(TOY)
    assert len({arm.name for arm in (start, *arms)}) == 12
    for arm in arms:
        h = arm.objective.history
        past = "true" if h.source == "real" else f"strength-{h.strength_low:g}-real-{h.real_share:g}"
        assert arm.name == f"{past}-{'text' if arm.text else 'no-text'}"
        assert h.strength_low == h.strength_high
        assert arm.objective.w_dmd == 0
        assert arm.few == (4,)
        assert not arm.multi
    assert [arm.text for arm in arms] == [True] * 7 + [False] * 4


def test_a_setting_is_paired_with_the_true_past_under_the_same_controls() -> None:
    made = [
        record("true-text", 0, 0.1, 0.2),
        record("true-text", 1, 0.1, 0.4),
        record("true-no-text", 0, 0.5, 0.9),
        record("strength-1-real-0-text", 0, 0.1, 0.3),
        record("strength-1-real-0-text", 1, 0.2, 0.5),
        record("strength-1-real-0-no-text", 0, 0.2, 0.6),
        record("strength-1-real-0-no-text", 7, 0.2, 5.0),
    ]
    records: _records.Records = {}
    for r in made:
        records.setdefault(r["name"], {})[r["seed"]] = r
    found = history.summarise(records)
    text, silent = found["strength-1-real-0-text"], found["strength-1-real-0-no-text"]
    assert text["drift"]["mean"] == pytest.approx(0.25)
    assert text["late_minus_true"]["mean"] == pytest.approx(0.1)
    assert text["late_minus_true"]["half"] == pytest.approx(0.0, abs=1e-9)
    assert text["drift_minus_true"]["mean"] == pytest.approx((0.1 + 0.0) / 2)
    assert silent["late_minus_true"] == {"mean": pytest.approx(-0.3), "half": None, "seeds": 1}, "seed 7 has no partner"
    assert found["true-text"]["late_minus_true"]["mean"] == 0


def test_the_table_has_a_column_for_every_figure(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- sweep -->\n<!-- /sweep -->\n")
    history.write_page(history.summarise({"joint": {0: record("joint", 0, 1.0, 2.0)}}), page)
    head, _, row = page.read_text().splitlines()[1:4]
    assert head.count("|") == row.count("|") == len(history.SHOWN) + 3
    assert row.startswith("| joint | 1.000 | 2.000 | 1.000 |  |  | 1.000 |")


def written(out: Path, scale: Scale, arm: _runs.Arm) -> Path:
    path = out / "seed-0" / f"{arm.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {"made_with": _runs.settings_of(scale, arm), "training": [{"step": 0}]}
    path.write_text(json.dumps(record(arm.name, 0, 1 / 3, 2 / 3) | more))
    return path


def test_records_are_read_with_the_settings_of_their_arms_alone(tmp_path: Path) -> None:
    start, arms = history.arms(QUICK)
    for arm in (arms[3], start):
        written(tmp_path, QUICK, arm)
    records = _records.read_records(tmp_path, QUICK, [start, *arms])
    assert list(records) == ["joint", arms[3].name], "in the order of the arms"
    with pytest.raises(ValueError, match=r"--out=.*joint\.json was measured with other settings; choose another folder"):
        _records.read_records(tmp_path, TOY, [start, *arms])
    path = written(tmp_path, QUICK, arms[2])
    path.write_text(path.read_text().replace('"sub_steps": 8', '"sub_steps": 2'))
    with pytest.raises(ValueError, match=rf"{arms[2].name}\.json was measured with other settings"):
        _records.read_records(tmp_path, QUICK, [start, *arms])
    path.unlink()
    with pytest.raises(ValueError, match="was measured with other settings"):
        _records.read_records(tmp_path, QUICK, [start, *arms[:2]])


def test_what_is_kept_is_what_pages_need(tmp_path: Path) -> None:
    start, arms = history.arms(QUICK)
    for arm in (start, *arms):
        written(tmp_path / "out", QUICK, arm)
    records = _records.read_records(tmp_path / "out", QUICK, [start, *arms])
    _records.keep(records, tmp_path / "kept.json")
    again = _records.kept(tmp_path / "kept.json")
    assert list(again) == list(records)
    assert again["joint"][0]["few4"]["windows"]["0-5"]["frechet_joint"] == 0.333333
    assert not {"training", "made_with"} & again["joint"][0].keys()
