"""Admission of rollouts as a state machine: whatever actors, losses and trainers do, order and age hold and nothing gets stuck."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mutual_forcing.orchestration.rollout_buffer import Ready, RolloutBuffer


class Pool(RuleBasedStateMachine):
    """Trainers that take every request of a step and then publish; actors that load, generate and are lost at any time."""

    @initialize(ranks=st.integers(1, 3), steps=st.integers(1, 6), max_age=st.integers(0, 3), actors=st.integers(1, 4))
    def start(self, ranks: int, steps: int, max_age: int, actors: int) -> None:
        self.ranks, self.max_age, self.total = ranks, max_age, ranks * steps
        self.buffer: RolloutBuffer[int] = RolloutBuffer(ranks, max_age, self.total)
        self.published = 0
        self.held = [0] * actors
        self.busy: list[int | None] = [None] * actors
        self.served: list[int] = []
        self.consumed: set[int] = set()
        self.waiting = set(range(ranks))  # ranks that have not yet taken the rollout of step `published`

    def _actor(self, data: st.DataObject, busy: bool) -> int:
        return data.draw(st.sampled_from([i for i, b in enumerate(self.busy) if (b is not None) is busy]))

    def _lowest_open(self) -> int:
        """The first request that is neither served nor with an actor: what must go out next."""
        gone = {*self.served, *(b for b in self.busy if b is not None)}
        return next((i for i in range(self.total) if i not in gone), self.total)

    def _admit(self, actor: int) -> None:
        expected = self._lowest_open()
        request = self.buffer.admit(self.held[actor])
        if request is None:
            assert expected == self.total or expected // self.ranks > self.held[actor] + self.max_age
        else:
            assert request == expected, "requests go out in order"
            assert request // self.ranks - self.held[actor] <= self.max_age
            self.busy[actor] = request

    def _complete(self, actor: int) -> None:
        request = self.busy[actor]
        assert request is not None
        self.buffer.complete(request, Ready(self.held[actor], self.held[actor], request))
        self.served.append(request)
        self.busy[actor] = None

    def _take(self, rank: int) -> None:
        request = self.published * self.ranks + rank
        made = self.buffer.take(request)
        assert made.payload == request
        assert request not in self.consumed
        assert 0 <= self.published - made.version_low <= self.max_age
        self.consumed.add(request)
        self.waiting.discard(rank)
        if not self.waiting:  # the optimizer step needs every rank, so only now is there a new version
            self.published += 1
            self.waiting = set(range(self.ranks))

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
        request = self.busy[actor]
        assert request is not None
        self.buffer.give_back(request)
        self.busy[actor], self.held[actor] = None, self.published  # its successor loads the newest version

    @rule(data=st.data())
    def a_rank_takes(self, data: st.DataObject) -> None:
        rank = data.draw(st.sampled_from(sorted(self.waiting)))
        if self.buffer.ready(self.published * self.ranks + rank):
            self._take(rank)

    @rule(data=st.data())
    def what_was_taken_is_gone(self, data: st.DataObject) -> None:
        if self.consumed:
            request = data.draw(st.sampled_from(sorted(self.consumed)))
            assert not self.buffer.ready(request)
            with pytest.raises(ValueError, match=f"request {request} was consumed already"):
                self.buffer.take(request)

    @invariant()
    def each_request_is_served_once(self) -> None:
        assert len(self.served) == len(set(self.served))
        assert self.buffer.finished == (len(self.served) == self.total)

    def teardown(self) -> None:
        """No deadlock: from wherever the rules left it, actors and trainers that keep working finish the stage."""
        if not hasattr(self, "buffer"):
            return
        for _ in range(4 * (self.total + len(self.busy)) + 4):
            for actor, request in enumerate(self.busy):
                if request is not None:
                    self._complete(actor)
                self.held[actor] = max(self.held[actor], self.published)
                self._admit(actor)
            for rank in sorted(self.waiting):
                if self.buffer.ready(self.published * self.ranks + rank):
                    self._take(rank)
            if len(self.consumed) == self.total:
                break
        assert self.consumed == set(range(self.total)), "the pool is stuck"
        assert self.buffer.finished


Pool.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPool = Pool.TestCase


def test_age_zero_is_synchronous() -> None:
    buffer: RolloutBuffer[str] = RolloutBuffer(per_step=2, max_age=0, total=4)
    assert [buffer.admit(0), buffer.admit(0), buffer.admit(0)] == [0, 1, None]
    assert buffer.admit(1) == 2


def test_a_violated_age_is_a_bug_and_stops() -> None:
    buffer: RolloutBuffer[str] = RolloutBuffer(per_step=1, max_age=1, total=9)
    assert [buffer.admit(5) for _ in range(4)] == [0, 1, 2, 3]
    buffer.complete(3, Ready(0, 0, "made under weights it was not admitted under"))
    with pytest.raises(AssertionError, match="age 3"):
        buffer.take(3)


@pytest.mark.parametrize("arguments", [(0, 0, 1), (1, -1, 1), (1, 0, -1)])
def test_impossible_limits_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="rollouts: per_step"):
        RolloutBuffer(*arguments)
