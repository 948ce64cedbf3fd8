"""Passes over a chunk of a stream as CUDA graphs: recorded once a shape, then played again with the contents of every chunk.

A pass of a large network over one chunk is thousands of short kernels, and a GPU runs them faster than Python starts them. A recorded pass
is started as a whole, but reads and writes where it did when it was recorded, so all that changes from chunk to chunk is copied there:

    Recorder    keys and values of the past and the present, in rows of every layer      once a chunk
     `- Tape    rotations, what may be read of the text, and the text if it is a part    once a chunk
                latents and times                                                        once a pass

Where there is no GPU nothing is recorded and the same work is done at once, so that all but the recording is tested anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .branch import Text
from .cache import KeysValues, Window
from .mask import Tokens
from .rope import Rotation
from .trunk import Seat
from .types import AV

WARM = 2  # passes before one is recorded: what is compiled, loaded or tuned at first use cannot be


@dataclass(frozen=True)
class Moving:
    """What every pass over the chunk in progress shares. whole: its text is all of the first that the stream had."""

    chunk: int
    shapes: tuple[torch.Size, ...]
    tokens: Tokens
    seats: dict[str, Seat]
    text: dict[str, Text]
    whole: bool
    turn: Rotation
    window: Window


Read = Callable[[int, Tensor, Tensor], KeysValues]
"""(layer, rotated keys, values) of the present -> keys and values of the past and the present."""
Evaluate = Callable[[Moving, Read, AV, AV, AV], AV]
"""(what the chunk's passes share, read, noisy latents, t, r) -> velocity."""


class Recorder:
    """The recorded passes of one stream. depth: layers of its network."""

    def __init__(self, evaluate: Evaluate, depth: int) -> None:
        self._evaluate, self._depth = evaluate, depth
        self._rows: list[KeysValues] = []
        self._tapes: dict[Hashable, Tape] = {}
        self._now: Moving | None = None
        self._span = (0, 0)
        self._pool: Any = None

    def velocity(self, now: Moving, noisy: AV, t: AV, r: AV) -> AV:
        """One pass, as `Evaluate` gives it."""
        if now is not self._now:
            self._load(now)
        past, end = self._span
        texts = tuple(text.keys_values[0][0].shape[1] for text in now.text.values())
        key = (now.shapes, past, end, now.whole, texts)
        tape = self._tapes.get(key)
        if tape is None:
            tape = self._tapes[key] = Tape(now, noisy, t, r)
            self._pool = tape.record(partial(self._evaluate, tape.now, partial(self._read, past, end)), self._pool)
        return tape.play(now, noisy, t, r)

    def present(self) -> list[KeysValues]:
        """Rotated keys, and values, of the chunk of the last pass, a layer each; they stay what they are."""
        past, end = self._span
        return [(k[:, past:end].clone(), v[:, past:end].clone()) for k, v in self._rows]

    def _read(self, past: int, end: int, layer: int, k: Tensor, v: Tensor) -> KeysValues:
        rows = self._rows[layer]
        for row, new in zip(rows, (k, v), strict=True):
            row[:, past:end].copy_(new)
        return rows[0][:, :end], rows[1][:, :end]

    def _load(self, now: Moving) -> None:
        """The past of another chunk."""
        self._now = None  # until it is whole
        for layer in range(self._depth):
            held = now.window.past(layer)
            past = sum(k.shape[1] for k, _ in held)
            end = past + len(now.tokens)
            if layer == 0 and (not self._rows or end > self._rows[0][0].shape[1]):
                self._rows, self._tapes = self._room(held[0][0], end + len(held)), {}
            for row, parts in zip(self._rows[layer], zip(*held, strict=True), strict=True):
                torch.cat(parts, dim=1, out=row[:, :past])
            self._span = past, end
        self._now = now

    def _room(self, like: Tensor, tokens: int) -> list[KeysValues]:
        """Rows of every layer; chunks differ by a token of sound, so there is one more for each in the window."""
        shape = (like.shape[0], tokens, *like.shape[2:])
        return [(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(self._depth)]


class Tape:
    """One recorded pass, and the tensors that it reads."""

    def __init__(self, now: Moving, noisy: AV, t: AV, r: AV) -> None:
        self.now = _own(now)
        self._holds: Moving | None = now
        self._given = noisy.map(torch.clone), t.map(torch.clone), r.map(torch.clone)
        self._play: Callable[[], object] = lambda: None
        self._made: AV | None = None

    def record(self, work: Callable[[AV, AV, AV], AV], pool: Any) -> Any:
        """Record the work; returns the memory that it shares with other recordings, of which one plays at a time."""

        def run() -> None:
            self._made = work(*self._given)

        device = self._given[0].items()[0][1].device
        if device.type != "cuda":
            self._play = run
            return None
        beside = torch.cuda.Stream(device)
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(WARM):
                run()
        torch.cuda.current_stream(device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # other threads may use the GPU meanwhile
            run()
        self._play = graph.replay
        return graph.pool()

    def play(self, now: Moving, noisy: AV, t: AV, r: AV) -> AV:
        """The pass with these contents."""
        if now is not self._holds:
            self._holds = None  # until they are whole
            for mine, new in zip(_contents(self.now), _contents(now), strict=True):
                mine.copy_(new)
            self._holds = now
        for mine, new in zip(self._given, (noisy, t, r), strict=True):
            mine.map(lambda x, y: x.copy_(y), new)
        self._play()
        assert self._made is not None
        return self._made.map(torch.clone)  # the next pass writes where it lies


def _own(now: Moving) -> Moving:
    """The same with tensors of its own where a chunk has other contents."""

    def turn(x: Rotation) -> Rotation:
        return Rotation(x.cos.clone(), x.sin.clone())

    seats = {
        name: replace(seat, spot=replace(seat.spot, rotation=turn(seat.spot.rotation)), text_BNW=seat.text_BNW.clone())
        for name, seat in now.seats.items()
    }
    text = now.text
    if not now.whole:
        text = {name: replace(x, keys_values=[(k.clone(), v.clone()) for k, v in x.keys_values]) for name, x in text.items()}
    return replace(now, seats=seats, text=text, turn=turn(now.turn))


def _contents(now: Moving) -> list[Tensor]:
    """The tensors that `_own` copies."""
    rotations = [now.turn, *(seat.spot.rotation for seat in now.seats.values())]
    found = [x for turn in rotations for x in (turn.cos, turn.sin)] + [seat.text_BNW for seat in now.seats.values()]
    if not now.whole:
        found += [x for text in now.text.values() for kv in text.keys_values for x in kv]
    return found
