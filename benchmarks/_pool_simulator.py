"""A rollout pool in virtual time: the trainers' and the actors' side are events, every rule is the one that the coordinator applies.

Admission, order, retries are `rollout_buffer`'s, deadlines, counts, decisions `failure_policy`'s. What is made up here is time: how long a
trainer computes, an actor generates, loads and starts, a message travels and the coordinator is busy with it (one after the other), and
when a machine goes away. It takes the rollouts that it still keeps with it, as a node does with its share of the object store.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from math import inf

import numpy as np

from ..orchestration.failure_policy import Decision, Pace, Trouble, Troubles, wanted_actors
from ..orchestration.rollout_buffer import Ready, RolloutBuffer, Ticket
from ..orchestration.rollout_crew import LOOK
from ..orchestration.rollouts_config import RolloutsConfig

Draw = Callable[[np.random.Generator], float]


def drawn(values: Sequence[float]) -> Draw:
    """One of the measured values, at random."""
    return lambda rng: values[int(rng.integers(len(values)))]


@dataclass(frozen=True)
class Costs:
    """Seconds. train: of a trainer's step; generate: of a request; read: a step's rollouts, which a trainer does ahead; take: to go on with
    what it has read; load, start: of an actor; publish: of a step, to pack and send weights; call: of a message on its way; message: that
    the coordinator is busy with one.
    """

    train: Draw
    generate: Draw
    read: Draw = drawn((0.0,))
    take: Draw = drawn((0.0,))
    load: float = 0.0
    start: float = 0.0
    publish: float = 0.0
    call: float = 0.0
    message: float = 0.0


@dataclass(frozen=True)
class Faults:
    """lost_every: mean seconds until an actor's machine is taken (0: never). slow_share of the actors take slow_by times as long."""

    lost_every: float = 0.0
    slow_share: float = 0.0
    slow_by: float = 1.0


@dataclass
class Outcome:
    """What a simulated run came to. ends: of the steps; computed: seconds of each step in which the slowest trainer computes; ages:
    requests by age; made_s: actors' time in rollouts that were used, lost_s: in others; wanted: actors that would keep trainers busy.
    """

    ends: list[float] = field(default_factory=list)
    computed: list[float] = field(default_factory=list)
    ages: Counter[int] = field(default_factory=Counter)
    made_s: float = 0.0
    lost_s: float = 0.0
    replaced: int = 0
    late: int = 0
    dropped: int = 0
    remade: int = 0
    coordinator_s: float = 0.0
    wanted: int = 0

    def step_s(self, warm: int) -> float:
        """Seconds of a step, after `warm` of them."""
        return float(self.ends[-1] - self.ends[warm - 1]) / (len(self.ends) - warm)

    @property
    def mean_age(self) -> float:
        return sum(age * count for age, count in self.ages.items()) / sum(self.ages.values())

    def efficiency(self, warm: int) -> float:
        """The share of the time in which the trainers compute: neither wait for rollouts, nor read them, nor publish."""
        return float(sum(self.computed[warm:])) / (self.ends[-1] - self.ends[warm - 1])


@dataclass(eq=False)
class _Actor:
    speed: float
    began: float
    ends: float = inf
    held: int = -1
    proven: bool = False


@dataclass(eq=False)
class _Trainer:
    """open: requests that it does not have yet, of the step that it reads ahead; asks: the coordinator knows of them; has: what it has
    read; idle: it computes nothing.
    """

    rank: int
    open: list[int] = field(default_factory=list)
    asks: bool = False
    has: dict[int, Ready[_Actor]] = field(default_factory=dict)
    idle: bool = True


