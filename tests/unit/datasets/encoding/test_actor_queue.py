"""Which requests of a pool are computed together, and in which order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.datasets.encoding.actor_queue import ActorQueue, Ticket


def ticket(key: str, size: int = 1, name: int = 0, attempts: int = 0) -> Ticket:
    return Ticket(key, size, name, None, attempts)


def queue_of(*tickets: Ticket) -> ActorQueue:
    queue = ActorQueue()
    for one in tickets:
        queue.put(one)
    return queue


REQUESTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), max_size=12)


@given(REQUESTS, st.integers(1, 6))
def test_every_request_is_taken_once_with_its_equals_and_never_more_than_fit(requests: list[tuple[str, int]], most: int) -> None:
    queue = queue_of(*(ticket(key, size, i) for i, (key, size) in enumerate(requests)))
    taken = []
    while batch := queue.take(most):
        assert len({one.key for one in batch}) == 1
        assert sum(one.size for one in batch) <= most or len(batch) == 1
        names = [one.payload for one in batch]
        assert names == sorted(names)
        assert names[0] == min({*range(len(requests))} - {*taken}), "the one that waits longest is always next"
        taken += names
    assert sorted(taken) == list(range(len(requests)))
    assert len(queue) == 0


def test_equals_go_along_past_others_that_keep_their_place() -> None:
    queue = queue_of(ticket("a", name=0), ticket("b", name=1), ticket("a", name=2), ticket("b", name=3), ticket("a", name=4))
    assert [[one.payload for one in queue.take(2)] for _ in range(3)] == [[0, 2], [1, 3], [4]]


def test_what_was_given_back_is_next_and_alone() -> None:
    queue = queue_of(*(ticket("a", name=i) for i in range(4)))
    first = queue.take(3)
    for one in first:
        one.attempts += 1
    queue.give_back(first)
    assert [[one.payload for one in queue.take(3)] for _ in range(4)] == [[0], [1], [2], [3]]


def test_one_that_is_too_large_is_taken_alone() -> None:
    queue = queue_of(ticket("a", 5, 0), ticket("a", 1, 1))
    assert [one.payload for one in queue.take(2)] == [0]
    assert [one.payload for one in queue.drain()] == [1]
    assert queue.take(2) == []
