"""What the HTTP interface answers, as /openapi.json has it: bodies, headers, and every status with its reason."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Why a request was refused, on one line."""

    error: str = Field(description="The field, its value and what to do, or why it is not possible now.")


class Health(BaseModel):
    """The server answers."""

    ok: bool = Field(description="Always true.")


class Said(BaseModel):
    """Words that were appended."""

    words: list[tuple[str, float, float]] = Field(description="Each with its start and end, in seconds on the stream's clock.")


class StreamStatus(BaseModel):
    """How a stream is going."""

    stream: str = Field(description="Its name, which is not to be guessed.")
    state: Literal["waiting", "playing", "ended", "stopped", "left", "failed"] = Field(description="left: nobody asked for it any more.")
    reason: str = Field(description="Why it is over; empty while it is not.")
    time_to_first_chunk_s: float | None = Field(description="From the request until there were bytes; null before.")
    frames_per_s: float | None = Field(description="How fast it is made, of its latest chunks; null before the first.")
    fps: float = Field(description="How fast it plays.")
    made_s: float = Field(description="Seconds of film that are made.")
    fetched_s: float = Field(description="Seconds of film that were fetched.")
    ahead_s: float = Field(description="Seconds of film that are made and wait to be fetched.")
    waiting_bytes: int = Field(description="Bytes that wait to be fetched.")
    seconds: float = Field(description="Length of the whole film: what was asked for, in whole chunks.")
    caption: str = Field(description="That of the next chunk.")
    notes: list[str] = Field(description="What of the request was understood otherwise than written, and how.")


class LimitsAbout(BaseModel):
    """What the server gives to each and all."""

    viewers: int = Field(description="Streams at once of one copy of the model.")
    per_address: int = Field(description="Streams at once of one client's address.")
    batch: int = Field(description="Streams of which one evaluation of the network is, at most.")
    seconds: float = Field(description="Longest stream.")
    ahead_s: float = Field(description="Seconds of film that may wait to be fetched.")
    gone_s: float = Field(description="Without any request for so long a stream ends.")
    away_s: float = Field(description="Without anybody who fetches for so long a stream ends.")
    gather_s: float = Field(description="How long the first of a batch waits for others.")
    patience_s: float = Field(description="How long a stream may hold up others of its batch.")
    spoken_s: float = Field(description="Words may be appended up to so much after what is being made.")


class ServerAbout(BaseModel):
    """The model, and how many places are taken."""

    width: int = Field(description="Pixels.")
    height: int = Field(description="Pixels.")
    fps: float = Field(description="Pictures a second.")
    chunk_s: float = Field(description="Seconds that are generated at once.")
    controls: list[str] = Field(description="What the model was trained with: caption, transcript.")
    clips: int = Field(description="Held-out clips whose first picture can be taken (`like`).")
    stage: str = Field(description="Stage of training that the weights are of.")
    step: int = Field(description="Its step.")
    weights: str = Field(description="Names the weights by their contents.")
    moves: int = Field(description="Moves a chunk of mode few, where a request names none.")
    multi_moves: int = Field(description="Steps a chunk of mode multi, where a request names none.")
    guidance: float = Field(description="Of mode multi, where a request names none.")
    mime: str = Field(description="Type and codecs of the film, as Media Source Extensions take it.")
    viewers: int = Field(description="Streams now, of all copies.")
    places: int = Field(description="Streams at once, of all copies.")
    batches: list[int] = Field(description="Streams in each batch that is being made.")
    limits: LimitsAbout


REASONS = {
    400: "Not HTTP with JSON: a length that is no number, or a body that is not UTF-8.",
    401: "The server was started with a token, and the request has none or another.",
    403: "The request comes from a page of another site.",
    404: "There is no such stream.",
    409: "Not the next piece, or all of the stream is made or said.",
    410: "The stream is over; the reason is told.",
    413: "The body is too large.",
    415: "The body is not application/json.",
    421: "The server is not known by the name in Host.",
    422: "A field cannot be taken; it is named with what to do.",
    429: "This client has as many streams, or as many words that wait, as it may have.",
    503: "All places are taken, or a copy of the model does not answer.",
}
HEADERS = {
    401: {"WWW-Authenticate": {"description": "Bearer", "schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds until another try is worth it.", "schema": {"type": "integer"}}},
    503: {"Retry-After": {"description": "Seconds until another try is worth it.", "schema": {"type": "integer"}}},
}
AT_THE_DOOR, TOKEN, BODY, A_STREAM = (400, 403, 413, 421), (401,), (415, 422), (404, 410, 422, 503)
Responses = dict[int | str, dict[str, Any]]


def refusals(*codes: int) -> Responses:
    """What a request may be refused with, for `responses=`; those of every request are among them."""
    return {
        code: {"model": Problem, "description": REASONS[code]} | ({"headers": HEADERS[code]} if code in HEADERS else {})
        for code in sorted({*AT_THE_DOOR, *codes})
    }


FILM = {"video/mp4": {"schema": {"type": "string", "format": "binary"}}}
OVER = {"Stream-Over": {"description": "1: no piece follows this one.", "required": True, "schema": {"type": "string", "enum": ["0", "1"]}}}
WHOLE: Responses = {200: {"description": "Fragmented mp4, H.264 and AAC, as it is made.", "content": FILM}}
PIECE: Responses = {
    200: {"description": "Bytes of a fragmented mp4 that follow those of the piece before.", "content": FILM, "headers": OVER},
    204: {"description": "There are none yet; ask for the same piece again.", "headers": OVER},
}
