"""What a run left on disk, read back with care.

A run may have been stopped half-way, resumed, or edited: nothing here is trusted. Every reader either returns checked values or raises
`UnavailableError`, whose message names the file, the field and the reason, so that a report can show it in place of the missing part.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_TEXT_BYTES = 256 * 2**20


class UnavailableError(Exception):
    """A part of the run cannot be shown; the message says why."""


class NotApplicableError(UnavailableError):
    """There is nothing to show because the measure says nothing about such a run; the message says why."""


class Entry:
    """One JSON object of a run file; accessors check types and name `where` and the field when they fail."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise UnavailableError(f"{where} should hold an object, not {type(value).__name__}")
        self.fields: dict[str, object] = value
        self.where = where

    def has(self, key: str) -> bool:
        return self.fields.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        if default is not None and not self.has(key):
            return default
        value = self.fields.get(key)
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def number(self, key: str) -> float:
        return self._number(key, self.fields.get(key))

    def numbers(self, key: str, count: int) -> tuple[float, ...]:
        values = self.fields.get(key)
        if not isinstance(values, list) or len(values) != count:
            raise self._wrong(key, f"{count} numbers")
        return tuple(self._number(key, value) for value in values)

    def flag(self, key: str) -> bool:
        value = self.fields.get(key)
        if not isinstance(value, bool):
            raise self._wrong(key, "true or false")
        return value

    def entry(self, key: str) -> "Entry":
        if not self.has(key):
            raise self._wrong(key, "an object")
        return Entry(self.fields[key], f"{self.where}: {key}")

    def entries(self, key: str) -> list["Entry"]:
        return [Entry(value, f"{self.where}: {key}[{index}]") for index, value in enumerate(self._list(key))]

    def texts(self, key: str) -> list[str]:
        return [str(value) for value in self._list(key)]

    def _list(self, key: str) -> list[object]:
        values = self.fields.get(key)
        if not isinstance(values, list):
            raise self._wrong(key, "a list")
        return values

    def _number(self, key: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, "a number")
        try:
            return float(value)
        except OverflowError:
            return math.inf

    def _wrong(self, key: str, expected: str) -> UnavailableError:
        if key not in self.fields:
            return UnavailableError(f"{self.where} has no {key!r}")
        return UnavailableError(f"{self.where}: {key!r} should be {expected}, not {str(self.fields[key])[:60]!r}")


@dataclass(frozen=True)
class StageInfo:
    """A stage of the run's configuration: its name, and the objective that it trains on."""

    name: str
    objective: str


@dataclass(frozen=True)
class Series:
    """One metric over the steps of a stage: `steps` and finite `values`, both `[n]`, in order of step."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class StageMetrics:
    """The metrics of a stage, and how much of them was unreadable or not a finite number."""

    stage: str
    series: dict[str, Series]
    torn_lines: int
    not_finite: int

    def total(self, name: str) -> float:
        """Sum of a metric over the stage, 0 when it was never logged."""
        return float(self.series[name].values.sum()) if name in self.series else 0.0


def read_run(run_dir: Path) -> Entry:
    """The run's own record. Raises ValueError, with the remedy, for a folder that is not a run."""
    try:
        return read_object(run_dir, "run.json")
    except UnavailableError as reason:
        raise ValueError(f"run folder {str(run_dir)!r}: {reason}; give the folder that `mutual-forcing train` made") from reason


def read_stages(run: Entry) -> tuple[StageInfo, ...]:
    """The stages of a run in their order, from the configuration in its record."""
    stages = run.entry("config").entries("stages")
    if not stages:
        raise UnavailableError("run.json: the configuration names no stage")
    return tuple(StageInfo(stage.text("name"), stage.text("objective", "unknown objective")) for stage in stages)


def read_object(run_dir: Path, name: str) -> Entry:
    """A JSON file of the run as an `Entry`."""
    return _parse(_read_text(run_dir, name), name)


def read_lines(run_dir: Path, name: str) -> tuple[list[Entry], int]:
    """A JSON-lines file as entries, and the number of torn lines: a killed writer leaves one, and a resumed one appends to it."""
    entries: list[Entry] = []
    torn = 0
    for number, line in enumerate(_read_text(run_dir, name).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entries.append(_parse(line, f"{name}:{number}"))
        except UnavailableError:
            torn += 1
    return entries, torn


def read_metrics(run_dir: Path, stage: str) -> StageMetrics:
    """All metrics of a stage. A step that was run again after a resume counts once, as it was last."""
    entries, torn = read_lines(run_dir, f"metrics/{stage}.jsonl")
    points: dict[str, dict[float, float]] = {}
    not_finite = 0
    for entry in entries:
        step, metrics = entry.number("step"), entry.entry("metrics")
        for name in metrics.fields:
            value = metrics.number(name) if metrics.has(name) else math.nan
            if math.isfinite(value) and math.isfinite(step):
                points.setdefault(name, {})[step] = value
            else:
                not_finite += 1
    if not points:
        raise UnavailableError(f"metrics/{stage}.jsonl holds no values: the stage did not reach its first step")
    return StageMetrics(stage, {name: _series(by_step) for name, by_step in points.items()}, torn, not_finite)


def contained_file(run_dir: Path, name: str) -> Path:
    """The regular file `name` inside the run folder; a name that leads out of it is refused."""
    path = (run_dir / name).resolve()
    if not path.is_relative_to(run_dir.resolve()):
        raise UnavailableError(f"{name} leads out of the run folder")
    if not path.is_file():
        raise UnavailableError(f"{name} is not there: the run stopped before it was written, or it was removed")
    return path


def _series(by_step: dict[float, float]) -> Series:
    ordered = sorted(by_step.items())
    return Series(np.array([step for step, _ in ordered]), np.array([value for _, value in ordered]))


def _read_text(run_dir: Path, name: str) -> str:
    path = contained_file(run_dir, name)
    if path.stat().st_size > MAX_TEXT_BYTES:
        raise UnavailableError(f"{name} is larger than {MAX_TEXT_BYTES // 2**20} MiB")
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UnavailableError(f"{name} cannot be read: {error.strerror}") from error


def _parse(text: str, where: str) -> Entry:
    try:
        return Entry(json.loads(text), where)
    except json.JSONDecodeError as error:
        raise UnavailableError(f"{where} is not valid JSON (line {error.lineno}: {error.msg})") from error
    except (RecursionError, ValueError) as error:  # nested without end, or an integer of thousands of digits
        raise UnavailableError(f"{where} is not sensible JSON ({type(error).__name__})") from error
