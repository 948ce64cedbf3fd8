"""A Ray session that starts or says why not, and that ends whole, also when Ctrl-C or a supervisor stops it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.data
from ray.job_config import JobConfig

STOPS = (signal.SIGINT, signal.SIGTERM)
PORTS = 32  # about what the processes of one session listen on
END_SECONDS = 10.0
TOLD_AGAIN = ("ray.data.exceptions", "ray.data._internal.execution.streaming_executor_state")  # in many lines, of what is raised here


@contextmanager
def ray_session(cpus: int | None = None, about: Mapping[str, str] | None = None) -> Iterator[None]:
    """A Ray cluster of this machine that ends with the block, or the one that RAY_ADDRESS names. about: what the cluster keeps of this job,
    for others to read.

    Raises:
        ValueError: Ray's processes could not speak to each other here, or did not start.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
    if about:
        options["job_config"] = JobConfig(metadata=dict(about))
    with _scratch() as scratch:
        if address:
            options |= {"address": address}
        else:
            check_ports()
            options |= {"num_cpus": cpus or max(2, os.cpu_count() or 2), "include_dashboard": False, "_temp_dir": str(scratch)}
        try:
            with kept_signals(signal.SIGTERM):
                ray.init(**options)
        except Exception as error:  # bare ones too, where its processes take longer than it waits
            place = f"at RAY_ADDRESS={address!r} cannot be reached" if address else "could not start here"
            raise ValueError(f"Ray {place} ({error}); `mutual-forcing doctor` shows the free memory, disk and cores") from error
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # What a task raised comes here as it is: in Ray Data's own exception it would lose its cause on the way between processes.
        context.raise_original_map_exception = True
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and timings stay in Ray's log files
        for name in TOLD_AGAIN:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder for Ray's sockets and logs; the processes that the block started are gone before it is removed."""
    mine = psutil.Process()
    before = set(mine.children(recursive=True))
    folder = Path(tempfile.mkdtemp(prefix="mf-"))
    try:
        yield folder
    finally:
        with uninterrupted():
            started = set(mine.children(recursive=True)) - before
            _shut_down()
            # A worker outlives its raylet for a moment: it must not commit a stage that a rerun has begun again.
            for process in psutil.wait_procs(started, END_SECONDS)[1]:
                process.kill()
            shutil.rmtree(folder, ignore_errors=True)


def _shut_down() -> None:
    """End Ray. Half-way through, it leaves SIGTERM to the system, which would end this process without a word: it works in another thread,
    so that this one can go on putting our handlers back."""
    with ThreadPoolExecutor(1, thread_name_prefix="ray-shutdown") as pool:
        ending = pool.submit(ray.shutdown)
        ended = False
        while not ended:
            ended = bool(wait([ending], 0.01).done)
            for number in STOPS:
                signal.signal(number, signal.getsignal(number))  # what Python would call; the system may know another
        ending.result()


@contextmanager
def kept_signals(stop: signal.Signals) -> Iterator[None]:
    """The handlers of SIGINT and SIGTERM come back when the block ends: Ray replaces them, and never gives them back.

    Ray's own end the process with SystemExit; here that ends as the handler of `stop` would have ended it, in KeyboardInterrupt.
    """
    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        yield
    except SystemExit as end:
        if callable(handler := before[stop]):
            handler(stop, None)
        raise KeyboardInterrupt from end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block has ended, then the first that came is delivered: a clean-up cut short by an impatient
    second one leaves processes behind."""
    late: list[int] = []
    with ExitStack() as stack:
        stack.callback(_deliver, late, before := {number: signal.getsignal(number) for number in STOPS})
        for number in STOPS:
            stack.callback(signal.signal, number, before[number])
            signal.signal(number, lambda number, _: late.append(number))
        yield


def _deliver(late: list[int], handlers: dict[signal.Signals, Any]) -> None:
    if late:
        handler = handlers[signal.Signals(late[0])]
        if callable(handler):
            handler(late[0], None)
        elif handler != signal.SIG_IGN:
            raise KeyboardInterrupt


def check_ports(count: int = PORTS) -> None:
    """See that processes of this machine can speak over TCP. Without that Ray waits for a quarter of an hour.

    Raises:
        ValueError: they cannot; the system's reason is named.
    """
    try:
        with ExitStack() as opened:
            for _ in range(count):
                listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
            opened.enter_context(socket.create_connection(listener.getsockname(), timeout=5))
    except OSError as error:
        raise ValueError(
            f"network: cannot open {count} TCP ports on 127.0.0.1 and connect to them ({error.strerror or error}), which Ray needs; "
            "bring the loopback interface up, stop what holds the ports, or widen net.ipv4.ip_local_port_range"
        ) from error
