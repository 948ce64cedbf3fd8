"""Run one ffmpeg child under limits: which pipes it has, and how it ends.

    run_ffmpeg: the whole child at once            film.py: a child that is read as its output is needed
                 |                                    |
                  Child: one loop moves what its pipes hold into sinks, and what feeds hold into its pipes

Media are hostile, so no child of ours sees a shell, a URL or our standard input; it has its own process group, a wall-clock
limit, an address-space and a processor limit, and every pipe that comes out of it is drained into a bounded buffer. A child that
nobody reads stands still: its pipes are full.
"""

import contextlib
import fcntl
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from .ffmpeg_program import MediaError, essence, ffmpeg_path

__all__ = ["Child", "Ended", "Kept", "Limits", "MediaError", "Overrun", "Sink", "essence", "ffmpeg_path", "run_ffmpeg"]

STDERR_BYTES = 64 * 1024
CHUNK_BYTES = 1 << 20  # also the size of a pipe: the largest that needs no privilege
GATHER_BYTES = CHUNK_BYTES // 4
PATIENCE_S = 0.02  # between a closed pipe and the end of its process

BuildArguments = Callable[[Sequence[int]], list[str]]


@dataclass(frozen=True)
class Limits:
    """What one child may use: seconds by the wall clock (and of processor time), bytes of address space, bytes of any file it writes.

    `wall_s` counts the time in which we wait for the child; `stall_s` is how long it may then move nothing at all (None: `wall_s`).
    """

    wall_s: float = 60.0
    stall_s: float | None = None
    memory_bytes: int = 2 << 30
    file_bytes: int = 0


@dataclass(frozen=True)
class Ended:
    """How a child ended. `outputs`: what it wrote to each drained pipe; `stopped`: the limit or crash that ended it, or None."""

    returncode: int
    stderr: str
    outputs: tuple[bytearray, ...]
    stopped: str | None


class Sink(Protocol):
    """Where the bytes of one pipe go."""

    def room(self) -> memoryview:
        """Where the next bytes may be written; empty: none are wanted now, and the child has to wait."""
        ...

    def took(self, count: int) -> None:
        """So many bytes stand now at the beginning of what `room` gave."""
        ...


class Overrun(Exception):
    """A sink has got more than it takes; says why the child is stopped."""


class Kept:
    """A sink that keeps all, up to `most` bytes: one more stops the child."""

    def __init__(self, most: int) -> None:
        self.data = bytearray()
        self._most, self._scratch = most, memoryview(bytearray(min(CHUNK_BYTES, most + 1)))

    def room(self) -> memoryview:
        return self._scratch

    def took(self, count: int) -> None:
        self.data += self._scratch[:count]
        if len(self.data) > self._most:
            raise Overrun(f"wrote more than {self._most} bytes")


class _Words:
    """What the child says: the first `STDERR_BYTES` are kept, and every line is counted that matches one of the patterns."""

    def __init__(self, patterns: Sequence[re.Pattern[str]]) -> None:
        self.said, self.counts = bytearray(), [0] * len(patterns)
        self._patterns, self._line, self._scratch = patterns, b"", memoryview(bytearray(4096))

    def room(self) -> memoryview:
        return self._scratch

    def took(self, count: int) -> None:
        data = bytes(self._scratch[:count])
        self.said += data[: max(0, STDERR_BYTES - len(self.said))]
        *lines, rest = (self._line + data).split(b"\n")
        self._line = rest[:STDERR_BYTES]
        self._count(lines)

    def close(self) -> None:
        self._count([self._line])
        self._line = b""

    def _count(self, lines: Sequence[bytes]) -> None:
        text = b"\n".join(lines).decode(errors="replace")
        for n, pattern in enumerate(self._patterns):
            self.counts[n] += len(pattern.findall(text))


