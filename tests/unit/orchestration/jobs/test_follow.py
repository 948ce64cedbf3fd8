"""A job that is followed and listed through Ray's own client: tunnels that break, logs that cannot be read, exit codes."""

from __future__ import annotations

import threading

import pytest
from head_material import Answer, Head

from mutual_forcing.orchestration.jobs import cluster as room
from mutual_forcing.orchestration.jobs.cluster import Cluster
from mutual_forcing.orchestration.jobs.command import _code
from mutual_forcing.orchestration.jobs.control import described, last_line
from mutual_forcing.orchestration.jobs.spec import JobSpec


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "POLL_S", 0.01)


@pytest.fixture
def head() -> Head:
    return Head()


def followed(cluster: Cluster) -> tuple[int, list[str], list[str]]:
    said, warned = list[str](), list[str]()
    return _code(cluster.follow("mine", said.append, warned.append)), said, warned


@pytest.mark.parametrize("away", [(502, b"bad gateway"), (503, b"")])
def test_a_tunnel_that_is_cut_for_a_while_ends_nothing(head: Head, away: Answer) -> None:
    head.job("mine", "SUCCEEDED")
    head.logs["mine"] = "one\ntwo\n"
    head.broken = lambda request: away if "/mine" in request and sum("/mine" in r for r in head.asked) < 8 else None
    with head as cluster:
        code, said, warned = followed(cluster)
    assert (code, said) == (0, ["one", "two"])
    assert len(warned) == 1
    assert "does not answer" in warned[0]


def test_one_that_stays_cut_is_told_in_the_end(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "AWAY_S", 0.2)
    with head as cluster:
        head.__exit__()  # nobody listens there any more
        with pytest.raises(ValueError, match=r"does not answer any more.*the job is not touched"):
            followed(cluster)


def test_a_refusal_ends_it_at_once(head: Head) -> None:
    with head as cluster, pytest.raises(ValueError, match="there is none of that name"):
        followed(cluster)


@pytest.mark.parametrize(("status", "given", "code"), [("SUCCEEDED", 0, 0), ("FAILED", 7, 7), ("FAILED", -9, 1), ("STOPPED", None, 1)])
def test_the_exit_code_is_that_of_the_jobs_process(head: Head, status: str, given: int | None, code: int) -> None:
    head.job("mine", status, driver_exit_code=given)
    with head as cluster:
        assert followed(cluster)[0] == code


def test_a_list_of_jobs_needs_no_log_of_any(head: Head) -> None:
    head.job("mine", "FAILED", JobSpec("demo", tag="a tag"), message="it\nfailed", driver_exit_code=3)
    with head as cluster:
        (record,) = [described(seen) for seen in cluster.all()]
    assert (record["recipe"], record["tag"], record["message"], record["exit_code"]) == ("demo", "a tag", "it failed", 3)
    assert not [request for request in head.asked if request.endswith("/logs")]


def test_a_log_that_cannot_be_read_is_told_beside_the_rest(head: Head) -> None:
    head.job("mine", "RUNNING", JobSpec("demo"))
    head.logs["mine"] = "first\nlast\n\n"
    with head as cluster:
        assert last_line(cluster, "mine") == "last"
        head.broken = lambda request: (500, b"no such file") if request.endswith("/logs") else None
        assert "its log cannot be read" in (last_line(cluster, "mine") or "")


def test_handshakes_that_fail_in_the_clients_own_way_are_made_again(head: Head) -> None:
    """Ray's client lets errors of aiohttp through, which are of no kind of Python's own."""
    head.job("mine", "RUNNING")
    done = threading.Event()

    def broken(request: str) -> Answer | None:
        if request.endswith("/logs/tail") and sum(r.endswith("/logs/tail") for r in head.asked) > 3:
            head.job("mine", "SUCCEEDED")
            done.set()
        return (200, b"no socket") if request.endswith("/logs/tail") else None

    head.broken = broken
    with head as cluster:
        assert followed(cluster)[0] == 0
    assert done.is_set()
