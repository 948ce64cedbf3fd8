"""A server of streams in this process, on a port of its own: the real application over real HTTP, without Ray."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from mutual_forcing.orchestration.generation.opened_model import OpenedModel
from mutual_forcing.orchestration.serving.api import serve_app
from mutual_forcing.orchestration.serving.guard import GuardConfig
from mutual_forcing.orchestration.serving.http_server import Server, address_of, listen
from mutual_forcing.orchestration.serving.limits import Limits
from mutual_forcing.orchestration.serving.studio import LocalStudio


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A running server, and what it has."""

    url: str
    studio: LocalStudio
    described: dict[str, Any]

    def ask(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> Answer:
        """What is answered, which must be as /openapi.json describes it."""
        connection, answer = self.open(method, path, body, headers)
        with connection:
            found = Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        for template, methods in self.described["paths"].items():
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), urlsplit(path).path) and method.lower() in methods:
                self._as_described(found, methods[method.lower()]["responses"], f"{method} {template}")
        return found

    def _as_described(self, answer: Answer, responses: dict[str, Any], what: str) -> None:
        assert str(answer.status) in responses, f"{what} answers {answer.status}, which is not described"
        response = responses[str(answer.status)]
        for header, about in response.get("headers", {}).items():
            assert not about.get("required") or header.lower() in answer.headers, f"{what}: no {header}"
        if not answer.body:
            return
        assert answer.headers["content-type"] in response["content"], what
        if (schema := response["content"].get("application/json", {}).get("schema")) is not None:
            named = self.described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            assert set(answer.json) == set(named["properties"]), what

    def open(self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[Any, HTTPResponse]:
        """Send a request, and read the head of the answer alone."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        given = {"content-type": "application/json"} if data is not None else {}
        connection.request(method, path, data, given | (headers or {}))
        return _closing(connection), connection.getresponse()

    def start(self, **request: object) -> str:
        answer = self.ask("POST", "/v1/streams", request)
        assert answer.status == 201, answer.body
        return answer.json["stream"]

    def film(self, name: str) -> bytes:
        """All pieces of a stream."""
        data, number = b"", 0
        while True:
            answer = self.ask("GET", f"/v1/streams/{name}/pieces/{number}")
            assert answer.status in (200, 204), answer.body
            data += answer.body
            number += bool(answer.body)
            if answer.headers["stream-over"] == "1":
                return data


class _closing:  # noqa: N801  as in contextlib, for a connection that has no context
    def __init__(self, connection: HTTPConnection) -> None:
        self.connection = connection

    def __enter__(self) -> HTTPConnection:
        return self.connection

    def __exit__(self, *_: object) -> None:
        self.connection.close()


@contextmanager
def serving(
    model: OpenedModel, limits: Limits | None = None, guard: GuardConfig | None = None, host: str = "127.0.0.1"
) -> Iterator[Served]:
    """Serve a model on a free port."""
    limits = limits or Limits()
    studio, ready = LocalStudio(lambda: model, limits), threading.Event()
    with listen(host, 0) as listener:
        server = Server(serve_app([studio], guard or GuardConfig(host), limits), ready.set)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        assert ready.wait(30)
        try:
            connection = HTTPConnection(urlsplit(address_of(listener)).netloc, timeout=30)
            connection.request("GET", "/openapi.json")
            described = json.loads(connection.getresponse().read())
            connection.close()
            yield Served(address_of(listener), studio, described)
        finally:
            studio.close()
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def until(true: Any, seconds: float = 10.0) -> bool:
    """Wait for a condition; whether it came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return bool(true())