class Simulation:
    """`trainers` in step with each other, each with `requests` of a step; config: the pool's settings, as a run has them."""

    def __init__(
        self, trainers: int, requests: int, steps: int, config: RolloutsConfig, costs: Costs, faults: Faults = Faults(), seed: int = 0
    ) -> None:
        self._per_rank, self._per_step, self._steps = requests, trainers * requests, steps
        self._config, self._costs, self._faults = config, costs, faults
        self._rng = np.random.default_rng(seed)
        self._now, self._free, self._order = 0.0, 0.0, count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._buffer: RolloutBuffer[_Actor] = RolloutBuffer(self._per_step, config.max_age, self._per_step * steps)
        self._pace = self._loads = Pace(config.deadline_s, config.straggler)
        self._version, self._step, self._computing = -1, 0, trainers
        self._troubles = Troubles(config.max_failures)
        self._idle: list[_Actor] = []
        self._trainers = [_Trainer(rank) for rank in range(trainers)]
        self._used: dict[int, float] = {}  # request -> seconds of the attempt that counts
        self._train_s: list[float] = []
        self._generate_s: list[float] = []
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """All steps.

        Raises:
            RuntimeError: the policy gave up.
        """
        for _ in range(self._config.size):
            self._start()
        self._after(self._costs.publish, lambda: self._publish(0))
        self._after(LOOK, self._watch)
        for trainer in self._trainers:
            self._look_ahead(trainer, 0)
        while self._step < self._steps:
            self._now, _, happen = heapq.heappop(self._events)
            happen()
        made = self.outcome
        made.made_s = sum(self._used.values())
        made.wanted = wanted_actors(float(np.mean(self._generate_s)), self._per_step, float(np.mean(self._train_s)), 1, 2**30)
        return made

    def _after(self, seconds: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), happen))

    def _send(self, seconds: float, happen: Callable[[], None]) -> None:
        """A message that reaches the coordinator after so many seconds, and waits for its turn there."""

        def arrive() -> None:
            self._free = max(self._free, self._now) + self._costs.message
            self.outcome.coordinator_s += self._costs.message
            self._after(self._free - self._now, happen)

        self._after(seconds, arrive)

    # What actors do

    def _start(self) -> None:
        f = self._faults
        slow = f.slow_by if self._rng.random() < f.slow_share else 1.0
        actor = _Actor(slow, self._now)

        def up() -> None:
            actor.ends = self._now + (float(self._rng.exponential(f.lost_every)) if f.lost_every else inf)
            self._turn(actor)

        self._after(self._costs.start, up)

    def _turn(self, actor: _Actor) -> None:
        """An actor without work: newer weights, a request, or sleep."""
        if actor.held < self._version:
            wanted, load = self._version, self._costs.load
            self._work(actor, load, self._loads.patience(actor.proven), lambda: self._loaded(actor, wanted, load), None)
        elif (ticket := self._buffer.admit(actor.held, self._now)) is not None:
            seconds, began, given = self._costs.generate(self._rng) * actor.speed, self._now, ticket
            self._work(actor, seconds, self._pace.patience(actor.proven), lambda: self._made(actor, given, seconds, began), ticket)
        else:
            self._idle.append(actor)

    def _work(self, actor: _Actor, seconds: float, patience: float, done: Callable[[], None], ticket: Ticket | None) -> None:
        call, until = self._costs.call, self._now + self._costs.call + seconds
        if actor.ends < until:
            spent = max(0.0, actor.ends - self._now)
            self._send(spent + call, lambda: self._trouble(Trouble.LOST, actor, ticket, spent))
        elif seconds + 2 * call > patience:
            self._after(patience, lambda: self._trouble(Trouble.SILENT, actor, ticket, patience))
        else:
            self._send(seconds + 2 * call, done)

    def _loaded(self, actor: _Actor, version: int, seconds: float) -> None:
        actor.held = version
        if actor.proven:
            self._loads = self._loads.after(seconds)
        self._turn(actor)

    def _made(self, actor: _Actor, ticket: Ticket, seconds: float, began: float) -> None:
        self._pace = self._pace.after(self._now - began)
        self._troubles.made()
        actor.proven = True
        self._generate_s.append(self._now - began)
        if self._buffer.complete(ticket, Ready(actor.held, actor.held, actor)):
            self.outcome.lost_s += self._used.get(ticket.request, 0.0)
            self._used[ticket.request] = seconds
            self._answer(self._trainers[ticket.request % self._per_step // self._per_rank])
        else:
            self.outcome.dropped += 1
            self.outcome.lost_s += seconds
        self._turn(actor)

    def _trouble(self, trouble: Trouble, actor: _Actor, ticket: Ticket | None, spent: float) -> None:
        """An actor is gone: the policy decides, another takes its place."""
        work = "load" if ticket is None else ticket.request
        if self._troubles.decide(trouble, work, actor.began, self._now) is not Decision.REPLACE:
            raise RuntimeError(f"the pool gave up after {self._troubles.failures} failures without a rollout between them")
        self.outcome.replaced += 1
        if ticket is not None:
            self._buffer.give_back(ticket)
            self.outcome.lost_s += spent
        self._start()
        self._wake()

    def _wake(self) -> None:
        sleepers, self._idle = self._idle, []
        for actor in sleepers:
            self._turn(actor)

    def _watch(self) -> None:
        late = self._buffer.overdue(self._now, self._pace.deadline)
        self.outcome.late += len(late)
        if late:
            self._wake()
        self._after(LOOK, self._watch)

    # What trainers do

    def _look_ahead(self, trainer: _Trainer, step: int) -> None:
        """Say what it goes on with, and ask for the rollouts of `step`, if there is one."""
        had, trainer.has = list(trainer.has), {}
        first = step * self._per_step + trainer.rank * self._per_rank
        trainer.open = list(range(first, first + self._per_rank)) if step < self._steps else []
        self._ask(trainer, had)

    def _ask(self, trainer: _Trainer, had: Sequence[int] = ()) -> None:
        def asked() -> None:
            for i in had:
                self._buffer.take(i)
            trainer.asks = bool(trainer.open)
            self._answer(trainer)

        self._send(self._costs.call, asked)

    def _answer(self, trainer: _Trainer) -> None:
        """Offer a trainer that asks its rollouts, if all are there."""
        if not trainer.asks or not all(self._buffer.ready(i) for i in trainer.open):
            return
        trainer.asks = False
        made = {i: self._buffer.offer(i) for i in trainer.open}
        self._after(self._costs.call + self._costs.read(self._rng), lambda: self._read(trainer, made))

    def _read(self, trainer: _Trainer, made: dict[int, Ready[_Actor]]) -> None:
        """The payloads come, unless their machine went away: then those are made again."""
        trainer.open = [i for i, ready in made.items() if ready.payload.ends < self._now]
        trainer.has |= {i: ready for i, ready in made.items() if i not in trainer.open}
        for i in trainer.open:
            self.outcome.remade += 1
            self._buffer.lose(i, made[i].attempt)
        if trainer.open:
            self._wake()
            self._ask(trainer)
        elif trainer.idle:
            self._compute(trainer)

    def _compute(self, trainer: _Trainer) -> None:
        """A step, with what it has read; the next one's comes meanwhile."""
        trainer.idle = False
        self.outcome.ages.update(i // self._per_step - ready.version_low for i, ready in trainer.has.items())
        self._look_ahead(trainer, self._step + 1)
        seconds = self._costs.train(self._rng)
        self._train_s.append(seconds)
        self._after(self._costs.take(self._rng) + seconds, self._computed)

    def _computed(self) -> None:
        """One trainer has; the step ends with the last of them, and its weights go out."""
        self._computing -= 1
        if self._computing:
            return
        self.outcome.computed.append(max(self._train_s[-len(self._trainers) :]))
        self._after(self._costs.publish, self._stepped)

    def _stepped(self) -> None:
        self._step += 1
        self.outcome.ends.append(self._now)
        version = self._step
        if version < self._steps:
            if version % self._config.publish_every == 0:
                self._send(self._costs.call, lambda: self._publish(version))
            self._computing = len(self._trainers)
            for trainer in self._trainers:
                trainer.idle = True
                if len(trainer.has) == self._per_rank:
                    self._compute(trainer)

    def _publish(self, version: int) -> None:
        self._version = version
        self._wake()
