"""What a viewer asks for, and what becomes of it: a prompt and a sampler, checked against the model and the limits."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from tempfile import NamedTemporaryFile
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from ...datasets.ffmpeg.ffmpeg_child import MediaError
from ...datasets.ffmpeg.still import read_still
from ...datasets.intake.sidecars import TimedWords, is_text, parse_text
from ...model.sampler import SamplerConfig
from ..generation.opened_model import OpenedModel
from ..generation.playing import MAX_SAID, Prompt, spoken_from
from .limits import MAX_CAPTION, MAX_GUIDANCE, MAX_MOVES, MAX_PICTURE, MAX_TEXT, MAX_WORDS, Limits


class SpokenWord(BaseModel):
    """A word, and when it is said, in seconds on the stream's clock."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    word: str = Field(min_length=1, max_length=100)
    start: float = Field(ge=0)
    end: float = Field(ge=0)


class StreamRequest(BaseModel):
    """A stream to be started."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    caption: str = Field(default="", max_length=MAX_CAPTION, description="Who is seen, and how they speak.")
    transcript: Annotated[str, Field(max_length=MAX_SAID)] | Annotated[list[SpokenWord], Field(max_length=MAX_WORDS)] = Field(
        default="",
        description="What is said: plain text, spoken from the beginning at an even rate, or words with their times; within `seconds`.",
    )
    seconds: float = Field(default=10.0, gt=0, description="Length of the film; the server has a limit.")
    seed: int = Field(default=0, ge=0, lt=2**53, description="The same seed gives the same film, but for rounding.")
    mode: Literal["few", "multi"] = Field(default="few", description="few: distilled, fast. multi: Euler steps with guidance.")
    moves: int | None = Field(default=None, ge=1, le=MAX_MOVES, description="Moves a chunk; left out: those of the model's own samples.")
    guidance: float | None = Field(
        default=None, ge=0, le=MAX_GUIDANCE, description="Of mode multi; left out: that of the model's own samples."
    )
    first_frame: str | None = Field(
        default=None, max_length=ceil(MAX_PICTURE / 3) * 4, description="The first picture: a PNG, JPEG or WebP file in base64."
    )
    like: int | None = Field(
        default=None, ge=0, description="A held-out clip whose first picture is taken; left out, without first_frame: 0."
    )


class SayRequest(BaseModel):
    """What is said next."""

    model_config = ConfigDict(extra="forbid")
    text: str = Field(min_length=1, max_length=MAX_SAID, description="It follows the last word, or begins with the next chunk.")


class CaptionRequest(BaseModel):
    """Another caption, from the next chunk on."""

    model_config = ConfigDict(extra="forbid")
    caption: str = Field(max_length=MAX_CAPTION, description="Who is seen, and how they speak, from then on.")


@dataclass(frozen=True)
class Asked:
    """A request that can be served. picture: uint8 `[H, W, 3]`, or None for that of held-out clip `like`; notes: what was not followed."""

    caption: str
    words: TimedWords
    chunks: int
    seed: int
    sampler: SamplerConfig
    picture: np.ndarray | None
    like: int
    notes: tuple[str, ...] = field(default=())

    def prompt(self, model: OpenedModel) -> Prompt:
        """With the first latent; for the thread that uses the model."""
        if self.picture is None:
            first = torch.from_numpy(model.held_out(self.like).get("video")[:1].astype("float32"))
        else:
            first = model.video.encode(torch.from_numpy(self.picture.copy())[None, None].to(model.device))[0].float().cpu()
        return Prompt(first, self.caption, self.words, self.seed)


def asked(request: StreamRequest, model: OpenedModel, limits: Limits) -> Asked:
    """Check a request.

    Raises:
        ValueError: it cannot be served; one line names the field, the value and the remedy.
    """
    if request.seconds > limits.seconds:
        raise ValueError(f"seconds: {request.seconds:g}; this server makes streams of at most {limits.seconds:g} s")
    chunks = ceil(request.seconds / float(model.record.timeline.chunk))
    notes: list[str] = []
    sampler = model.sampler(request.mode, request.moves, request.guidance, lambda line: notes.append(line.replace("--", "")))
    caption = checked_caption(request.caption, model)
    words = _words(request.transcript, request.seconds)
    if words and isinstance(request.transcript, str):
        notes.append(f"transcript: {len(words)} words without times are spread from 0 to {words[-1][2]:.1f} s")
    if words and "transcript" not in model.controls:
        raise ValueError("transcript: this model was trained on clips without words; leave it empty")
    return Asked(caption, words, chunks, request.seed, sampler, *_picture(request, model), tuple(notes))


def checked_caption(caption: str, model: OpenedModel) -> str:
    """A caption on one line.

    Raises:
        ValueError: the model knows none, or it is no text.
    """
    caption = " ".join(caption.split())
    if caption and "caption" not in model.controls:
        raise ValueError("caption: this model was trained on clips without captions; leave it empty")
    if caption and model.record.network.video.caption_features:
        raise ValueError("caption: this model reads captions as features of a text encoder, which is not here; leave it empty")
    if not is_text(caption):
        raise ValueError("caption: is not UTF-8; write it again")
    return caption


def checked_speech(text: str, model: OpenedModel) -> str:
    """What is to be said, as `checked_caption` does."""
    if "transcript" not in model.controls:
        raise ValueError("text: this model was trained on clips without words; it cannot be told what to say")
    if not is_text(text):
        raise ValueError("text: is not UTF-8; write it again")
    return text


def said_within(text: str, start_s: float, end_s: float, field: str) -> TimedWords:
    """Words that are said from a time on, at an even rate.

    Raises:
        ValueError: there are none, too many, or the film ends before they are said.
    """
    words = spoken_from(text, start_s)
    if words[-1][2] > end_s:
        raise ValueError(
            f"{field}: {len(words)} words without times last until {words[-1][2]:.1f} s, the stream until {end_s:g} s; "
            "give more seconds or fewer words"
        )
    return words


def _words(transcript: str | list[SpokenWord], seconds: float) -> TimedWords:
    if isinstance(transcript, str):
        spoken = " ".join(transcript.split())
        if not is_text(spoken):
            raise ValueError("transcript: is not UTF-8; write it again")
        return said_within(spoken, 0.0, seconds, "transcript") if spoken else ()
    if sum(len(word.word) for word in transcript) > MAX_TEXT:
        raise ValueError(f"transcript: of more than {MAX_TEXT} letters; append later words while the stream plays")
    words = parse_text([word.model_dump() for word in transcript], "transcript").words
    for before, after in pairwise(words):
        if after[1] < before[1]:
            raise ValueError(f"transcript: {after[0][:40]!r} at {after[1]:g} s comes after a word at {before[1]:g} s; put them in order")
    if (end := max((end for _, _, end in words), default=0.0)) > seconds:
        raise ValueError(f"transcript: its last word ends at {end:g} s, the stream at {seconds:g} s; give more seconds or fewer words")
    return words


def _picture(request: StreamRequest, model: OpenedModel) -> tuple[np.ndarray | None, int]:
    if request.first_frame is None:
        clips = 0 if model.dataset is None else len(model.dataset.held_out)
        number = request.like or 0
        if not clips:
            raise ValueError("first_frame: this model comes without clips to take it from; send a picture")
        if number >= clips:
            raise ValueError(f"like: {number}; the run has {clips} held-out clips, numbered from 0")
        return None, number
    if request.like is not None:
        raise ValueError("like: there is a first_frame as well; send one of them")
    try:
        data = base64.b64decode(request.first_frame, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("first_frame: is not base64; encode the file's bytes") from None
    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return read_still(file.name, model.record.width, model.record.height), 0
        except MediaError as error:
            raise ValueError(f"first_frame: {error.reason}") from None
