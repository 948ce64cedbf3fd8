"""Run one ffmpeg child under limits: where the program is, which pipes it has, and how it ends.

Media are hostile, so no child of ours sees a shell, a URL or our standard input; it has its own process group, a wall-clock
limit, an address-space and a processor limit, and every pipe that comes out of it is drained into a bounded buffer.
"""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import imageio_ffmpeg

OLDEST_FFMPEG = (5, 1)  # the first with `-fps_mode`
NEEDED_LIBRARIES = ("libx264", "libvpx", "libopus")  # what write_media encodes with
STDERR_BYTES = 64 * 1024
CHUNK_BYTES = 1 << 20

BuildArguments = Callable[[Sequence[int]], list[str]]


class MediaError(ValueError):
    """A file that we refuse, or could not write: `stage` ("open", "probe", "decode" or "write"), a one-line reason, ffmpeg's own words."""

    def __init__(self, stage: str, path: Path | str, reason: str, said: str = "") -> None:
        name = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in Path(path).name)
        super().__init__(f"{name}: {reason}" + (f" (ffmpeg: {said})" if said else ""))
        self.stage, self.path, self.reason, self.said = stage, str(path), reason, said

    def __reduce__(self) -> tuple[type["MediaError"], tuple[str, str, str, str]]:
        return MediaError, (self.stage, self.path, self.reason, self.said)  # crosses process borders whole


@dataclass(frozen=True)
class Limits:
    """What one child may use: seconds by the wall clock (and of processor time), bytes of address space, bytes of any file it writes."""

    wall_s: float = 60.0
    memory_bytes: int = 2 << 30
    file_bytes: int = 0


@dataclass(frozen=True)
class Ended:
    """How a child ended. `outputs`: what it wrote to each drained pipe; `stopped`: the limit or crash that ended it, or None."""

    returncode: int
    stderr: str
    outputs: tuple[bytearray, ...]
    stopped: str | None


@lru_cache(maxsize=1)
def ffmpeg_path() -> str:
    """Path of the ffmpeg program: the PATH's if it is new enough and has the encoders that we use, else the wheel's own static build.

    Raises:
        MediaError: there is none for this platform.
    """
    found = shutil.which("ffmpeg")
    if found and _fit_for_us(found):
        return os.path.abspath(found)
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise MediaError("open", "ffmpeg", "no usable ffmpeg: install ffmpeg 5.1 or newer, or a wheel of imageio-ffmpeg") from error


