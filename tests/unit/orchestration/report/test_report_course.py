"""What the report tells of evaluations during training, from files that may be of other figures, or broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutual_forcing.datasets.places.storage import write_json
from mutual_forcing.orchestration.report.course import course_section
from mutual_forcing.orchestration.run_reader import UnavailableError

STAGES = ("pretrain", "mutual")


def note(run: Path, step: float, by: str, best: bool, stage: str = "mutual", **figures: float) -> None:
    (run / "course").mkdir(exist_ok=True)
    told = {name: {"value": value} for name, value in figures.items()}
    about = {"stage": stage, "step": step, "by": by, "best_so_far": best, "figures": told, "real": {}}
    write_json(run / "course" / f"{stage}-{len(list((run / 'course').iterdir())):08d}.json", about)


def test_a_run_that_went_on_with_another_figure_is_told_by_that_one(tmp_path: Path) -> None:
    note(tmp_path, 20, "drift", best=True, stage="pretrain", drift=9.0)
    note(tmp_path, 10, "drift", best=True, drift=3.0, sync_gap=0.1)
    note(tmp_path, 20, "drift", best=True, drift=2.0, sync_gap=0.2)
    note(tmp_path, 30, "sync_gap", best=True, drift=8.0, sync_gap=0.3)
    note(tmp_path, 40, "sync_gap", best=False, drift=1.0, sync_gap=0.25)
    found = course_section(tmp_path, STAGES)
    assert found is not None
    (stage,) = found.stages
    assert (found.by, stage.name, stage.count) == ("sync_gap", "mutual", 4)
    assert [(one.step, one.value) for one in (stage.first, stage.best, stage.last)] == [(10, 0.1), (30, 0.3), (40, 0.25)]


def test_a_broken_file_costs_no_other(tmp_path: Path) -> None:
    assert course_section(tmp_path, STAGES) is None
    note(tmp_path, float("inf"), "drift", best=True, drift=1.0)
    with pytest.raises(UnavailableError, match="'step' should be finite"):
        course_section(tmp_path, STAGES)
    note(tmp_path, 10, "drift", best=True, drift=3.0)
    (tmp_path / "course" / "mutual-00000009.json").write_text("{")
    found = course_section(tmp_path, STAGES)
    assert found is not None
    assert [(s.count, s.best.step) for s in found.stages] == [(1, 10)]
