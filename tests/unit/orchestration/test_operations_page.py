"""The pages for operators tell what the code does: every alert with its range, meaning, cause and remedy, and lines that are printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mutual_forcing.orchestration.alerts import RULES, alerts

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def test_the_table_of_alerts_is_the_rules() -> None:
    section = PAGE.split("\n## Alerts\n")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    assert rows[:2] == [["metric", "healthy", "outside"], ["---"] * 3]
    shown = [f"{metric.strip('`')}=not finite (healthy: {healthy}): {outside}" for metric, healthy, outside in rows[2:]]
    assert shown == [alerts({rule.metric: None})[rule.metric] for rule in RULES]


def table(section: str, number: int) -> list[list[str]]:
    """Rows of a table of the guide, without its head."""
    blocks = re.findall(r"(?:^\|.*\n)+", GUIDE.split(f"\n## {section}\n")[1].split("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in blocks[number].splitlines()[2:]]


def test_every_alert_has_a_cause_a_way_to_be_sure_and_a_remedy() -> None:
    rows = table("When an alert comes", 0)
    assert [row[0].strip("`") for row in rows] == [rule.metric for rule in RULES]
    assert all(len(row) == 4 and all(row) for row in rows)


def test_every_alert_of_prometheus_has_them_too() -> None:
    groups = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    rows = table("When an alert comes", 2)
    assert [row[0].strip("`") for row in rows] == [rule["alert"] for group in groups for rule in group["rules"]]
    assert all(len(row) == 4 and all(row) for row in rows)


@pytest.mark.parametrize("row", table("When an alert comes", 1), ids=lambda row: row[0])
def test_a_line_that_is_explained_is_one_that_is_printed(row: list[str]) -> None:
    words = [part for part in re.findall("`(.*?)`", row[0])[0].split("...") if part.strip()]
    code = "".join(path.read_text(encoding="utf-8") for folder in ("orchestration", "workers") for path in (ROOT / folder).glob("*.py"))
    assert all(part.strip() in code for part in words), row[0]
