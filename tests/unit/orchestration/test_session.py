"""Signals during a clean-up wait for its end, and are then delivered."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from mutual_forcing.orchestration.session import STOPS, uninterrupted

# Ray's core gives SIGTERM back to the system behind Python's back, in the middle of its shutdown.
SHUT_DOWN = """
import ctypes, os, signal, threading, time
import ray
from mutual_forcing.orchestration.session import _shut_down, uninterrupted

def terminated(*_):
    raise KeyboardInterrupt("as told")

def caught():
    with open("/proc/self/status") as status:
        (mask,) = [int(line.split()[1], 16) for line in status if line.startswith("SigCgt:")]
    return mask >> signal.SIGTERM - 1 & 1

def shutdown():
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    libc.signal(signal.SIGTERM, None)
    assert not caught()
    while not caught():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    print("whole", flush=True)

signal.signal(signal.SIGTERM, terminated)
ray.shutdown = shutdown
try:
    with uninterrupted():
        _shut_down()
        print("after", flush=True)
except KeyboardInterrupt as stop:
    print(stop)
"""


@pytest.fixture
def delivered() -> Iterator[list[int]]:
    """What the handlers of this process get."""
    got: list[int] = []

    def stop(number: int, _: object) -> None:
        got.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in STOPS}
    yield got
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("sent", [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
def test_what_comes_in_a_clean_up_is_delivered_after_it(delivered: list[int], sent: tuple[int, ...]) -> None:
    handlers = [signal.getsignal(number) for number in STOPS]
    whole = []

    def clean_up() -> None:
        with uninterrupted():
            for number in sent:
                os.kill(os.getpid(), number)
            whole.append(not delivered)

    with pytest.raises(KeyboardInterrupt):
        clean_up()
    assert whole == [True]
    assert delivered == [sent[0]]
    assert [signal.getsignal(number) for number in STOPS] == handlers


def test_a_clean_up_within_another_hands_what_came_to_it(delivered: list[int]) -> None:
    whole = []

    def clean_up() -> None:
        with uninterrupted():
            with uninterrupted():
                os.kill(os.getpid(), signal.SIGTERM)
            whole.append(not delivered)

    with pytest.raises(KeyboardInterrupt):
        clean_up()
    assert whole == [True]
    assert delivered == [signal.SIGTERM]


def test_what_came_is_delivered_also_where_the_clean_up_fails(delivered: list[int]) -> None:
    def clean_up() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            raise OSError("no room")

    with pytest.raises(KeyboardInterrupt) as stopped:
        clean_up()
    assert isinstance(stopped.value.__context__, OSError)
    assert delivered == [signal.SIGTERM]


def test_a_quiet_clean_up_changes_nothing(delivered: list[int]) -> None:
    handlers = [signal.getsignal(number) for number in STOPS]
    with uninterrupted():
        pass
    assert [signal.getsignal(number) for number in STOPS] == handlers
    assert delivered == []


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc what the system does with a signal")
def test_sigterm_stays_ours_while_ray_shuts_down() -> None:
    done = subprocess.run([sys.executable, "-c", SHUT_DOWN], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "whole\nafter\nas told\n"), done.stderr
