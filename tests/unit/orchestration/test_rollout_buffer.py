"""Admission of rollouts as a state machine: whatever actors, deadlines and trainers do, order and age hold and nothing gets stuck."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mutual_forcing.orchestration.rollout_buffer import Ready, RolloutBuffer, Ticket, consumers_of, per_step_of, requests_of

SIZE, DEADLINE = 10, 5.0


class Pool(RuleBasedStateMachine):
    """Trainers that take every request of a step and then publish; actors that load, generate, hang and are lost at any time; payloads
    that are lost after they were made; checkpoints from which all goes on.
    """

    @initialize(
        per_step=st.integers(1, 3),
        consumers=st.integers(1, 2),
        steps=st.integers(1, 6),
        max_age=st.integers(0, 3),
        actors=st.integers(1, 4),
        room=st.sampled_from([0, SIZE, 3 * SIZE]),
    )
    def start(self, per_step: int, consumers: int, steps: int, max_age: int, actors: int, room: int) -> None:
        self.per_step, self.consumers, self.max_age, self.total, self.room = per_step, consumers, max_age, per_step * steps, room
        self.buffer = self._new(0)
        self.published, self.now = 0, 0.0
        self.held = [0] * actors
        self.busy: list[tuple[Ticket, float] | None] = [None] * actors
        self.read: dict[tuple[int, int], Ready[tuple[int, int]]] = {}  # (request, consumer) -> what was offered, and is not taken yet
        self.taken: set[tuple[int, int]] = set()
        self.used: dict[tuple[int, int], int] = {}  # (request, consumer) -> how often an update was made with it
        self._new_step()

    def _new(self, first: int) -> RolloutBuffer[tuple[int, int]]:
        return RolloutBuffer(self.per_step, self.max_age, self.total, first, self.consumers, self.room)

    def _new_step(self) -> None:
        first = self.published * self.per_step
        self.waiting = {(i, c) for i in range(first, min(self.total, first + self.per_step)) for c in range(self.consumers)}

    def _actor(self, data: st.DataObject, busy: bool) -> int:
        return data.draw(st.sampled_from([i for i, b in enumerate(self.busy) if (b is not None) is busy]))

    def _admit(self, actor: int) -> None:
        out = {b[0].request for b in self.busy if b is not None}
        ticket = self.buffer.admit(self.held[actor], self.now)
        if ticket is not None:
            step = ticket.request // self.per_step
            assert step < self.published or 0 <= step - self.held[actor] <= self.max_age
            assert step >= self.published, "what was made and taken is not made again"
            assert not self.buffer.ready(ticket.request)
            if ticket.request in out:
                assert any(b is not None and b[0].request == ticket.request and self.now - b[1] > DEADLINE for b in self.busy), (
                    "twice only when late"
                )
            self.busy[actor] = (ticket, self.now)

    def _complete(self, actor: int) -> None:
        flight = self.busy[actor]
        assert flight is not None
        ticket, wanted = flight[0], not self.buffer.ready(flight[0].request)
        used = self.buffer.complete(ticket, Ready(self.held[actor], self.held[actor], (ticket.request, ticket.attempt), SIZE))
        assert not used or wanted
        self.busy[actor] = None

    def _read(self, key: tuple[int, int]) -> None:
        request, consumer = key
        made = self.buffer.offer(request, consumer)
        assert made.payload[0] == request
        assert 0 <= request // self.per_step - made.version_low <= self.max_age
        self.read[key] = made

    def _take(self, key: tuple[int, int]) -> None:
        self.buffer.take(*key)
        del self.read[key]
        self.taken.add(key)
        self.waiting.discard(key)
        if not self.waiting:  # the optimizer step needs every rank, so only now is there a new version
            for i, c in [k for k in self.taken if k[0] // self.per_step == self.published]:
                self.used[i, c] = self.used.get((i, c), 0) + 1
            self.published += 1
            self._new_step()

    @rule(seconds=st.sampled_from([0.5, 3.0, 6.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        for request in self.buffer.overdue(self.now, DEADLINE):
            assert any(b is not None and b[0].request == request and self.now - b[1] > DEADLINE for b in self.busy)

    @precondition(lambda self: None in self.busy)
    @rule(data=st.data())
    def an_actor_loads(self, data: st.DataObject) -> None:
        self.held[self._actor(data, busy=False)] = self.published

    @precondition(lambda self: None in self.busy)
    @rule(data=st.data())
    def an_actor_asks(self, data: st.DataObject) -> None:
        self._admit(self._actor(data, busy=False))

    @precondition(lambda self: any(b is not None for b in self.busy))
    @rule(data=st.data())
    def an_actor_finishes(self, data: st.DataObject) -> None:
        self._complete(self._actor(data, busy=True))

    @precondition(lambda self: any(b is not None for b in self.busy))
    @rule(data=st.data())
    def an_actor_is_lost(self, data: st.DataObject) -> None:
        actor = self._actor(data, busy=True)
        flight = self.busy[actor]
        assert flight is not None
        self.buffer.give_back(flight[0])
        self.buffer.give_back(flight[0])  # told twice: nothing more happens
        self.busy[actor], self.held[actor] = None, self.published  # its successor loads the newest version

    @rule(data=st.data())
    def a_rank_reads(self, data: st.DataObject) -> None:
        """Of this step or of the next: it reads ahead."""
        last = min(self.total, (self.published + 2) * self.per_step)
        ahead = {(i, c) for i in range((self.published + 1) * self.per_step, last) for c in range(self.consumers)}
        if keys := (self.waiting | ahead) - self.read.keys():
            key = data.draw(st.sampled_from(sorted(keys)))
            if self.buffer.settled(*key):
                self._read(key)

    @rule(data=st.data())
    def a_rank_takes(self, data: st.DataObject) -> None:
        if keys := self.waiting & self.read.keys():
            self._take(data.draw(st.sampled_from(sorted(keys))))

    @rule(data=st.data())
    def what_a_rank_was_offered_is_gone_with_its_node(self, data: st.DataObject) -> None:
        if self.read:
            key = data.draw(st.sampled_from(sorted(self.read)))
            made = self.read.pop(key)
            self.buffer.lose(key[0], made.attempt)
            self.buffer.lose(key[0], made.attempt)  # another rank tells it too

    @rule(data=st.data())
    def what_was_taken_is_not_there_again(self, data: st.DataObject) -> None:
        if self.taken:
            key = data.draw(st.sampled_from(sorted(self.taken)))
            for again in (self.buffer.offer, self.buffer.take):
                with pytest.raises(ValueError, match=f"request {key[0]} was consumed already by its consumer {key[1]}"):
                    again(*key)

    @precondition(lambda self: self.published)
    @rule()
    def the_training_starts_again_from_a_checkpoint(self) -> None:
        """After the last whole step: what was finished is taken up, what was in flight goes out again."""
        kept = self.buffer.held(self.published)
        self.buffer = self._new(self.published)
        restored = self.buffer.restore(kept)
        assert restored == sorted(kept), "what was within its bound stays within it"
        for i in range(len(self.busy)):
            self.busy[i], self.held[i] = None, self.published
        self.taken = {k for k in self.taken if k[0] // self.per_step < self.published}
        self.read.clear()
        self._new_step()

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "buffer"):
            assert self.buffer.bytes == SIZE * self.buffer.waiting
            assert self.buffer.waiting + self.buffer.in_flight <= (1 + self.max_age) * self.per_step + self.per_step
            if self.room:  # the oldest step goes beyond it, and nothing else
                assert self.buffer.bytes <= self.room + self.per_step * SIZE

    def teardown(self) -> None:
        """No deadlock: from wherever the rules left it, actors and trainers that keep working finish the stage."""
        if not hasattr(self, "buffer"):
            return
        for _ in range(6 * (self.total + len(self.busy)) + 6):
            for actor, flight in enumerate(self.busy):
                if flight is not None:
                    self._complete(actor)
                self.held[actor] = max(self.held[actor], self.published)
                self._admit(actor)
            for key in sorted(self.waiting):
                if key not in self.read and self.buffer.settled(*key):
                    self._read(key)
                if key in self.read:
                    self._take(key)
            if self.published * self.per_step >= self.total:
                break
        assert self.published * self.per_step == self.total, "the pool is stuck"
        assert self.buffer.finished
        keys = {(i, c) for i in range(self.total) for c in range(self.consumers)}
        assert self.used == dict.fromkeys(keys, 1), "every clip of every step was used once"


Pool.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestPool = Pool.TestCase


def test_age_zero_is_synchronous() -> None:
    buffer: RolloutBuffer[str] = RolloutBuffer(per_step=2, max_age=0, total=4)
    assert [buffer.admit(0), buffer.admit(0), buffer.admit(0)] == [Ticket(0, 1), Ticket(1, 1), None]
    assert buffer.admit(1) == Ticket(2, 1)


def test_a_late_request_goes_out_twice_and_the_slower_answer_is_dropped() -> None:
    buffer: RolloutBuffer[str] = RolloutBuffer(per_step=1, max_age=3, total=4)
    slow = buffer.admit(0, now=0.0)
    assert slow is not None
    assert slow == Ticket(0, 1)
    assert buffer.overdue(4.0, 5.0) == []
    assert buffer.overdue(6.0, 5.0) == [0]
    assert buffer.overdue(7.0, 5.0) == [], "once"
    fast = buffer.admit(0, now=7.0)
    assert fast is not None
    assert fast == Ticket(0, 2)
    assert buffer.overdue(60.0, 5.0) == [], "two attempts are enough"
    assert buffer.complete(fast, Ready(0, 0, "fast"))
    assert not buffer.complete(slow, Ready(0, 0, "slow"))
    assert buffer.offer(0).payload == "fast"


def test_a_request_that_came_in_time_after_all_does_not_go_out_again() -> None:
    buffer: RolloutBuffer[str] = RolloutBuffer(per_step=1, max_age=3, total=4)
    slow = buffer.admit(0, now=0.0)
    assert slow is not None
    assert buffer.overdue(6.0, 5.0) == [0]
    assert buffer.complete(slow, Ready(0, 0, "slow"))
    assert buffer.admit(0) == Ticket(1, 1)


def test_what_is_lost_after_it_was_late_goes_out_once() -> None:
    buffer: RolloutBuffer[str] = RolloutBuffer(per_step=1, max_age=3, total=4)
    ticket = buffer.admit(0, now=0.0)
    assert ticket is not None
    assert buffer.overdue(10.0, deadline_s=1.0) == [0]
    assert buffer.complete(ticket, Ready(0, 0, "made", 1))
    buffer.lose(0, ticket.attempt)
    again = [buffer.admit(0, now=10.0) for _ in range(2)]
    assert [t.request for t in again if t is not None] == [0, 1]


def test_the_buffer_is_bounded_in_bytes_but_what_is_needed_next_always_goes_out() -> None:
    buffer: RolloutBuffer[str] = RolloutBuffer(per_step=1, max_age=9, total=9, most_bytes=25)
    for i in range(2):
        ticket = buffer.admit(0)
        assert ticket is not None
        assert ticket == Ticket(i, 1)
        buffer.complete(ticket, Ready(0, 0, "x", bytes=10))
    assert buffer.admit(0) is None, "30 bytes would be more than 25"
    buffer.take(0)
    assert buffer.admit(0) == Ticket(2, 1)
    tight: RolloutBuffer[str] = RolloutBuffer(per_step=1, max_age=9, total=9, most_bytes=1)
    first = tight.admit(0)
    assert first is not None
    tight.complete(first, Ready(0, 0, "x", bytes=10))
    assert tight.admit(0) is None
    tight.take(0)
    assert tight.admit(0) == Ticket(1, 1)


def test_rollouts_that_would_be_too_old_are_not_taken_up() -> None:
    buffer: RolloutBuffer[str] = RolloutBuffer(per_step=1, max_age=1, total=9, first=4)
    saved = {3: Ready(3, 3, "done"), 4: Ready(2, 2, "too old"), 5: Ready(4, 4, "good"), 9: Ready(8, 8, "beyond")}
    assert buffer.restore(saved) == [5]
    assert [buffer.admit(4), buffer.admit(4), buffer.admit(5)] == [Ticket(4, 1), None, Ticket(6, 1)]


def test_a_violated_age_is_a_bug_and_stops() -> None:
    buffer: RolloutBuffer[str] = RolloutBuffer(per_step=1, max_age=1, total=9)
    tickets = [buffer.admit(5) for _ in range(4)]
    assert tickets[3] is not None
    buffer.complete(tickets[3], Ready(0, 0, "made under weights it was not admitted under"))
    with pytest.raises(AssertionError, match="age 3"):
        buffer.offer(3)


@pytest.mark.parametrize("arguments", [(0, 0, 1), (1, -1, 1), (1, 0, -1), (1, 0, 1, 0, 0), (1, 0, 1, 0, 1, -1)])
def test_impossible_limits_are_refused(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rollouts: per_step"):
        RolloutBuffer(*arguments)


def test_requests_cover_positions_whatever_their_size() -> None:
    assert list(requests_of(range(8, 12), 4)) == [2]
    assert list(requests_of(range(8, 12), 2)) == [4, 5]
    assert list(requests_of(range(10, 12), 4)) == [2]
    assert (per_step_of(8, 4), consumers_of(2, 4), consumers_of(4, 2)) == (2, 2, 1)
    with pytest.raises(ValueError, match=r"rollouts\.clips=3: does not divide"):
        per_step_of(8, 3)
    with pytest.raises(ValueError, match=r"rollouts\.clips=3: neither divides"):
        consumers_of(4, 3)
