"""The HTTP interface of `mutual-forcing serve`, described at /openapi.json, and the page that uses it.

    POST   /v1/streams                     start one                    GET /                  the page
    GET    /v1/streams/NAME/pieces/N       piece 0, 1, ... of it        GET /v1/about          the model, places
    GET    /v1/streams/NAME/media          all of it, as one film       GET /healthz
    GET    /v1/streams/NAME                how it is going
    POST   /v1/streams/NAME/words          say this next
    PUT    /v1/streams/NAME/caption        from now on like this
    DELETE /v1/streams/NAME                stop

A stream's name is not to be guessed: who knows it may fetch, change and stop it. It is served by the studio that its number names.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ... import __version__
from .guard import App, Guard, GuardConfig
from .limits import Limits, Refused
from .stream_request import CaptionRequest, SayRequest, StreamRequest
from .studio import LONGEST_WAIT_S, About, Studio

ROOM, PAGE = __name__.rpartition(".")[0], "page.html"
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; media-src blob:; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ENDING = set[asyncio.Task[None]]()  # the loop itself holds its tasks loosely
ALIVE = 3  # signs of life in the time after which a viewer counts as gone

Name = Annotated[str, Path(pattern=r"^[0-9]{1,4}-[A-Za-z0-9_-]{22}$")]


class Said(BaseModel):
    """Words that were appended, with their times on the stream's clock in seconds."""

    words: list[tuple[str, float, float]]


class Problem(BaseModel):
    """Why a request was refused, on one line."""

    error: str


def serve_app(studios: Sequence[Studio], guard: GuardConfig, limits: Limits) -> App:
    """The application. studios: each with the model, which shares the viewers."""
    app = FastAPI(
        title="Mutual Forcing",
        version=__version__,
        summary="Films that are fetched while they are generated.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        responses={code: {"model": Problem} for code in (401, 403, 404, 409, 410, 413, 422, 429, 503)},
    )
    _answers_to_errors(app)

    def studio_of(name: str) -> Studio:
        number = int(name.partition("-")[0])
        if number >= len(studios):
            raise Refused(404, f"stream {name!r}: there is none; start one")
        return studios[number]

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_page(), headers={"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"})

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/healthz")
    async def healthy() -> dict[str, bool]:
        """Whether the server answers."""
        return {"ok": True}

    @app.get("/v1/about")
    async def about() -> dict[str, Any]:
        """The model, what it was trained with, and how many places are taken."""
        every = [about for _, about in await _answering(studios)]
        whole = asdict(every[0]) | {name: sum(getattr(one, name) for one in every) for name in ("viewers", "places")}
        return whole | {"batches": [size for one in every for size in one.batches], "limits": asdict(limits)}

    @app.post("/v1/streams", status_code=201)
    async def start(request: StreamRequest, http: Request) -> dict[str, Any]:
        """Start a stream. It is made as fast as it is fetched, and ends when nobody fetches it."""
        address = http.client.host if http.client else ""
        return await (await _freest(studios)).start(request, address)

    @app.get("/v1/streams/{name}")
    async def status(name: Name) -> dict[str, Any]:
        """How a stream is going. Asking is a sign of life."""
        return await studio_of(name).status(name)

    @app.get("/v1/streams/{name}/pieces/{number}", response_class=Response)
    async def piece(
        name: Name, number: Annotated[int, Path(ge=0)], wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT_S)] = 2.0
    ) -> Response:
        """The next bytes of a fragmented mp4, or those that were fetched last once more. 204: there are none yet; ask again.
        The header `Stream-Over: 1` says that none will follow.
        """
        found = await studio_of(name).piece(name, number, wait)
        headers = {"cache-control": "no-store", "stream-over": str(int(found.over))}
        if not found.data and not found.over:
            return Response(status_code=204, headers=headers)
        return Response(found.data, media_type="video/mp4", headers=headers)

    @app.get("/v1/streams/{name}/media", response_class=StreamingResponse)
    async def media(name: Name) -> StreamingResponse:
        """All of a stream as one fragmented mp4, for players. Whoever hangs up has stopped it."""
        studio = studio_of(name)
        await studio.status(name)  # what is not there is refused before the answer begins
        return StreamingResponse(_whole(studio, name, limits.gone_s), media_type="video/mp4", headers={"cache-control": "no-store"})

    @app.post("/v1/streams/{name}/words")
    async def say(name: Name, request: SayRequest) -> Said:
        """Append what is said: it follows the last word, or begins with the next chunk that is made."""
        return Said(words=await studio_of(name).say(name, request.text))

    @app.put("/v1/streams/{name}/caption", status_code=204)
    async def caption(name: Name, request: CaptionRequest) -> None:
        """Another caption from the next chunk on."""
        await studio_of(name).caption(name, request.caption)

    @app.delete("/v1/streams/{name}", status_code=204)
    async def stop(name: Name) -> None:
        """End a stream; its place is free."""
        await studio_of(name).stop(name)

    return Guard(app, guard)  # type: ignore[arg-type]


async def _answering(studios: Sequence[Studio]) -> list[tuple[Studio, About]]:
    """Those that answer.

    Raises:
        Refused: none does, and why the first one does not.
    """
    every: list[About | BaseException] = await asyncio.gather(*(studio.about() for studio in studios), return_exceptions=True)
    found = [(studio, about) for studio, about in zip(studios, every, strict=True) if isinstance(about, About)]
    if not found:
        raise next(error for error in every if isinstance(error, BaseException))
    return found


async def _freest(studios: Sequence[Studio]) -> Studio:
    if len(studios) == 1:
        return studios[0]
    return min(await _answering(studios), key=lambda found: found[1].viewers / found[1].places)[0]


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


def _answers_to_errors(app: FastAPI) -> None:
    def line(status: int, reason: str, retry_s: int | None = None) -> JSONResponse:
        return JSONResponse({"error": reason}, status, {} if retry_s is None else {"retry-after": str(retry_s)})

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return line(error.status, error.reason, error.retry_s)

    @app.exception_handler(ValueError)
    async def wrong(_: Request, error: ValueError) -> JSONResponse:
        return line(422, " ".join(str(error).split()))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        return line(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"][1:]]
        what = str(first["msg"]).removeprefix("Value error, ")
        return line(422, f"{'.'.join(where) or 'body'}: {what}; /openapi.json says what is taken")


@lru_cache(maxsize=1)
def _page() -> str:
    return resources.files(ROOM).joinpath(PAGE).read_text(encoding="utf-8")
