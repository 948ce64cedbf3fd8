"""The HTTP interface of `mutual-forcing serve`, described at /openapi.json, and the page that uses it.

    POST   /v1/streams                     start one                    GET /                  the page
    GET    /v1/streams/NAME/pieces/N       piece 0, 1, ... of it        GET /v1/about          the model, places
    GET    /v1/streams/NAME/media          all of it, as one film       GET /healthz
    GET    /v1/streams/NAME                how it is going              GET /openapi.json
    POST   /v1/streams/NAME/words          say this next
    PUT    /v1/streams/NAME/caption        from now on like this
    DELETE /v1/streams/NAME                stop

A stream's name is not to be guessed: who knows it may fetch, change and stop it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib import resources
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from ... import __version__
from .answers import TOKEN, Health, ServerAbout, refusals
from .guard import OPENAPI, App, Guard, GuardConfig
from .limits import Limits, Refused
from .stream_routes import answering, stream_routes
from .studio import Studio

ROOM, PAGE = __name__.rpartition(".")[0], "page.html"
PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; media-src blob:; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# For the description alone: `Guard` has looked at the token before anything is parsed.
BEARER = HTTPBearer(auto_error=False, description="The token that the server was started with; where it has none, nothing is asked for.")
NO_JSON = f"body: is not JSON in UTF-8{{}}; send an object with the fields that {OPENAPI} names"


def serve_app(studios: Sequence[Studio], guard: GuardConfig, limits: Limits) -> App:
    """The application. studios: each with the model, which shares the viewers."""
    app = FastAPI(
        title="Mutual Forcing",
        version=__version__,
        summary="Films that are fetched while they are generated.",
        openapi_url=OPENAPI,
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
    )
    _answers_to_errors(app)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_page(), headers={"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"})

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> Response:
        return Response(status_code=204)

    @app.get("/healthz", responses=refusals())
    async def healthy() -> Health:
        """Whether the server answers."""
        return Health(ok=True)

    @app.get("/v1/about", response_model=ServerAbout, responses=refusals(*TOKEN, 503), dependencies=[Depends(BEARER)])
    async def about() -> dict[str, Any]:
        """The model, what it was trained with, and how many places are taken."""
        every = [about for _, about in await answering(studios)]
        whole = asdict(every[0]) | {name: sum(getattr(one, name) for one in every) for name in ("viewers", "places")}
        return whole | {"batches": [size for one in every for size in one.batches], "limits": asdict(limits)}

    app.include_router(stream_routes(studios, limits), dependencies=[Depends(BEARER)])
    return Guard(app, guard)  # type: ignore[arg-type]


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
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # of the framework's own, which says no more
            return line(400, NO_JSON.format(""))
        if error.status_code in (404, 405):
            return line(error.status_code, f"{request.method} {request.url.path[:80]}: {error.detail}; {OPENAPI} says what there is")
        return line(error.status_code, str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return line(422, NO_JSON.format(f" ({first['ctx']['error']}, at letter {first['loc'][-1]})"))
        where = [str(part) for part in first["loc"][1:]]
        what = str(first["msg"]).removeprefix("Value error, ")
        return line(422, f"{'.'.join(where) or 'body'}: {what}; {OPENAPI} says what is taken")


@lru_cache(maxsize=1)
def _page() -> str:
    return resources.files(ROOM).joinpath(PAGE).read_text(encoding="utf-8")
