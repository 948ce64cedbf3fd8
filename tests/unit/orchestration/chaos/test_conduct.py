"""Events whose order nobody answered, and how long a run may take to be past one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.exceptions import GetTimeoutError

from mutual_forcing.orchestration.chaos import conduct, verdict
from mutual_forcing.orchestration.chaos.acts import Hand, Missed, Struck
from mutual_forcing.orchestration.chaos.conduct import DAY, PATIENCE, Happened, Wish, patience_for
from mutual_forcing.orchestration.chaos.schedule import Event
from mutual_forcing.orchestration.chaos.targets import Job
from mutual_forcing.workers.metrics import MetricSpool


class Silent(Hand):
    """Its order may be carried out, and nobody says so."""

    struck = 0
    error: Exception = GetTimeoutError("no answer")

    def strike(self, event: Event) -> Struck:
        self.struck += 1
        raise self.error


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Path]:
    """A run folder in which a stage goes on."""
    spool, over = MetricSpool(tmp_path / "metrics", "joint"), threading.Event()

    def train() -> None:
        step = 0
        while not over.wait(0.02):
            spool.write(step, {"loss": 1.0})
            step += 1

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    yield tmp_path
    over.set()
    thread.join()


def struck(folder: Path, error: Exception, monkeypatch: pytest.MonkeyPatch) -> tuple[Silent, Happened]:
    job = Job("01", str(folder), "", "node", ray.util.get_node_ip_address(), 1, "train", False, {})
    monkeypatch.setattr(conduct, "job_of", lambda _: job)
    monkeypatch.setattr(conduct, "TICK", 0.01)
    monkeypatch.setattr(verdict, "PAUSE", 0.0)
    hand = Silent(job, [], [], "none", "")
    hand.error = error
    wish = Wish(str(folder), 0.02, 1, (), 60, "none", False, patience_s=30.0)
    (happened,) = conduct._Run(wish, hand, ("joint",), 1).through([Event(0.1, "worker")], lambda _: None).happened
    return hand, happened


def test_an_order_without_an_answer_is_unknown_and_not_given_again(training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand, happened = struck(training, GetTimeoutError("no answer"), monkeypatch)
    assert hand.struck == 1
    record = happened.record(happened.at)
    assert record["unknown"]
    assert record["happened_at_s"] == 0.0
    assert "unknown whether it happened" in record["target"]
    assert record["recovery_s"] is not None, "training goes on, whether it was hit or not"


def test_an_order_that_hit_nobody_did_not_happen(training: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, happened = struck(training, Missed("no worker of the run lives"), monkeypatch)
    assert happened.missed
    assert not happened.record(0.0)["unknown"]
    assert happened.seen == "did not happen: no worker of the run lives"


def test_slow_steps_have_more_time() -> None:
    assert patience_for(0.0, 100) == patience_for(1.0, 100) == PATIENCE
    assert patience_for(60.0, 20) == 2 * 60 * 30
    assert patience_for(60.0, 100_000) == DAY


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_patience_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"^--patience="):
        Wish("/runs/one", 30, 1, (), 60, "auto", True, seconds)
