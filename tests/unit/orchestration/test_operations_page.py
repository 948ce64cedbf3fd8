"""docs/operations.md tells what the code does: its table of alerts has the rules, each with its range and its meaning."""

from __future__ import annotations

from pathlib import Path

from mutual_forcing.orchestration.alerts import RULES, alerts

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")


def test_the_table_of_alerts_is_the_rules() -> None:
    section = PAGE.split("\n## Alerts\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    assert rows[:2] == [["metric", "healthy", "outside"], ["---"] * 3]
    shown = [f"{metric.strip('`')}=not finite (healthy: {healthy}): {outside}" for metric, healthy, outside in rows[2:]]
    assert shown == [alerts({rule.metric: None})[rule.metric] for rule in RULES]
