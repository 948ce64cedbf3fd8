"""Which stages have ended: asked seldom of a store that may be away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_material import save_stage

from mutual_forcing.datasets.places.store import LocalStore, store_of
from mutual_forcing.orchestration import stage_ends
from mutual_forcing.orchestration.stage_ends import StageEnds
from mutual_forcing.workers.metrics import MetricSpool


class Asked:
    """A stage of three steps, its spool and its store, which counts questions, on a clock that stands."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.questions, self.away = 1000.0, 0, False
        self.store = store_of(folder / "checkpoints")
        self.spool = MetricSpool(folder / "metrics", "joint")
        self.ends = StageEnds(self.store, folder / "metrics", {"joint": 3}, lambda: self.now)
        there = LocalStore.names

        def names(store: LocalStore, prefix: str = "") -> dict[str, int]:
            self.questions += 1
            if self.away:
                raise OSError("away")
            return there(store, prefix)

        monkeypatch.setattr(LocalStore, "names", names)

    def finish(self) -> None:
        save_stage(self.store, "joint", 3, {}, {"ema": {"x": torch.zeros(1)}})
        self.questions = 0


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(tmp_path, monkeypatch)


def test_nothing_is_asked_before_the_last_step(asked: Asked) -> None:
    for step in range(2):
        asked.spool.write(step, {"loss": 1.0})
        asked.now += 1000
        assert not asked.ends.ended("joint")
    asked.spool.note(0, "x" * 1000)
    assert not asked.ends.ended("joint")
    assert asked.questions == 0


def test_from_then_on_once_a_minute_until_it_has_ended(asked: Asked) -> None:
    asked.spool.write(2, {"loss": 1.0})
    for _ in range(5):
        assert not asked.ends.ended("joint")
    assert asked.questions == 1
    asked.finish()
    assert not asked.ends.ended("joint")
    asked.now += stage_ends.PAUSE
    assert asked.ends.ended("joint")
    before = asked.questions
    assert before > 0
    asked.now += 1000
    assert asked.ends.ended("joint")
    assert asked.questions == before


def test_what_has_ended_stays_so_when_the_store_goes_away(asked: Asked) -> None:
    asked.away = True
    assert asked.ends.look() == []
    asked.away = False
    asked.finish()
    known = asked.ends.look()
    assert [stage["name"] for stage in known] == ["joint"]
    asked.away = True
    assert asked.ends.look() == known
    assert asked.ends.ended("joint")
