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
from typing import Self

from .ffmpeg_pipes import CHUNK_BYTES, Feed, Kept, Overrun, Sink, Whole, Words
from .ffmpeg_program import MediaError, essence, ffmpeg_path

__all__ = ["Child", "Ended", "Feed", "Kept", "Limits", "MediaError", "Overrun", "Sink", "essence", "ffmpeg_path", "run_ffmpeg"]

GATHER_BYTES = CHUNK_BYTES // 4
INHERITED = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE")  # of this process's environment
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


class Child:
    """One ffmpeg child and its pipes; a context manager, after which its process group is gone. Not for two threads at once.

    Args:
        build: gets the child's descriptor numbers, one per feed and then one per sink, and returns the whole argument list
            (`pipe:N` names descriptor N).
        limits: what the child may use.
        feeds: bytes for each pipe that the child reads, or where they come from.
        sinks: for each pipe that the child writes, where its bytes go.
        watch: patterns to be counted in what it says.
        wake: a descriptor from which a byte can be read when a feed has something new; the time until then counts for no limit.
    """

    def __init__(
        self,
        build: BuildArguments,
        limits: Limits,
        feeds: Sequence[memoryview | Feed] = (),
        sinks: Sequence[Sink] = (),
        watch: Sequence[re.Pattern[str]] = (),
        wake: int | None = None,
    ) -> None:
        self.stopped: str | None = None
        self._wake = wake
        self._limits, self._spent_s, self._still_s, self._moved = limits, 0.0, 0.0, 0
        self._words = Words(watch)
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
        given: list[Feed] = [Whole(feed) if isinstance(feed, memoryview) else feed for feed in feeds]
        self._feeds = dict(zip(ours[: len(feeds)], given, strict=True))
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
        self._end_feeds()
        waits_for_us = self._wake is not None and self._hungry()
        ready = self._ready(None if waits_for_us else patience)
        took = 0.0 if waits_for_us else time.monotonic() - began
        self._spent_s += took
        self._still_s = 0.0 if ready else self._still_s + took
        if self._spent_s >= self._limits.wall_s:
            self.stop(f"took longer than {self._limits.wall_s:g} s")
        elif self._still_s >= stall_s:
            self.stop(f"nothing came of it for {stall_s:g} s")
        else:
            try:
                self._moved = sum([self._move(descriptor, room) for descriptor, room in ready])
                self._end_feeds()
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

    def _end_feeds(self) -> None:
        """Close the pipes into which nothing more will go: there is nothing, or the child has ended, for it says nothing any more."""
        ended = not any(descriptor in self._sinks for descriptor in self._open)
        for descriptor, feed in self._feeds.items():
            if descriptor in self._open and (ended or feed.data() is None):
                self._end(descriptor)

    def _hungry(self) -> bool:
        """Whether nothing waits to go into a pipe that is open."""
        waiting = [len(feed.data() or b"") for descriptor, feed in self._feeds.items() if descriptor in self._open]
        return bool(waiting) and not any(waiting)

    def _ready(self, patience: float | None) -> list[tuple[int, memoryview]]:
        waiting, rooms = select.poll(), dict[int, memoryview]()
        if self._wake is not None:
            waiting.register(self._wake, select.POLLIN)
        for descriptor in self._open:
            if sink := self._sinks.get(descriptor):
                rooms[descriptor] = sink.room()
                if len(rooms[descriptor]):
                    waiting.register(descriptor, select.POLLIN)
            elif (data := self._feeds[descriptor].data()) is not None and len(data):
                rooms[descriptor] = data
                waiting.register(descriptor, select.POLLOUT)
        ready = [descriptor for descriptor, _ in waiting.poll(None if patience is None else 1000 * patience)]
        if self._wake in ready:
            os.read(self._wake, 4096)
        return [(descriptor, rooms[descriptor]) for descriptor in ready if descriptor in rooms]

    def _move(self, descriptor: int, room: memoryview) -> int:
        if sink := self._sinks.get(descriptor):
            count = os.readv(descriptor, [room])
            if count:
                sink.took(count)
            else:
                self._end(descriptor)
            return count
        feed = self._feeds[descriptor]
        try:
            count = os.write(descriptor, room[:CHUNK_BYTES])
        except BrokenPipeError:
            self._end(descriptor)  # the child has ended; its exit status and its words say why
            return 0
        feed.gave(count)
        if feed.data() is None:
            self._end(descriptor)
        return count

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
    # No credentials for a child that a hostile file takes over, and no FFREPORT, which would have it write a log wherever that says.
    environment = {key: os.environ[key] for key in INHERITED if key in os.environ} | {"AV_LOG_FORCE_NOCOLOR": "1"}
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
