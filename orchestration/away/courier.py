"""Fetches, once a second, what training processes write on machines that do not share the run folder. One thread of the driver.

Lines of the same second are lost with a machine. As a rule they are of steps after the last checkpoint, which are done again; of steps that
a checkpoint has had meanwhile they are missing. What a driver that is killed has not fetched, the next one does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from . import outpost
from .outpost import Outpost, Told
from .pieces import METRICS, Have, Piece
from .received import PART, Received, go_on

EVERY = 1.0  # seconds between two questions
PATIENCE = 30.0  # seconds for all that is left at the end
RECOVERY = 10.0  # seconds for an answer of a machine of an earlier attempt
AWAY = (RayError, ConnectionError)


@dataclass
class Machine:
    """One that does not share the run folder. asked: the question that has no answer yet; last: when an answer came, seconds since 1970."""

    node: str
    folder: str
    actor: Any
    asked: Any = None
    last: float = 0.0


def _machine(said: Told) -> Machine:
    """With an actor on it."""
    there = NodeAffinitySchedulingStrategy(said.node, soft=False)
    actor = ray.remote(Outpost).options(num_cpus=0, max_restarts=-1, scheduling_strategy=there).remote(said.folder)
    return Machine(said.node, said.folder, actor)


class Courier:
    """A context around one attempt of a training. Where all machines share the run folder it does nothing but look for others."""

    def __init__(self, run_dir: Path, training: str, warn: Callable[[str], None]) -> None:
        self._run_dir, self._training, self._warn = run_dir, training, warn
        self._received = Received(run_dir, warn)
        self._machines: dict[str, Machine] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="courier")

    def __enter__(self) -> Courier:
        for old in (*self._run_dir.glob(".fit-*"), *self._run_dir.glob(f"*/.*{PART}")):  # of a driver that was killed
            old.unlink(missing_ok=True)
        with suppress(*AWAY):
            self._recover()
        with suppress(OSError):  # without room for it all machines count as others
            outpost.marker(self._run_dir, self._training).touch()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._finish(time.monotonic() + PATIENCE)
        self._received.close()
        outpost.marker(self._run_dir, self._training).unlink(missing_ok=True)
        with suppress(*AWAY):
            outpost.forget(self._run_dir)

    def _work(self) -> None:
        while not self._over.wait(EVERY):
            with suppress(*AWAY):  # asked again; the end tells what has not come
                self._meet()
            for machine in self._machines.values():
                while self._answered(machine):  # there may be more than an answer has room for
                    self._ask(machine)

    def _meet(self) -> None:
        """Send an actor to each machine that says that it does not share the folder."""
        for said in outpost.told(self._run_dir, {(self._training, node) for node in self._machines}):
            if said.training == self._training:
                self._machines[said.node] = _machine(said)

    def _recover(self) -> None:
        """The metrics of an attempt whose driver was killed: lines that it had not fetched may be of steps that a checkpoint has."""
        earlier = [_machine(said) for said in outpost.told(self._run_dir)]
        outpost.forget(self._run_dir)
        for machine in earlier:
            try:
                have, spools = dict[str, Have](), dict[str, bytes]()
                while pieces := ray.get(machine.actor.news.remote(have, (METRICS,)), timeout=RECOVERY):
                    have |= {piece.name: piece.known for piece in pieces}
                    spools |= {piece.name: spools.get(piece.name, b"") + piece.data for piece in pieces}
                for name, data in spools.items():
                    go_on(self._run_dir / name, data)
                ray.kill(machine.actor)
            except (*AWAY, OSError) as error:
                self._warn(f"machine {machine.node[:12]}: the last metrics of an earlier attempt have not come ({type(error).__name__})")

    def _ask(self, machine: Machine) -> Any:
        machine.asked = machine.actor.news.remote(self._received.have(machine.node))
        return machine.asked

    def _answered(self, machine: Machine) -> bool:
        """Write what it has sent, if it has; whether there was anything."""
        asked = machine.asked or self._ask(machine)
        if not ray.wait([asked], timeout=0)[0]:
            return False
        machine.asked = None
        try:
            return self._take(machine, asked)
        except AWAY:
            return False

    def _take(self, machine: Machine, answer: Any) -> bool:
        """Write what an answer has; whether it has anything. Raises one of `AWAY`: it is none."""
        pieces: list[Piece] = ray.get(answer)
        machine.last = time.time()
        for piece in pieces:
            self._received.take(machine.node, piece)
        return bool(pieces)

    def _finish(self, end: float) -> None:
        """What is left, for as long as the patience lasts. All are asked at once: one that is silent takes no time from the others."""
        with suppress(*AWAY):
            self._meet()
        asked, ends = {self._ask(machine): machine for machine in self._machines.values()}, list[Any]()  # after its processes have ended
        while asked and (ready := ray.wait(list(asked), timeout=max(0.0, end - time.monotonic()))[0]):
            machine = asked.pop(ready[0])
            try:
                if self._take(machine, ready[0]):
                    asked[self._ask(machine)] = machine
                elif left := self._received.left(machine.node):
                    self._warn(f"machine {machine.node[:12]}: {', '.join(left)} in {machine.folder} there")
                else:
                    ends.append(machine.actor.end.remote())
            except AWAY as error:
                self._miss(machine, error)
        for machine in asked.values():
            self._miss(machine, GetTimeoutError())
        if ends:
            ray.wait(ends, num_returns=len(ends), timeout=max(0.1, end - time.monotonic()))
        for machine in self._machines.values():
            with suppress(*AWAY):
                ray.kill(machine.actor)

    def _miss(self, machine: Machine, error: Exception) -> None:
        since = time.strftime("%H:%M:%S", time.localtime(machine.last)) if machine.last else "it began"
        self._warn(
            f"machine {machine.node[:12]}: what its training processes wrote since {since} (metrics, logs, stacks) has not come "
            f"({type(error).__name__}); if it lives, it is in {machine.folder} there"
        )