class Child:
    """One ffmpeg child and its pipes; a context manager, after which its process group is gone. Not for two threads at once.

    Args:
        build: gets the child's descriptor numbers, one per feed and then one per sink, and returns the whole argument list
            (`pipe:N` names descriptor N).
        limits: what the child may use.
        feeds: bytes for each pipe that the child reads.
        sinks: for each pipe that the child writes, where its bytes go.
        watch: patterns to be counted in what it says.
    """

    def __init__(
        self,
        build: BuildArguments,
        limits: Limits,
        feeds: Sequence[memoryview] = (),
        sinks: Sequence[Sink] = (),
        watch: Sequence[re.Pattern[str]] = (),
    ) -> None:
        self.stopped: str | None = None
        self._limits, self._spent_s, self._still_s, self._moved = limits, 0.0, 0.0, 0
        self._words = _Words(watch)
        pipes = [os.pipe() for _ in range(len(feeds) + len(sinks))]
        theirs = [read for read, _ in pipes[: len(feeds)]] + [write for _, write in pipes[len(feeds) :]]
        ours = [write for _, write in pipes[: len(feeds)]] + [read for read, _ in pipes[len(feeds) :]]
        try:
            for descriptor in ours:
                _widen(descriptor)
            self._process = _spawn(build(theirs), theirs)
        except BaseException:
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:  # else the pipes never end
                os.close(descriptor)
        assert self._process.stderr is not None
        self._feeds = dict(zip(ours[: len(feeds)], feeds, strict=True))
        for descriptor in self._feeds:
            os.set_blocking(descriptor, False)
        self._sinks: dict[int, Sink] = dict(zip(ours[len(feeds) :], sinks, strict=True))
        self._sinks[self._process.stderr.fileno()] = self._words
        self._pipes = {*self._feeds, *self._sinks}
        self._open = list(self._pipes)
        try:
            _limit(self._process.pid, limits)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def said(self) -> str:
        return self._words.said.decode(errors="replace")

    @property
    def counts(self) -> list[int]:
        """How often each watched pattern was said."""
        return self._words.counts

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    def is_open(self, sink: Sink) -> bool:
        """Whether more may come to this sink."""
        return any(self._sinks.get(pipe) is sink for pipe in self._open)

    def step(self, gather_s: float = 0.0) -> bool:
        """Wait until something can be moved, and move it; False once the child has ended, by itself or by a limit.

        gather_s: how long little is left to gather first, so that we do not wake for every line.
        """
        if not self._open:
            return False
        began = time.monotonic()
        if gather_s and self._moved < GATHER_BYTES:
            time.sleep(gather_s)
        stall_s = self._limits.wall_s if self._limits.stall_s is None else self._limits.stall_s
        patience = max(0.0, min(self._limits.wall_s - self._spent_s, stall_s - self._still_s))
        ready = self._ready(patience)
        took = time.monotonic() - began
        self._spent_s += took
        self._still_s = 0.0 if ready else self._still_s + took
        if self._spent_s >= self._limits.wall_s:
            self.stop(f"took longer than {self._limits.wall_s:g} s")
        elif self._still_s >= stall_s:
            self.stop(f"nothing came of it for {stall_s:g} s")
        else:
            try:
                self._moved = sum([self._move(descriptor, room) for descriptor, room in ready])
            except Overrun as error:
                self.stop(str(error))
        if not self._open:
            self._collect()
        return bool(self._open)

    def stop(self, why: str | None) -> None:
        """Kill the group. why: stands in `stopped` unless a reason does already."""
        self.stopped = self.stopped or why
        if self._process.returncode is None:  # else its number may be another's by now
            with contextlib.suppress(ProcessLookupError):  # the whole group has ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
        for descriptor in list(self._open):
            self._end(descriptor)
        self._process.wait()

    def close(self) -> None:
        """Kill what still runs, and close the pipes. May be called again."""
        if self._process.returncode is None or self._open:
            self.stop(None)

    def _ready(self, patience: float) -> list[tuple[int, memoryview]]:
        waiting, rooms = select.poll(), dict[int, memoryview]()
        for descriptor in self._open:
            if sink := self._sinks.get(descriptor):
                rooms[descriptor] = sink.room()
                if len(rooms[descriptor]):
                    waiting.register(descriptor, select.POLLIN)
            else:
                rooms[descriptor] = self._feeds[descriptor]
                waiting.register(descriptor, select.POLLOUT)
        return [(descriptor, rooms[descriptor]) for descriptor, _ in waiting.poll(1000 * patience)]

    def _move(self, descriptor: int, room: memoryview) -> int:
        if sink := self._sinks.get(descriptor):
            count = os.readv(descriptor, [room])
            if count:
                sink.took(count)
            else:
                self._end(descriptor)
            return count
        try:
            rest = room[os.write(descriptor, room[:CHUNK_BYTES]) :]
        except BrokenPipeError:
            rest = room[:0]  # the child has ended; its exit status and its words say why
        self._feeds[descriptor] = rest
        if not len(rest):
            self._end(descriptor)
        return len(room) - len(rest)

    def _end(self, descriptor: int) -> None:
        self._open.remove(descriptor)
        self._pipes.remove(descriptor)
        if self._sinks.get(descriptor) is self._words:
            self._words.close()
            assert self._process.stderr is not None
            self._process.stderr.close()
        else:
            os.close(descriptor)

    def _collect(self) -> None:
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:  # it has closed its pipes and goes on
            try:
                self._process.wait(max(0.0, self._limits.wall_s - self._spent_s))
            except subprocess.TimeoutExpired:
                self.stop(f"took longer than {self._limits.wall_s:g} s")
        if self.stopped is None and self._process.returncode < 0:
            self.stopped = f"ffmpeg died of {signal.Signals(-self._process.returncode).name}"


def run_ffmpeg(build: BuildArguments, limits: Limits, feeds: Sequence[memoryview] = (), drains: Sequence[int] = ()) -> Ended:
    """Run one child to its end, or to a limit; `build`, `limits` and `feeds` as for `Child`.

    Args:
        drains: for each pipe that the child writes, the most bytes to take; one byte more kills it.

    Safe to call from many threads and processes at once.
    """
    kept = [Kept(most) for most in drains]
    with Child(build, limits, feeds, kept) as child:
        while child.step():
            pass
    assert child.returncode is not None
    return Ended(child.returncode, child.said, tuple(sink.data for sink in kept), child.stopped)


def _widen(descriptor: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):  # many pipes of one user: the usual size has to do
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, CHUNK_BYTES)


def _spawn(arguments: list[str], descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    # FFREPORT would make the child write a log file wherever it says.
    environment = {key: value for key, value in os.environ.items() if key != "FFREPORT"} | {"AV_LOG_FORCE_NOCOLOR": "1"}
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
        pass_fds=descriptors,
        env=environment,
        process_group=0,
    )


def _limit(pid: int, limits: Limits) -> None:
    # After the start, not in preexec_fn: code between fork and exec can deadlock in a process with threads, as every Ray worker is.
    # The processor limit is for the day when this process is killed and nobody is left to watch the clock.
    if sys.platform != "linux":
        return
    cpu_s = int(limits.wall_s) + 1
    wanted = {
        resource.RLIMIT_AS: limits.memory_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_CORE: 0,
    }
    try:
        for what, most in wanted.items():
            hard = resource.prlimit(pid, what)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(pid, what, (most, most))
    except ProcessLookupError:
        pass  # it has ended already
