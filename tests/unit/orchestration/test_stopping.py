"""SIGTERM while a training runs: the workers hear of it, and the handler before has its say when they have ended, or at the second one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from mutual_forcing.orchestration import stopping
from mutual_forcing.orchestration.jobs.spec import JobSpec
from mutual_forcing.orchestration.stopping import OF_RAY, PATIENCE_S, Stopping, ToldToStop, patience_of


class Ended(BaseException):
    """What the handler before raises."""


@pytest.fixture
def training(ray_cluster: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(stopping, "ASK_S", 0.0)

    def handler(number: int, _: object) -> None:
        raise Ended(number)

    signal.signal(signal.SIGTERM, handler)
    return uuid4().hex


@pytest.fixture(autouse=True)
def _handler() -> object:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def ends_it(training: str, begin: Callable[[], object], patience: float | None = 60.0) -> None:
    """A signal in the middle of a training has the end that it has without the context."""

    def train() -> None:
        with Stopping(training, lambda _: None, patience):
            begin()
            terminate()
            time.sleep(60)

    with pytest.raises(Ended):
        train()


@pytest.mark.parametrize("failed", [False, True])
def test_workers_hear_of_it_and_the_signal_has_its_end_afterwards(training: str, failed: bool) -> None:
    warnings = list[str]()

    def train() -> None:
        with Stopping(training, warnings.append):
            told, other = ToldToStop(training), ToldToStop(uuid4().hex)
            assert not told()
            terminate()
            until(told)
            assert not other(), "another training goes on"
            if failed:
                raise RuntimeError("notice was given")

    with pytest.raises(Ended):
        train()
    assert len(warnings) == 1
    assert not ToldToStop(training)(), "a word for the training before is none for the next"


def test_the_same_word_twice_is_one_and_a_later_one_ends_it_at_once(training: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin() -> None:
        told = ToldToStop(training)
        terminate()
        terminate()
        until(told)
        monkeypatch.setattr(stopping, "ECHO_S", 0.0)

    ends_it(training, begin)


def test_what_has_not_begun_has_nothing_to_save(training: str) -> None:
    ends_it(training, lambda: None)


def test_patience_ends(training: str) -> None:
    ends_it(training, lambda: ToldToStop(training), patience=0.2)


@pytest.mark.parametrize(("stop_s", "patience"), [(3600, 3590), (600, 590), (20, 18), (1, 0.9)])
def test_a_job_has_nearly_all_the_time_that_it_was_submitted_with(stop_s: int, patience: float) -> None:
    assert patience_of(JobSpec("tiny", stop_s=stop_s).runtime_env("x.whl", [])["env_vars"]) == pytest.approx(patience)


@pytest.mark.parametrize("environment", [{}, {OF_RAY: ""}, {OF_RAY: "soon"}, {OF_RAY: "-5"}])
def test_without_a_job_it_has_its_own(environment: dict[str, str]) -> None:
    assert patience_of(environment) == PATIENCE_S


def test_the_environment_decides_where_nobody_does(training: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OF_RAY, "1")
    begun = time.monotonic()
    ends_it(training, lambda: ToldToStop(training), patience=None)
    assert time.monotonic() - begun < 50, "before what it trains ends by itself"
