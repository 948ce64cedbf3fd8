"""When a metric says that a training is sick: pure rules, read by the terminal while it runs and by the report afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Rule:
    """`metric` is healthy within [low, high]; `meaning` says what it means outside, and what to try."""

    metric: str
    low: float
    high: float
    meaning: str


RULES = (
    Rule("skipped", 0.0, 0.0, "a loss or a gradient was not finite and the step was skipped; lower the stage's optimizer.lr"),
    Rule("skipped_fake", 0.0, 0.0, "an update of the fake score was not finite and was skipped; lower objective.fake.lr_ratio"),
    Rule("health/pull", 0.0, 10.0, "the distillation outpulls flow matching; lower objective.w_distil or the guidance scales"),
    Rule("health/fake_lag", -inf, 0.5, "the fake score lags behind FEW; raise objective.fake.updates or fake.lr_ratio"),
    Rule("health/loudness", 0.5, 2.0, "what FEW generates is not as loud as real clips; lower objective.w_distil or the guidance scales"),
    Rule("health/motion", 0.5, 2.0, "what FEW generates does not move as real clips do; train `joint` longer, or lower objective.w_distil"),
    Rule("health/saturation_video", -1.0, 0.02, "generated pictures leave the range of real ones; lower the guidance scales"),
    Rule("health/saturation_audio", -1.0, 0.02, "generated sound leaves the range of real sound; lower the guidance scales"),
    Rule("health/mode_disagreement", 0.0, 1.0, "FEW and guided MULTI make different clips from the same noise; lower the guidance scales"),
)


def alerts(metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Metric -> one line, for each rule that a step's metrics break. None is what the spool writes for a number that is not finite."""
    broken = {}
    for rule in RULES:
        value = metrics.get(rule.metric, rule.low)
        if value is None or not rule.low <= value <= rule.high:
            shown = "not finite" if value is None else f"{value:.3g}"
            broken[rule.metric] = f"{rule.metric}={shown} (healthy: {_range(rule)}): {rule.meaning}"
    return broken


def _range(rule: Rule) -> str:
    return f"{rule.low:g}" if rule.low == rule.high else f"at most {rule.high:g}" if rule.low <= 0 else f"{rule.low:g} to {rule.high:g}"
