"""Starting a training again, with a training that fails on command instead of Ray's."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray.train
import torch
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from mutual_forcing.datasets.places.store import LocalStore
from mutual_forcing.orchestration import failure_policy, fit
from mutual_forcing.orchestration.config import RunConfig, with_settings
from mutual_forcing.orchestration.elastic.change import Change
from mutual_forcing.orchestration.recipes import recipe
from mutual_forcing.orchestration.run_record import loop_config
from mutual_forcing.workers.notice import MoreRoom

CONFIG = with_settings(recipe("tiny"), ["workers.max_failures=4"])


class Trainings:
    """What each start of the training raises, in order; the ones after those end well. sizes: how many workers each has had; growing: for
    each, which sizes its rank 0 looks out for.
    """

    def __init__(self, *ends: Exception) -> None:
        self.ends, self.starts, self.said, self.lines, self.pools = list(ends), 0, list[str](), list[str](), list[Pool]()
        self.sizes, self.growing = list[int](), list[bool]()

    def __call__(self, *_: Any, **given: Any) -> Trainings:
        self.sizes.append(given["scaling_config"].num_workers)
        self.growing.append(given["train_loop_config"]["vacancy"] is not None)
        return self

    def fit(self) -> None:
        self.starts += 1
        if self.ends:
            raise self.ends.pop(0)


class Pool:
    """A rollout pool whose coordinator dies with each attempt, or serves them all."""

    def __init__(self, dies: bool, size: int) -> None:
        self.dies, self.size, self.closed = dies, size, False

    def serves(self) -> bool:
        return not self.dies

    def changes(self, since: int) -> tuple[int, list[Change], int]:
        """Asked for wherever a Ray is up, as one is where other tests ran before these."""
        return since, [], self.size

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Trainings]:
    def start(*ends: Exception, dies: bool = False, config: RunConfig = CONFIG) -> Trainings:
        trainings = Trainings(*ends)

        def pool(config: Any, loop: Any, size: int) -> Pool:
            trainings.pools.append(Pool(dies, size))
            return trainings.pools[-1]

        monkeypatch.setattr(fit, "TorchTrainer", trainings)
        monkeypatch.setattr(fit, "_rollouts", pool)
        say = lambda parts: trainings.lines.append("  ".join(parts))  # noqa: E731
        fit.fit(config, loop_config(config, tmp_path), tmp_path, lambda *_: None, trainings.said.append, say)
        return trainings

    return start


def lost_connection() -> Exception:
    return ray.train.WorkerGroupError("x", {0: RuntimeError("Connection reset by peer")})


@pytest.mark.parametrize("dies", [False, True])
def test_one_rollout_pool_serves_all_attempts_as_long_as_it_is_there(
    started: Callable[..., Trainings], monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    monkeypatch.setattr(failure_policy, "PAUSES", (0.0,))
    trainings = started(lost_connection(), lost_connection(), dies=dies)
    assert trainings.starts == 3
    assert len(trainings.pools) == (3 if dies else 1)
    assert all(pool.closed for pool in trainings.pools)


def of_ranks(error: Exception) -> Exception:
    return ray.train.WorkerGroupError("x", {0: error})


def test_each_start_has_as_many_workers_as_there_is_room_for_and_growth_is_no_failure(
    started: Callable[..., Trainings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No failure is allowed but the machines', and the pool is that of the size: what its requests hold follows from it."""
    monkeypatch.setattr(failure_policy, "PAUSES", (0.0,))
    rooms = [2, 4, 1, 1, 4]
    monkeypatch.setattr(fit, "room_for", lambda bundle, sizes, warn: rooms.pop(0) if sizes == (1, 2, 4) else 0)
    config = with_settings(CONFIG, ["workers.count=4", "workers.min_count=1", "workers.max_failures=1"])
    gone = ray.train.ControllerError(WorkerGroupStartupTimeoutError(4))
    grows = of_ranks(MoreRoom("more workers have room"))
    trainings = started(grows, gone, lost_connection(), grows, config=config)
    assert trainings.sizes == [2, 4, 1, 1, 4]
    assert trainings.growing == [True, False, True, True, False]
    assert trainings.lines == [
        "workers 0 -> 2: training begins",
        "workers 2 -> 4: machines came",
        "workers 4 -> 1: machines went before it began",
        "workers 1 -> 4: machines came",
    ]
    assert [text.partition(" (")[0] for text in trainings.said if "metrics end" not in text] == ["training failed"], "growth is no failure"
    assert [pool.size for pool in trainings.pools] == [2, 4, 1, 4]
    assert all(pool.closed for pool in trainings.pools)


def test_a_fixed_number_waits_for_its_machines(started: Callable[..., Trainings], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_policy, "PAUSES", (0.0,))
    trainings = started(lost_connection())
    assert (trainings.sizes, trainings.growing, trainings.lines) == ([2, 2], [False, False], [])


def test_a_store_that_is_away_between_two_starts_ends_no_training(
    started: Callable[..., Trainings], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver asks it for finished stages, and for what a failure has cost."""
    monkeypatch.setattr(failure_policy, "PAUSES", (0.0, 0.1))
    there, asked = LocalStore.names, list[str]()

    def names(store: LocalStore, prefix: str = "") -> dict[str, int]:
        asked.append(prefix)
        if len(asked) > len(CONFIG.stages):  # it answered before the first start
            raise OSError(5, "S3 does not answer (EndpointConnectionError)", "s3://b/x")
        return there(store, prefix)

    monkeypatch.setattr(LocalStore, "names", names)
    trainings = started(lost_connection(), lost_connection(), lost_connection())
    assert trainings.starts == 4
    assert len(asked) > len(CONFIG.stages)


def test_a_controller_whose_process_is_gone_is_a_failure_as_any(started: Callable[..., Trainings]) -> None:
    trainings = started(ActorDiedError())
    assert trainings.starts == 2
    assert "training failed (ActorDiedError" in trainings.said[0]


def test_pauses_between_starts_are_told_and_end_with_ctrl_c(started: Callable[..., Trainings]) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            started(lost_connection(), lost_connection())
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begin < 8


def test_a_gpu_without_memory_is_not_tried_again(started: Callable[..., Trainings]) -> None:
    with pytest.raises(RuntimeError, match=r"OutOfMemoryError: CUDA out of memory.*engine\.micro_batch=1"):
        started(ray.train.WorkerGroupError("x", {0: torch.OutOfMemoryError("CUDA out of memory")}))
