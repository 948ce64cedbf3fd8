"""Figures reach the documentation as tables that nobody copies by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mutual_forcing.benchmarks._page import LATE, guidance_table, late_table, paired_table, put, shown, targets_table, windows_table


def figure(mean: float, half: float | None = 0.05) -> dict[str, Any]:
    return {"mean": mean, "half": half, "seeds": 1 if half is None else 5}


def recipes() -> dict[str, Any]:
    early, late = (
        {"frechet_joint": figure(x), "floor_joint": figure(0.5, None), **{name: figure(x + 1) for name in LATE}} for x in (0.125, 0.25)
    )
    use = {"guidance": [1.0], "guidances": {}, "history_use": {"video": figure(2.0), "audio": figure(1.5)}}
    guidances = {"1.0": figure(0.125), "1.5": figure(2.0)}
    return {
        "mutual": {"few4": {"0-5": early, "15-25": late}, "multi": {"0-5": late, "15-25": early}, **use, "guidances": guidances},
        "sc-tf": {"few4": {"0-5": late, "15-25": late}, **use},
    }


def test_a_figure_has_its_interval_where_there_is_one() -> None:
    assert shown(figure(0.1234)) == "0.123 ± 0.050"
    assert shown(figure(-0.1234, None)) == "-0.123"


def test_every_recipe_and_way_of_sampling_has_its_row() -> None:
    lines = windows_table(recipes()).splitlines()
    assert lines[0] == "| recipe | sampling | 0-5 s | 15-25 s | seeds |"
    assert lines[2:] == [
        "| mutual | FEW, 4 | 0.125 ± 0.050 | 0.250 ± 0.050 | 5 |",
        "| mutual | MULTI, 50, guidance 1 | 0.250 ± 0.050 | 0.125 ± 0.050 | 5 |",
        "| sc-tf | FEW, 4 | 0.250 ± 0.050 | 0.250 ± 0.050 | 5 |",
        "| real clips | subtracted above | 0.500 | 0.500 |  |",
    ]
    rows = late_table(recipes(), "multi").splitlines()
    assert len(rows) == 3, "sc-tf was not sampled in that way"
    assert rows[2].startswith("| mutual | 1.125 ± 0.050 |")
    assert rows[2].endswith("| 2.000 ± 0.050 | 1.500 ± 0.050 |")


def test_guidance_has_a_row_for_every_recipe_whose_multi_is_sampled() -> None:
    assert guidance_table(recipes()).splitlines() == [
        "| recipe | guidance 1 | guidance 1.5 | seeds |",
        "| --- | ---: | ---: | ---: |",
        "| mutual | 0.125 ± 0.050 | 2.000 ± 0.050 | 5 |",
    ]


def test_targets_and_pairs_have_a_row_each() -> None:
    targets = {"a": {"what": "jump", "wanted": "at most 1.1", "found": figure(1.0), "verdict": "met"}}
    assert targets_table(targets).splitlines()[2:] == ["| jump | at most 1.1 | 1.000 ± 0.050 | met |"]
    pairs = {"`mutual` - `sc-tf`": {"0-5": figure(-0.01), "15-25": figure(0.02, None)}}
    assert paired_table(pairs).splitlines()[2:] == ["| `mutual` - `sc-tf` | -0.010 ± 0.050 | 0.020 | 5 |"]


def test_a_table_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Head\n\n<!-- windows -->\nold\n<!-- /windows -->\n\ntail\n")
    for text in ("| new |", "| newer |"):
        put(page, "windows", text)
    assert page.read_text() == "# Head\n\n<!-- windows -->\n| newer |\n<!-- /windows -->\n\ntail\n"
    for broken in ("no markers", "<!-- /windows -->\n<!-- windows -->\n", "<!-- windows -->\n" * 2 + "<!-- /windows -->"):
        page.write_text(broken)
        with pytest.raises(ValueError, match="once each, in this order"):
            put(page, "windows", "x")
        assert page.read_text() == broken
