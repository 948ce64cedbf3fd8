"""A training that is told to stop, by SIGTERM: its workers have a checkpoint committed first.

driver:  SIGTERM -> a word in Ray's key-value store -> the workers' checkpoint -> the end that the signal would have made at once
rank 0:  asks for the word at most once a second; the other ranks hear of it with the step's metrics (`workers/notice.py`)
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType

from ray.experimental import internal_kv as store

SPACE = b"mutual-forcing-stop"
BEGUN, STOP = "begun", "stop"
OF_RAY = "RAY_JOB_STOP_WAIT_TIME_S"  # of a job's processes: how long after SIGTERM Ray kills them
PATIENCE_S = 600.0  # without it; a second signal ends it at once
END_S = 10.0  # what is left before Ray kills, for the end that the signal would have made
ECHO_S = 2.0  # a job's processes get the signal from Ray, and again from the one that started them: that is one word
ASK_S = 1.0


def patience_of(environment: Mapping[str, str]) -> float:
    """Seconds that a stop waits for the workers: a little less than Ray gives the job, or `PATIENCE_S` where no Ray does."""
    given = environment.get(OF_RAY, "")
    if not given.isascii() or not given.isdecimal():
        return PATIENCE_S
    return float(given) - min(END_S, float(given) / 10)


class Stopping:
    """A context in the main thread, while a training runs. The first SIGTERM asks the workers to end after a checkpoint, if any has begun;
    when they have ended, at a second one, or at the end of patience (default: that of the environment), the handler before has its say.
    """

    def __init__(self, training: str, warn: Callable[[str], None], patience: float | None = None) -> None:
        self._training, self._warn = training, warn
        self._patience = patience_of(os.environ) if patience is None else patience
        self._since: float | None = None
        self._impatient = False
        self._over = threading.Event()

    def __enter__(self) -> Stopping:
        self._before = signal.signal(signal.SIGTERM, self._heard)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._over.set()
        signal.signal(signal.SIGTERM, self._before)
        _forget(self._training)
        if self._since is not None and (error is None or isinstance(error, Exception)):  # its workers have ended, as they were asked
            self._end()

    def _end(self) -> None:
        """What SIGTERM does without this context."""
        if callable(self._before):
            self._before(signal.SIGTERM, None)
        raise KeyboardInterrupt

    def _heard(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is None:
            self._since = now
            threading.Thread(target=self._ask, daemon=True, name="stop").start()  # not here: this may have interrupted a call of Ray's
        elif self._impatient or now - self._since > ECHO_S:
            self._end()

    def _ask(self) -> None:
        if _has(self._training, BEGUN):
            self._warn("told to stop: a checkpoint is written first; a second SIGTERM or Ctrl-C ends it at once")
            _put(self._training, STOP)
            self._over.wait(self._patience)
        if not self._over.is_set():
            self._impatient = True
            os.kill(os.getpid(), signal.SIGTERM)  # its handler runs in the main thread


class ToldToStop:
    """In a worker, asked at every step: whether its training is to stop."""

    def __init__(self, training: str) -> None:
        self._training, self._asked, self._told = training, time.monotonic(), False
        _put(training, BEGUN)

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._told and now - self._asked >= ASK_S:
            self._asked, self._told = now, _has(self._training, STOP)
        return self._told


def _forget(training: str) -> None:
    """Its words are of no use any more."""
    if store._internal_kv_initialized():
        store._internal_kv_del(f"{training}/", del_by_prefix=True, namespace=SPACE)


def _put(training: str, word: str) -> None:
    store._internal_kv_put(f"{training}/{word}", b"1", namespace=SPACE)


def _has(training: str, word: str) -> bool:
    return bool(store._internal_kv_exists(f"{training}/{word}", namespace=SPACE))
