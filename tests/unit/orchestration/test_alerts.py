"""Alerts: pure rules on a step's metrics, and a watcher that gives each of them once a stage while training runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mutual_forcing.orchestration.alerts import RULES, alerts
from mutual_forcing.orchestration.spool_watcher import SpoolWatcher
from mutual_forcing.workers.metrics import MetricSpool

HEALTHY = {"skipped": 0.0, "health/loudness": 0.9, "health/motion": 1.2, "health/saturation_video": 0.001, "health/mode_disagreement": 0.4}


def test_healthy_or_unknown_metrics_say_nothing() -> None:
    assert alerts(HEALTHY) == {}
    assert alerts({"lr": 1e9}) == {}


def test_a_number_that_is_not_finite_is_an_alert() -> None:
    """The spool writes it as null."""
    assert alerts({"health/loudness": None})["health/loudness"].startswith("health/loudness=not finite (healthy: 0.5 to 2)")


@pytest.mark.parametrize(
    ("metric", "value"), [("skipped", 1.0), ("health/loudness", 0.1), ("health/motion", 3.0), ("health/saturation_audio", 0.5)]
)
def test_a_sick_metric_is_named_with_its_value_and_a_remedy(metric: str, value: float) -> None:
    found = alerts(HEALTHY | {metric: value})
    assert list(found) == [metric]
    assert found[metric].startswith(f"{metric}={value:g} (healthy: ")
    assert "lower" in found[metric]


def test_every_rule_can_be_broken_and_kept() -> None:
    for rule in RULES:
        assert alerts({rule.metric: rule.high + 1})
        assert not alerts({rule.metric: rule.high})


def test_the_watcher_gives_each_alert_once_and_counts_steps(tmp_path: Path) -> None:
    said: list[str] = []
    steps: list[tuple[str, int, int]] = []
    spool = tmp_path / "mutual.jsonl"
    with SpoolWatcher(tmp_path, {"mutual": 3}, lambda *step: steps.append(step), said.append), spool.open("w") as file:
        for step in range(3):
            file.write(json.dumps({"step": step, "time": 0.0, "metrics": {"skipped": 1.0, "health/motion": 1.0}}) + "\n")
        file.write("{torn\n")
    assert said == ["mutual, step 0: " + alerts({"skipped": 1.0})["skipped"]]
    assert steps[-1] == ("train mutual", 3, 3)


def test_the_watcher_passes_on_what_the_workers_note(tmp_path: Path) -> None:
    said: list[str] = []
    with SpoolWatcher(tmp_path, {"mutual": 3}, lambda *_: None, said.append):
        spool = MetricSpool(tmp_path, "mutual", 2)
        spool.note(2, "checkpoint x: damaged")
        spool.write(2, {"loss": 1.0})
    assert said == ["mutual: checkpoint x: damaged"]


def test_a_training_whose_metrics_are_not_here_says_so_at_its_end(tmp_path: Path) -> None:
    said: list[str] = []
    with SpoolWatcher(tmp_path, {"joint": 2, "mutual": 3}, lambda *_: None, said.append):
        for stage in ("joint", "mutual"):
            for step in range(2):
                MetricSpool(tmp_path, stage, step).write(step, {"loss": 1.0})
    assert len(said) == 1
    assert said[0].startswith(f"mutual: trained, but its metrics end at step 2 of 3 in {tmp_path}")
    with pytest.raises(ZeroDivisionError), SpoolWatcher(tmp_path, {"mutual": 3}, lambda *_: None, pytest.fail):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "line",
    [
        "7",
        "[1]",
        '"x"',
        "null",
        "[" * 100_000,
        '{"a": 1}',
        '{"step": "1", "time": 0, "metrics": {"loss": 1}}',
        '{"step": 1, "time": 0, "metrics": 3}',
        '{"step": 1, "time": null, "metrics": {"loss": 1}}',
        '{"step": 1, "time": 0, "metrics": {"skipped": "x"}}',
        '{"step": 1, "time": 0, "metrics": {}, "note": 5}',
        '{"step": Infinity, "time": 0, "metrics": {"loss": 1}}',
    ],
)
def test_a_line_that_no_worker_wrote_does_not_stop_the_watcher(tmp_path: Path, line: str) -> None:
    steps: list[tuple[str, int, int]] = []
    (tmp_path / "mutual.jsonl").write_text(f"{line}\n" + json.dumps({"step": 1, "time": 0.0, "metrics": {"loss": 1.0}}) + "\n")
    with SpoolWatcher(tmp_path, {"mutual": 2}, lambda *step: steps.append(step), pytest.fail):
        pass
    assert steps[-1] == ("train mutual", 2, 2)
