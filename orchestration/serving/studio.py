"""A model with the batches of its viewers, as an HTTP edge speaks to it: in the same process, or in that of a replica.

All its methods take and give what crosses process borders; what is refused is a `Refused`, or a ValueError that names the field.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ...datasets.ffmpeg.media_stream import MIME
from ..generation.opened_model import OpenedModel, open_model
from .limits import Limits
from .stream_request import StreamRequest, asked, checked_caption, checked_speech
from .viewer import Piece
from .viewer_batches import Batches

LONGEST_WAIT_S = 20.0


@dataclass(frozen=True)
class ModelSource:
    """What `open_model` is given."""

    checkpoint: str
    settings: tuple[str, ...] = ()
    device: str = "auto"
    threads: int = 0

    def open(self) -> OpenedModel:
        return open_model(self.checkpoint, self.settings, self.device, threads=self.threads)


class Studio(Protocol):
    """What makes streams."""

    async def start(self, request: StreamRequest, address: str) -> dict[str, Any]: ...

    async def piece(self, name: str, number: int, wait_s: float) -> Piece: ...

    async def say(self, name: str, text: str) -> list[tuple[str, float, float]]: ...

    async def caption(self, name: str, text: str) -> None: ...

    async def stop(self, name: str) -> None: ...

    async def status(self, name: str) -> dict[str, Any]: ...

    async def about(self) -> About: ...


@dataclass(frozen=True)
class About:
    """What a studio has. clips: held-out ones, whose first picture can be taken."""

    width: int
    height: int
    fps: float
    chunk_s: float
    controls: tuple[str, ...]
    clips: int
    stage: str
    step: int
    weights: str
    moves: int
    multi_moves: int
    guidance: float
    mime: str
    viewers: int
    places: int
    batches: tuple[int, ...]


class LocalStudio:
    """The model is in this process. opened: gives it, once; number: of this studio among several, which its streams' names begin with."""

    def __init__(self, opened: Callable[[], OpenedModel], limits: Limits, number: int = 0) -> None:
        self._limits = limits
        self._model = opened()
        self._batches = Batches(self._model, limits, f"{number}-")

    @property
    def batches(self) -> Batches:
        return self._batches

    async def start(self, request: StreamRequest, address: str) -> dict[str, Any]:
        wanted = await asyncio.to_thread(asked, request, self._model, self._limits)
        return self._batches.ask(wanted, address).status()

    async def piece(self, name: str, number: int, wait_s: float) -> Piece:
        return await self._batches.viewer(name).piece(number, min(wait_s, LONGEST_WAIT_S, self._limits.gone_s / 2))

    async def say(self, name: str, text: str) -> list[tuple[str, float, float]]:
        return list(await asyncio.wrap_future(self._batches.say(name, checked_speech(text, self._model))))

    async def caption(self, name: str, text: str) -> None:
        await asyncio.wrap_future(self._batches.caption(name, checked_caption(text, self._model)))

    async def stop(self, name: str) -> None:
        await asyncio.wrap_future(self._batches.stop(name))

    async def status(self, name: str) -> dict[str, Any]:
        return self._batches.viewer(name).status()

    async def about(self) -> About:
        model, clock = self._model, self._model.record.timeline
        return About(
            model.record.width,
            model.record.height,
            clock.fps,
            float(clock.chunk),
            model.controls,
            0 if model.dataset is None else len(model.dataset.held_out),
            model.stage,
            model.step,
            model.identity,
            model.record.objective.few.moves,
            model.record.samples.multi_steps,
            model.record.samples.multi_guidance,
            MIME,
            self._batches.busy,
            self._limits.viewers,
            self._batches.sizes,
        )

    def close(self) -> None:
        self._batches.close()
