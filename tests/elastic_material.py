"""A run of `tiny` whose number of workers may change, and what it leaves: metrics by stage, events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SETTINGS = (
    "workers.count=4",
    "workers.min_count=1",
    "workers.resize_every_s=5",
    "rollouts.max_age=0",
    "stages.mutual.steps=48",
    "checkpoint.every=4",
)


def words(folder: Path, *settings: str) -> list[str]:
    return ["train", "tiny", "--out", str(folder), *(word for s in (*SETTINGS, *settings) for word in ("--set", s))]


def spool(folder: Path, stage: str = "mutual") -> list[dict[str, Any]]:
    path = folder / "metrics" / f"{stage}.jsonl"
    text = path.read_text() if path.is_file() else ""
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [line for line in lines if line["metrics"]]


def events(folder: Path, kind: str) -> list[tuple[int, int, str]]:
    path = folder / "logs" / "events.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return [(e["before"], e["after"], e["why"]) for e in lines if e["kind"] == kind]