def _fit_for_us(program: str) -> bool:
    try:
        told = subprocess.run([program, "-version"], capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return False
    said = told.stdout.decode(errors="replace")
    release = re.match(r"ffmpeg version n?(\d+)\.(\d+)", said)  # builds from git have no number and are taken as new
    new_enough = said.startswith("ffmpeg version") and (release is None or (int(release[1]), int(release[2])) >= OLDEST_FFMPEG)
    return new_enough and all(f"--enable-{library}" in said for library in NEEDED_LIBRARIES)


def run_ffmpeg(build: BuildArguments, limits: Limits, feeds: Sequence[memoryview] = (), drains: Sequence[int] = ()) -> Ended:
    """Run one child to its end, or to a limit.

    Args:
        build: gets the child's descriptor numbers, one per feed and then one per drain, and returns the whole argument list
            (`pipe:N` names descriptor N).
        limits: what the child may use; past `wall_s` its process group is killed.
        feeds: bytes for each pipe that the child reads.
        drains: for each pipe that the child writes, the most bytes to take; one byte more kills it.

    Safe to call from many threads and processes at once.
    """
    pipes = [os.pipe() for _ in range(len(feeds) + len(drains))]
    theirs = [read for read, _ in pipes[: len(feeds)]] + [write for _, write in pipes[len(feeds) :]]
    ours = [write for _, write in pipes[: len(feeds)]] + [read for read, _ in pipes[len(feeds) :]]
    try:
        child = _spawn(build(theirs), theirs)
    except BaseException:
        for descriptor in ours:
            os.close(descriptor)
        raise
    finally:
        for descriptor in theirs:  # else the pipes never end
            os.close(descriptor)
    return _Attendant(child, ours, feeds, drains).attend(limits)


def _spawn(arguments: list[str], descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    # FFREPORT would make the child write a log file wherever it says.
    environment = {key: value for key, value in os.environ.items() if key != "FFREPORT"} | {"AV_LOG_FORCE_NOCOLOR": "1"}
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=descriptors,
        env=environment,
        process_group=0,
    )


class _Attendant:
    """Feeds and drains one child, each pipe in its own thread, and sees to it that the child's group is gone afterwards."""

    def __init__(self, child: subprocess.Popen[bytes], ours: Sequence[int], feeds: Sequence[memoryview], drains: Sequence[int]) -> None:
        assert child.stderr is not None
        self.child, self.said = child, bytearray()
        self.stopped: str | None = None
        self.outputs = tuple(bytearray() for _ in drains)
        self.threads = [threading.Thread(target=self._hear, args=(child.stderr.fileno(),), daemon=True)]
        for descriptor, data in zip(ours[: len(feeds)], feeds, strict=True):
            self.threads.append(threading.Thread(target=self._feed, args=(descriptor, data), daemon=True))
        for descriptor, buffer, most in zip(ours[len(feeds) :], self.outputs, drains, strict=True):
            self.threads.append(threading.Thread(target=self._drain, args=(descriptor, buffer, most), daemon=True))

    def attend(self, limits: Limits) -> Ended:
        try:
            _limit(self.child.pid, limits)
            for thread in self.threads:
                thread.start()
            self._wait(limits.wall_s)
        finally:
            if self.child.returncode is None or self._unfinished():
                self._kill()
            returncode = self.child.wait()
            for thread in self.threads:
                if thread.ident is not None:
                    thread.join()
            assert self.child.stderr is not None
            self.child.stderr.close()
        if self.stopped is None and returncode < 0:
            self.stopped = f"ffmpeg died of {signal.Signals(-returncode).name}"
        return Ended(returncode, self.said.decode(errors="replace"), self.outputs, self.stopped)

    def _wait(self, wall_s: float) -> None:
        deadline = time.monotonic() + wall_s
        for thread in self.threads:  # the pipes close when the child ends; Popen.wait alone would poll, 50 ms at a time
            thread.join(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(max(0.0, deadline - time.monotonic()))
        if self.child.returncode is None or self._unfinished():  # or a grandchild holds a pipe open
            self.stopped = self.stopped or f"took longer than {wall_s:g} s"

    def _unfinished(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # the whole group has ended by itself
            os.killpg(self.child.pid, signal.SIGKILL)

    def _hear(self, descriptor: int) -> None:
        while data := os.read(descriptor, 4096):
            self.said += data[: max(0, STDERR_BYTES - len(self.said))]

    def _feed(self, descriptor: int, data: memoryview) -> None:
        try:
            for start in range(0, len(data), CHUNK_BYTES):
                rest = data[start : start + CHUNK_BYTES]
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
        except BrokenPipeError:
            pass  # the child has ended; its exit status and its words say why
        finally:
            os.close(descriptor)

    def _drain(self, descriptor: int, buffer: bytearray, most: int) -> None:
        try:
            while data := os.read(descriptor, CHUNK_BYTES):
                buffer += data
                if len(buffer) > most:
                    self.stopped = f"wrote more than {most} bytes"
                    self._kill()
                    return
        finally:
            os.close(descriptor)


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


def essence(stderr: str, most: int = 200) -> str:
    """The first error that ffmpeg named (run it with `-v level+...`), on one line of at most `most` characters, "" if there is none.

    The first is the cause; those after it say what followed from it. Origins in brackets, which hold addresses, are left out.
    """
    errors = [line for line in stderr.splitlines() if "[error]" in line or "[fatal]" in line]
    words = re.sub(r"\[[^\]]*\] ?", "", errors[0]).strip() if errors else ""
    words = "".join(letter if letter.isprintable() else "?" for letter in words)
    return words if len(words) <= most else words[: most - 3] + "..."
