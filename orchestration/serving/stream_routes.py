"""The requests that concern streams: start one, fetch it, change it, stop it.

A stream's name begins with the number of the studio that makes it, and is answered by that one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from .answers import A_STREAM, BODY, PIECE, TOKEN, WHOLE, Said, StreamStatus, refusals
from .limits import Limits, Refused
from .stream_request import CaptionRequest, SayRequest, StreamRequest
from .studio import LONGEST_WAIT_S, About, Studio

ENDING = set[asyncio.Task[None]]()  # the loop itself holds its tasks loosely
ALIVE = 3  # signs of life in the time after which a viewer counts as gone

Name = Annotated[str, Path(pattern=r"^[0-9]{1,4}-[A-Za-z0-9_-]{22}$", description="As `POST /v1/streams` gave it.")]


def stream_routes(studios: Sequence[Studio], limits: Limits) -> APIRouter:
    """See the module."""
    routes = APIRouter(prefix="/v1/streams")
    _watching(routes, studios, limits)
    _changing(routes, studios)
    return routes


def _watching(routes: APIRouter, studios: Sequence[Studio], limits: Limits) -> None:
    @routes.post("", status_code=201, response_model=StreamStatus, responses=refusals(*TOKEN, *BODY, 429, 503))
    async def start(request: StreamRequest, http: Request) -> dict[str, Any]:
        """Start a stream. It is made as fast as it is fetched, and ends when nobody fetches it."""
        address = http.client.host if http.client else ""
        return await (await _freest(studios)).start(request, address)

    @routes.get("/{name}", response_model=StreamStatus, responses=refusals(*TOKEN, *A_STREAM))
    async def status(name: Name) -> dict[str, Any]:
        """How a stream is going. Asking is a sign of life."""
        return await _studio_of(studios, name).status(name)

    @routes.get("/{name}/pieces/{number}", response_class=Response, responses=PIECE | refusals(*TOKEN, *A_STREAM, 409))
    async def piece(
        name: Name,
        number: Annotated[int, Path(ge=0, description="0, 1, ...: the last that was fetched, or the one after it.")],
        wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S, description="Seconds to wait for it where it is not made yet.")] = 2.0,
    ) -> Response:
        """The next bytes of a fragmented mp4, or those that were fetched last once more."""
        found = await _studio_of(studios, name).piece(name, number, wait)
        headers = {"cache-control": "no-store", "stream-over": str(int(found.over))}
        if not found.data and not found.over:
            return Response(status_code=204, headers=headers)
        return Response(found.data, media_type="video/mp4", headers=headers)

    @routes.get("/{name}/media", response_class=StreamingResponse, responses=WHOLE | refusals(*TOKEN, *A_STREAM))
    async def media(name: Name) -> StreamingResponse:
        """All of a stream as one fragmented mp4, for players. Whoever hangs up has stopped it."""
        studio = _studio_of(studios, name)
        await studio.status(name)  # what is not there is refused before the answer begins
        return StreamingResponse(_whole(studio, name, limits.gone_s), media_type="video/mp4", headers={"cache-control": "no-store"})


def _changing(routes: APIRouter, studios: Sequence[Studio]) -> None:
    @routes.post("/{name}/words", responses=refusals(*TOKEN, *BODY, *A_STREAM, 409, 429))
    async def say(name: Name, request: SayRequest) -> Said:
        """Append what is said: it follows the last word, or begins with the next chunk that is made."""
        return Said(words=await _studio_of(studios, name).say(name, request.text))

    @routes.put("/{name}/caption", status_code=204, responses=refusals(*TOKEN, *BODY, *A_STREAM, 409))
    async def caption(name: Name, request: CaptionRequest) -> None:
        """Another caption from the next chunk on."""
        await _studio_of(studios, name).caption(name, request.caption)

    @routes.delete("/{name}", status_code=204, responses=refusals(*TOKEN, *A_STREAM))
    async def stop(name: Name) -> None:
        """End a stream; its place is free."""
        await _studio_of(studios, name).stop(name)


async def answering(studios: Sequence[Studio]) -> list[tuple[Studio, About]]:
    """Those that answer.

    Raises:
        Refused: none does, and why the first one does not.
    """
    every: list[About | BaseException] = await asyncio.gather(*(studio.about() for studio in studios), return_exceptions=True)
    found = [(studio, about) for studio, about in zip(studios, every, strict=True) if isinstance(about, About)]
    if not found:
        raise next(error for error in every if isinstance(error, BaseException))
    return found


def _studio_of(studios: Sequence[Studio], name: str) -> Studio:
    number = int(name.partition("-")[0])
    if number >= len(studios):
        raise Refused(404, f"stream {name!r}: there is none; start one")
    return studios[number]


async def _freest(studios: Sequence[Studio]) -> Studio:
    if len(studios) == 1:
        return studios[0]
    return min(await answering(studios), key=lambda found: found[1].viewers / found[1].places)[0]


async def _whole(studio: Studio, name: str, gone_s: float) -> AsyncIterator[bytes]:
    """Bytes of a stream, at the pace of who takes them. While he does not, the stream waits, but is not taken for gone."""

    async def alive() -> None:
        with contextlib.suppress(Refused):
            while True:
                await asyncio.sleep(gone_s / ALIVE)
                await studio.status(name)

    sign = asyncio.create_task(alive())
    number, over = 0, False
    try:
        while not over:
            found = await studio.piece(name, number, gone_s / ALIVE)
            over = found.over
            if found.data:
                number += 1
                yield found.data
    finally:
        sign.cancel()
        if not over:  # not waited for: who hangs up has this cancelled
            stop = asyncio.create_task(_stopped(studio, name))
            ENDING.add(stop)
            stop.add_done_callback(ENDING.discard)


async def _stopped(studio: Studio, name: str) -> None:
    with contextlib.suppress(Refused):
        await studio.stop(name)
