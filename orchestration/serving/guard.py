"""Who may speak to the server, and how much they may say: checked before anything is parsed.

A page of another site must not use the viewer's browser to reach a server on loopback: by a name of its own that points here (Host), or by
requests across sites (Origin). Where the server is bound elsewhere everyone can reach it, and a token is asked for.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
MAX_BODY = 6 << 20  # a first picture in base64, and text
PATIENCE_BYTES = 4 * MAX_BODY  # that are read and thrown away, so that whoever sends too much learns it
SHORTEST_TOKEN = 16
OPENAPI = "/openapi.json"
OPEN = ("/", "/healthz", OPENAPI)  # they hold nothing of this model or its viewers: what they speak of needs the token
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True)
class GuardConfig:
    """host: that the server is bound to; token: asked for where there is one; names: that it is also known by, besides loopback's."""

    host: str
    token: str | None = None
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            make = "python -c 'import secrets; print(secrets.token_urlsafe())'"
            raise ValueError(f"--token: of {len(self.token)} letters; give at least {SHORTEST_TOKEN}: {make}")
        if not self.token and not is_loopback(self.host):
            raise ValueError(f"--host={self.host}: others can reach it; give --token, or MUTUAL_FORCING_TOKEN in the environment")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what is bound there."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware."""

    def __init__(self, app: App, config: GuardConfig) -> None:
        self._app, self._config = app, config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # there are no web sockets here: the connection is closed
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            if refusal[0] == 413 and int(headers["content-length"]) <= PATIENCE_BYTES:
                await _discard(receive)
            await _refuse(send, *refusal)
            return
        body = _Body(receive)

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(header for header in more if header[0] not in given)]
            await send(message)

        await self._app(scope, body, sent)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _name_of(host)
        # Elsewhere a server has names that it does not know, and a page that points one of its own here has no token.
        known = (*LOOPBACK_NAMES, *self._config.names)
        if (is_loopback(self._config.host) or self._config.names) and name not in known:
            return 421, f"host {name[:80]!r}: this server is not known by that name; give it as --name when it is started"
        if origin is not None and _place_of(origin) != host.lower():
            return 403, f"origin {origin[:80]!r}: pages of other sites may not use this server"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and scope["path"] not in OPEN:
            return 403, "sec-fetch-site: pages of other sites may not use this server"
        if self._config.token and scope["path"] not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._config.token.encode()):
                return 401, "authorization: send `Bearer TOKEN` with the token that the server was started with"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 12:
            return 400, "content-length: is no number"
        if int(length) > MAX_BODY:
            return 413, f"body: of {int(length) / 2**20:.1f} MB; at most {MAX_BODY >> 20} MB: send a smaller picture"
        if scope["method"] in ("POST", "PUT", "PATCH") and not headers.get("content-type", "").startswith("application/json"):
            return 415, "content-type: must be application/json"
        return None


class _Body:
    """A request's body, as long as it is no larger than `MAX_BODY`: chunks need not say beforehand how many follow."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._left = receive, MAX_BODY

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            await _discard(self._receive, message)
            raise HTTPException(413, f"body: more than {MAX_BODY >> 20} MB; send a smaller picture")
        return message


async def _discard(receive: Receive, message: MutableMapping[str, Any] | None = None) -> None:
    """Read on, within reason: who is still sending hears no answer."""
    left = PATIENCE_BYTES
    while left > 0 and (message is None or message.get("more_body", False)):
        message = await receive()
        left -= len(message.get("body", b""))


def _name_of(host: str) -> str:
    """A Host header's name without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def _place_of(origin: str) -> str | None:
    """An Origin header's name and port; None of one that is no address."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = {"content-type": "application/json", "connection": "close", **HEADERS}
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    await send({"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})
    await send({"type": "http.response.body", "body": json.dumps({"error": reason}).encode()})
