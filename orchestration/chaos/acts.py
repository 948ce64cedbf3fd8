"""One event, carried out where it belongs: a task on the machine of the target, which checks once more whom it hits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ray.exceptions import GetTimeoutError, RayError

from ...datasets.intake.sources import NOT_MEDIA
from ...datasets.places.fault_switch import switch_off, switch_on, tracker_of
from . import holder
from .holder import Gone, original_of, send
from .schedule import FREEZE, MEDIA, S3, TRACKER, Event
from .targets import Job, Process, driver_of, everywhere, living, on, processes_of, targets_of

T = TypeVar("T")
AWAIT_DRIVER = {False: 30.0, True: 300.0}  # seconds for somebody else to start a killed driver again; of a submitted job, its own command
ORDERED = 100.0  # seconds for a holder to have broken something


class Missed(Exception):
    """There is nobody, or nothing, that the event could hit; the message says what was looked for."""


@dataclass(frozen=True)
class Struck:
    """What an event has hit. target: in words; held: (machine, number, start) of the process that mends it, if one does."""

    target: str
    held: tuple[str, int, int] | None = None


@dataclass
class Hand:
    """Carries events out. stores: URIs that the run reads and writes; media: its folders of films; restart: auto, command or none."""

    job: Job
    stores: Sequence[str]
    media: Sequence[str]
    restart: str
    log: str
    held: list[tuple[str, int, int]] = field(default_factory=list)
    switched: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)

    def strike(self, event: Event) -> Struck:
        """Carry it out.

        Raises:
            Missed: there is nobody to hit, or nobody can be found: nothing was done.
            RayError: a machine did not answer to the order, so that nobody knows whether it was carried out.
        """
        if event.kind in (S3, TRACKER):
            return self._fail(event)
        if event.kind == MEDIA:
            return self._damage(event)
        there = _found(targets_of, self.job).get(event.whom, [])
        if not there:
            raise Missed(f"no {event.whom} of the run lives")
        victim = there[event.place % len(there)]
        named = f"{event.whom} {event.place % len(there)} of {len(there)} (process {victim.pid} on {victim.node[:8]})"
        if event.kind == "driver":
            return self._kill_driver(victim, named)
        if event.kind == FREEZE:
            order = {"act": "freeze", "pid": victim.pid, "started": victim.started, "seconds": event.seconds}
            return self._hold(victim, order, named)
        if not on(victim.node, self.job, kill, victim, self.job.job):
            raise Missed(f"{named} ended before it was killed")
        return Struck(named)

    def mend(self) -> list[str]:
        """Have everything whole again, now; what could not be mended, in words."""
        left = []
        for switch in sorted(self.switched):
            failed = everywhere(living(), self.job, switch_off, switch)[1]
            left += [f"the switch of {switch} on {node[:8]} ({why}), which ends by itself" for node, why in failed.items()]
        for node, pid, started in self.held:
            try:
                on(node, self.job, let_go, pid, started)
            except (RayError, GetTimeoutError) as error:
                left.append(f"process {pid} on {node[:8]} ({type(error).__name__}), which mends what it holds by its deadline")
        for path in sorted(self.damaged):
            try:
                on(self.job.node, self.job, holder.mend_file, path)
            except (RayError, GetTimeoutError) as error:
                left.append(f"{path} ({type(error).__name__}): rename {original_of(path)} to it if that is there")
        self.held.clear()
        self.switched.clear()
        self.damaged.clear()
        return left

    def _kill_driver(self, victim: Process, named: str) -> Struck:
        wait = {"auto": AWAIT_DRIVER[self.job.submitted], "command": 0.0, "none": -1.0}[self.restart]
        lock = str(Path(self.job.run_dir) / ".lock")
        order = {"act": "revive", "pid": victim.pid, "started": victim.started, "wait_s": wait, "lock": lock, "log": self.log}
        return self._hold(victim, order, named)

    def _hold(self, victim: Process, order: dict[str, Any], named: str) -> Struck:
        said = on(victim.node, self.job, hold_own, victim, self.job.job, self.job.words, order)
        if "error" in said:
            raise Missed(f"{named}: {said['error']}")
        held = (victim.node, said["pid"], said["started"])
        self.held.append(held)
        return Struck(named, held)

    def _fail(self, event: Event) -> Struck:
        what = tracker_of(self.job.run_dir) if event.kind == TRACKER else self.stores[event.place % len(self.stores)] if self.stores else ""
        if not what:
            raise Missed("the run has nothing in S3")
        self.switched.add(what)
        nodes = living()
        if len(failed := everywhere(nodes, self.job, switch_on, what, event.seconds, event.share)[1]) == len(nodes):
            raise Missed(f"no machine could be told that {what} fails ({next(iter(failed.values()))})")
        return Struck(what.removeprefix("tracker:") if event.kind == S3 else "the tracker of the run")

    def _damage(self, event: Event) -> Struck:
        node = self.job.node
        films = _found(on, node, self.job, films_in, list(self.media))
        if not films:
            raise Missed(f"no media file in {', '.join(self.media) or 'a folder'}")
        path = films[event.place % len(films)]
        self.damaged.add(path)
        said = on(node, self.job, hold, {"act": "media", "path": path, "seconds": event.seconds})
        if "error" in said:
            raise Missed(f"{path}: {said['error']}")
        held = (node, said["pid"], said["started"])
        self.held.append(held)
        return Struck(path, held)


def _found(look: Callable[..., T], *given: Any) -> T:
    """What a look for targets finds. Raises Missed: a machine does not answer, so that nobody is hit."""
    try:
        return look(*given)
    except (RayError, GetTimeoutError) as error:
        raise Missed(f"who is there cannot be told ({type(error).__name__})") from error


def kill(victim: Process, job: str) -> bool:
    """On its machine: kill a process that is still the job's own; whether it was there."""
    if not _same_in(victim, processes_of(victim.node, job)):
        return False
    try:
        send(victim.pid, victim.started, signal.SIGKILL)
    except Gone:
        return False
    return True


def hold_own(victim: Process, job: str, words: str, order: dict[str, Any]) -> dict[str, Any]:
    """On its machine: have an order about a process carried out that is still the job's own, or its driver."""
    mine = driver_of(victim.node, victim.pid, words) if victim.title == "driver" else processes_of(victim.node, job)
    if not _same_in(victim, mine):
        return {"error": "it has ended"}
    return hold(order)


def _same_in(victim: Process, found: Sequence[Process]) -> bool:
    """Whether it is among them; its title tells what it does just now, and may be another."""
    return any((p.pid, p.started) == (victim.pid, victim.started) for p in found)


def hold(order: dict[str, Any]) -> dict[str, Any]:
    """Give an order to a holder; what it says when the thing is broken."""
    command = [sys.executable, "-I", str(holder.__file__)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as started:
        out, error = started.communicate(json.dumps(order).encode(), ORDERED)
    return json.loads(out) if out else {"error": error.decode(errors="replace").strip().rpartition("\n")[2] or "its holder said nothing"}


def let_go(pid: int, started: int) -> None:
    """Have a holder mend what it holds now."""
    with suppress(Gone):
        send(pid, started, signal.SIGTERM)


def films_in(folders: Sequence[str]) -> list[str]:
    """Media files of these folders, in order of their names."""
    found = []
    for folder in folders:
        for path in sorted(Path(folder).rglob("*")) if Path(folder).is_dir() else [Path(folder)]:
            if path.is_file() and not path.is_symlink() and path.suffix.lower() not in NOT_MEDIA and path.name[0] != ".":
                found.append(str(path))
    return found
