"""The evaluation with which a training ends: the report tells from it whether clips drift, or a warning why not."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_material import untrained_run

from mutual_forcing.datasets.format.manifest import MANIFEST
from mutual_forcing.datasets.progress import silent
from mutual_forcing.orchestration.config import SamplesConfig
from mutual_forcing.orchestration.evaluation.at_end import PLACE, judge_at_end
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.report.evaluation import evaluation_section


def test_the_report_knows_whether_clips_drift_or_is_told_why_not(tmp_path: Path) -> None:
    run, warnings = tmp_path / "run", list[str]()
    untrained_run(run)
    judge_at_end(SamplesConfig(windows="0-1,1-2", window_clips=2), run, silent, warnings.append)
    found = evaluation_section(run)
    assert found is not None
    assert (found.windows, found.clips, warnings) == (("0-1 s", "1-2 s"), 2, [])
    assert found.change is not None
    assert found.command.startswith(f"mutual-forcing evaluate {run} --windows 0-1,1-2 --clips 2 --metrics drift,sync --out ")
    (run / "data" / MANIFEST).rename(run / "data" / "gone")
    judge_at_end(SamplesConfig(windows="0-1,1-2", window_clips=2), run, silent, warnings.append)
    assert evaluation_section(run) is None, "one of before the training went on says nothing"
    [warning] = warnings
    assert warning.startswith("samples.windows='0-1,1-2': clips were not judged, so the report does not tell whether they drift: ")
    judge_at_end(SamplesConfig(), run, silent, warnings.append)
    assert not (run / PLACE).exists()


def test_the_demo_ends_with_it_and_other_windows_are_refused_by_name() -> None:
    assert recipe("demo").samples.windows == "0-2.5,2.5-5"
    assert recipe("demo").samples.window_clips >= 8, "fewer decide no answer of the report"
    with pytest.raises(ValueError, match=r"samples\.windows"):
        SamplesConfig(windows="5-0")
