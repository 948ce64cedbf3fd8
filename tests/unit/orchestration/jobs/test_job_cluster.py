"""The Jobs API from outside: addresses that are none, heads that are silent, refuse or are of another version; logs line by line."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import ray
from dead_servers import KINDS
from hypothesis import given
from hypothesis import strategies as st

from mutual_forcing.orchestration.jobs import cluster
from mutual_forcing.orchestration.jobs.cluster import Lines, connect


@contextmanager
def head(status: int, body: bytes) -> Iterator[str]:
    """Something that answers every question so."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def refusal(address: str) -> str:
    with pytest.raises(ValueError, match=r"^--address ") as refused:
        connect(address, lambda _: None)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cluster.ADDRESS, raising=False)
    monkeypatch.setattr(cluster, "ANSWER_S", 0.5)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "head:8265",
        "ray://head:10001",
        "http://",
        "http://head:8265/jobs",
        "file:///etc/passwd",
        "auto",
        "http://[::1",
        "http://head:99999",
    ],
)
def test_what_is_no_address_of_a_dashboard_is_refused(address: str) -> None:
    assert "give the head's dashboard, such as http://127.0.0.1:8265" in refusal(address)


def test_a_password_in_an_address_is_not_repeated() -> None:
    assert "CANARY" not in refusal("http://me:CANARY@head:8265")


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_that_is_dead_or_silent_is_told_within_seconds(kind: str) -> None:
    with KINDS[kind]() as place:
        said = refusal(place)
    assert "nothing answers there" in said or "what answers is no Ray dashboard" in said


@pytest.mark.parametrize(("status", "body"), [(200, b"hello"), (200, b"[]"), (404, b""), (302, b""), (500, b"{}")])
def test_what_is_no_dashboard_is_told(status: int, body: bytes) -> None:
    with head(status, body) as address:
        assert "what answers is no Ray dashboard" in refusal(address)


@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_is_refused_is_told_with_the_place_of_the_right_one(status: int) -> None:
    with head(status, b"no") as address:
        assert "RAY_AUTH_TOKEN_PATH" in refusal(address)


def test_a_token_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(ValueError, match=r"^RAY_AUTH_TOKEN_PATH='/nowhere/token': there is no such file"):
        connect("http://127.0.0.1:8265", lambda _: None)


def test_another_version_of_ray_is_refused_with_both_named() -> None:
    with head(200, json.dumps({"ray_version": "2.9.3"}).encode()) as address:
        said = refusal(address)
    assert "Ray 2.9.3 runs there" in said
    assert f"{ray.__version__} here" in said


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with head(404, b"") as address:
        monkeypatch.setenv(cluster.ADDRESS, address)
        with pytest.raises(ValueError, match=address):
            connect(None, lambda _: None)


@given(st.lists(st.text("ab\n", max_size=12), max_size=6), st.data())
def test_every_line_is_said_once_however_the_connection_breaks(texts: list[str], data: st.DataObject) -> None:
    whole, said = "".join(texts), list[str]()
    lines = Lines(said.append)
    for _ in range(data.draw(st.integers(0, 3))):  # connections that break somewhere
        lines.again()
        end, at = data.draw(st.integers(0, len(whole))), 0
        while at < end:
            step = data.draw(st.integers(1, end - at))
            lines.see(whole[at : at + step])
            at += step
    lines.again()
    lines.see(whole + "\n")
    assert said == whole.split("\n")
