"""The socket and the loop that serve an application over HTTP, until they are told to end."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn

SEND_BYTES = 128 << 10  # of an answer that the system holds: film that nobody fetches waits in the studio, where it is counted
GRACE_S = 3
CONNECTIONS = 256


def listen(host: str, port: int) -> socket.socket:
    """Bind an address (port 0: any that is free).

    Raises:
        ValueError: it cannot be; the system's reason is named.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"--host={host} --port={port}: cannot be listened on ({reason}); choose another port, or stop what has it"
        ) from error
    listener.listen(128)
    return listener


def address_of(listener: socket.socket) -> str:
    """As a browser wants it."""
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


class Server(uvicorn.Server):
    """uvicorn on a socket that is bound already; `ready` is called when it answers."""

    def __init__(self, app: Any, ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,  # anyone could write them: addresses are those of connections
                timeout_graceful_shutdown=GRACE_S,
                limit_concurrency=CONNECTIONS,
                h11_max_incomplete_event_size=16 << 10,
                ws="none",
                lifespan="off",
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()
