"""An S3 of this machine: moto's server, real HTTP, in front of which requests can go wrong."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Kind = Literal["503", "501", "denied", "missing", "reset", "lost", "careless", "slow", "hang", "short", "wrong"]
CONDITIONS = ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH")
ERRORS = {
    "501": ("501 Not Implemented", "NotImplemented"),
    "503": ("503 Slow Down", "SlowDown"),
    "denied": ("403 Forbidden", "AccessDenied"),
    "missing": ("404 Not Found", "NoSuchKey"),
}


@dataclass
class Fault:
    """What happens to the next `times` requests of this method whose path contains `part`. short: half of the answer comes, then the
    connection ends; wrong: a bit of every thousandth byte of the answer is another; lost: it is done, and the connection ends before the
    answer; careless: it is done whatever its conditions are; 501: it is not done if it has any; slow: the answer takes a second;
    hang: there is none until the test ends.
    """

    kind: Kind
    method: str
    part: str
    times: int


@dataclass
class S3:
    """uri: of an empty bucket; faults: to come; met: those that came; hold: no request is answered while it is cleared."""

    uri: str
    faults: list[Fault] = field(default_factory=list)
    met: list[tuple[str, str]] = field(default_factory=list)
    up: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)

    def next_for(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times and fault.method == method and fault.part in path:
                fault.times -= 1
                self.met.append((fault.kind, f"{method} {path}"))
                return fault
        return None


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The server, and an environment in which everything finds it."""
    backend = DomainDispatcherApplication(create_backend_app)
    bucket = f"bucket-{secrets.token_hex(4)}"  # moto keeps what a server had for the next one
    place = S3(f"s3://{bucket}/runs")
    place.up.set()

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        if not place.up.is_set():
            _reset(environ)
        fault = place.next_for(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if fault is None:
            return backend(environ, start)
        if fault.kind in ("slow", "hang"):
            place.closed.wait(1.0 if fault.kind == "slow" else None)
            return backend(environ, start)
        if fault.kind in ("short", "wrong"):
            content = b"".join(backend(environ, start))
            if fault.kind == "short":
                return [content[: len(content) // 2]]
            return [bytes(x ^ 8 if at % 1009 == 500 else x for at, x in enumerate(content))]
        if fault.kind == "careless" or (fault.kind == "501" and not any(name in environ for name in CONDITIONS)):
            return backend({name: value for name, value in environ.items() if name not in CONDITIONS}, start)
        if fault.kind == "lost":
            b"".join(backend(environ, lambda *_: None))
            _reset(environ)
        if fault.kind == "reset":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0) // 2)  # in the middle of what it sends
            _reset(environ)
        status, code = ERRORS[fault.kind]
        start(status, [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>made to fail</Message></Error>".encode()]

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # an earlier server may have had this port, and its clients keep its credentials
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    try:
        yield place
    finally:
        place.closed.set()
        server.shutdown()


def _reset(environ: dict[str, Any]) -> NoReturn:
    connection: socket.socket = environ["werkzeug.socket"]
    connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError
