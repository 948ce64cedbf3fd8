"""docs/security.md is held to the tests that exist, and to the files that it speaks of."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TABLE = [
    [cell.strip() for cell in line.strip().strip("|").split("|")]
    for line in (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|")
]
ENTRIES = ("media", "lists", "sidecars", "datasets", "checkpoints", "pretrained", "configurations", "recipes", "plugins")
SERVICES = (
    "Ray",
    "jobs",
    "chaos: switches",
    "chaos: targets",
    "dashboards",
    "MLflow",
    "S3",
    "serve: API",
    "serve: page",
    "generated files",
    "reports",
    "logs",
    "secrets",
    "dependencies",
)


def test_every_way_in_has_a_line() -> None:
    assert TABLE[0] == ["entry", "attack", "what stops it", "tests"]
    named = [row[0] for row in TABLE[2:]]
    assert [entry for entry in (*ENTRIES, *SERVICES) if not any(name.startswith(entry) for name in named)] == []


@pytest.mark.parametrize("row", TABLE[2:], ids=[f"{row[0]}-{i}" for i, row in enumerate(TABLE[2:])])
def test_every_line_names_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[3])
    assert tests, "a claim without a test"
    assert re.sub(r"`tests/[\w/]+\.py::\w+`", "", row[3]).strip(" ,") == "", "nothing else"
    for file, name in tests:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file}::{name}"


def test_weaknesses_are_reported_in_private() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "private vulnerability reporting" in text
    assert not re.search(r"\S+@\S+\.\w+", text), "an address that nobody reads"


def test_the_audit_names_every_pin_and_fails_on_what_it_cannot_judge() -> None:
    dry = subprocess.run(["make", "-n", "audit", "READY="], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in dry.splitlines() if "pip-audit " in line and "--requirement" in line]
    assert {"--requirement", "constraints.txt", "--no-deps", "--disable-pip", "--strict"} <= set(line.split())
    ignored = re.search(r"^AUDIT_IGNORED :=(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert ignored is not None
    for name in ignored[1].split():
        assert re.search(rf"^# {re.escape(name)}: \S", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{name} is ignored without a reason"
